"""Every benchmark runs on a CPU at a small size, and leaves a table, a CSV file and a plot."""

import csv
import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'

RUNS = {
    'selective_scan': [
        *('--shape', 1, 2, 4, 4, 1, '--lengths', 1),
        ['selective_scan_float32_1x2x4x4x1', 'length_float32'],
    ],
    'backbone': [
        *('--networks', 'tiny', 'swin_t', '--batch', 1, '--size', 16, 32, '--threads', 1),
        ['backbone_inference_float32'],
    ],
    'busy': [
        *('--networks', 'tiny', '--batch', 1, '--size', 16, '--busy', 1, '--threads', 1),
        ['busy_float32'],
    ],
    'resolution': [
        *('--networks', 'tiny', '--sizes', 16, 32, '--pixels', 256, '--training'),
        ['resolution_training_float32'],
    ],
    'detectors': [
        *('--cfg-options', 'model.train_cfg.rcnn.sampler.num=8', 'model.roi_head.bbox_head.fc_out_channels=16'),
        *('--batch', 1, '--detection-size', 32, 48, '--detectors', 'mask_rcnn', '--backbones', 'small'),
        ['detectors_float32'],
    ],
}


@pytest.mark.usefixtures('quick_interpreter')
@pytest.mark.parametrize('name', RUNS)
def test_benchmark_runs(name, tmp_path, monkeypatch, capsys):
    *arguments, files = RUNS[name]
    monkeypatch.syspath_prepend(BENCHMARKS)
    common = ['--device', 'cpu', '--rounds', '1', '--out', str(tmp_path)]
    monkeypatch.setattr(sys, 'argv', [name, *common, *map(str, arguments)])
    importlib.import_module(name).main()
    output = capsys.readouterr().out
    assert 'CPU' in output and '| --- |' in output
    for file in files:
        assert (tmp_path / f'{file}.png').stat().st_size > 1000
        with open(tmp_path / f'{file}.csv') as opened:
            rows = list(csv.DictReader(opened))
        assert rows and not any(row.get('error') for row in rows), rows
        assert all(float(row.get('ms') or 0) > 0 for row in rows)
