import csv
import json
import math
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from scipy.stats import ttest_rel

from mmdefmamba.cli import ablation as tool
from mmdefmamba.paper import ablation_runs as ablation

OPTIONS = {
    'model.backbone.arch.depths': (1, 1, 1, 1),
    'max_epochs': 1,
    'train_cfg.max_epochs': 1,
    'train_cfg.val_interval': 1,
    'param_scheduler': [],
    'train_dataloader.dataset.indices': 128,
    'val_dataloader.dataset.indices': 60,
}
RESULTS = {'a': [{'top1': 97.0}, {'top1': 99.0}], 'b': [{'top1': 50.0}]}
COSTS = {'a': {'params': 1_234_567, 'flops': 2.5e9, 'flops_without_scan': 2e9, 'img/s': 1234.4}}


def test_run_is_reproducible_and_its_result_is_saved(tmp_path, monkeypatch):
    cfg = Config.fromfile('configs/classification/defmamba_pico_digits.py')
    cfg.merge_from_dict(OPTIONS)
    results = [ablation.run_once(cfg, 3, tmp_path / name) for name in ('first', 'second')]
    assert results[0] == results[1] and 0 <= results[0]['accuracy/top1'] <= 100
    assert cfg.randomness.seed == 0, 'the config is not changed'
    # a finished run is not run again
    monkeypatch.delattr(ablation, 'Runner')
    assert ablation.run_once(cfg, 3, tmp_path / 'first') == results[0]
    assert json.loads((tmp_path / 'first/seed_3/result.json').read_text()) == results[0]
    # and it is not taken for a run with other settings
    cfg.merge_from_dict({'optim_wrapper.optimizer.lr': 0.5, 'model.backbone.dw_conv': False})
    with pytest.raises(
        ValueError, match=r'first/seed_3 has a run .* 2 settings differ: model.backbone.dw_conv \(not set'
    ):
        ablation.run_once(cfg, 3, tmp_path / 'first')


def test_numbers_of_numpy_and_torch_are_saved(tmp_path, monkeypatch):
    """mmseg's evaluators return NumPy's numbers. Such a run ended with an error after its training."""

    class Trained:
        def register_hook(self, hook):
            self.hook = hook

        def train(self):
            self.hook.after_val_epoch(self, metrics={'mIoU': np.float32(45.5), 'accuracy': torch.tensor(0.25)})

    monkeypatch.setattr(ablation, 'Runner', SimpleNamespace(from_cfg=lambda cfg: Trained()))
    cfg = Config.fromfile('configs/segmentation/upernet_defmamba_pico_digits.py')
    assert ablation.run_once(cfg, 0, tmp_path) == {'mIoU': 45.5, 'accuracy': 0.25}


def test_table_by_hand(tmp_path):
    text = ablation.write_table(tmp_path / 'new', RESULTS, COSTS)
    assert text.splitlines() == [
        '| config | seeds | top1 | to a | params | FLOPs | with the scan | img/s |',
        '| --- | --- | --- | --- | --- | --- | --- | --- |',
        '| a | 2 | 98.00 ± 1.41 (97.00, 99.00) |  | 1.235 M | 2.000 G | 2.500 G | 1,234 |',
        '| b | 1 | 50.00 ± - (50.00) | -47.00 ± - | - | - | - | - |',
    ]
    assert (tmp_path / 'new/table.md').read_text() == text + '\n'
    with (tmp_path / 'new/table.csv').open() as file:
        first, second = csv.DictReader(file)
    assert first['config'] == 'a' and float(first['top1']) == 98 and first['top1 each'] == '97.0 99.0'
    assert float(first['top1 std']) == pytest.approx(2**0.5) and float(first['img/s']) == 1234.4
    assert (second['seeds'], second['top1 std'], second['top1 gain'], second['params']) == ('1', '', '-47.0', '')
    assert (tmp_path / 'new/table.png').read_bytes()[:4] == b'\x89PNG'


def test_fractions_have_three_decimals_and_metrics_can_be_chosen(tmp_path):
    results = {'a': [{'mAP': 0.54, 'mAP_s': -1.0, 'mIoU': 61.25}], 'b': [{'mAP': 0.5512, 'mAP_s': -1.0, 'mIoU': 60.0}]}
    text = ablation.write_table(tmp_path, results, metrics=['mIoU', 'mAP'])
    assert text.splitlines()[2:4] == [
        '| a | 1 | 61.25 ± - (61.25) |  | 0.540 ± - (0.540) |  |',
        '| b | 1 | 60.00 ± - (60.00) | -1.25 ± - | 0.551 ± - (0.551) | +0.011 ± - |',
    ]
    with pytest.raises(ValueError, match=r"no metric 'mAp'\. They have: mAP, mAP_s, mIoU"):
        ablation.write_table(tmp_path, results, metrics=['mAp'])


def test_f_ratio_by_hand():
    # gains of b over a: 1, 2, 3, mean 2; the effect of the last seed on both, 10, is not noise
    # between configs: 3 * (1 + 1) / 1; the residuals are -1/2, 0 and 1/2 for each config: 4 * 1/4 / 2
    results = {'a': [{'top1': x} for x in (0.0, 1.0, 11.0)], 'b': [{'top1': x} for x in (1.0, 3.0, 14.0)]}
    ratio, probability = ablation.f_ratio(results, 'top1')
    assert ratio == pytest.approx(6 / 0.5)
    # for two configs F is the square of the paired t, here 2 / (1 / sqrt(3))
    assert probability == pytest.approx(float(ttest_rel([0, 1, 11], [1, 3, 14]).pvalue))
    gain = ablation.summarise(results)[1]
    assert (gain['top1 gain'], gain['top1 gain std']) == (2, 1)
    # seeds that a config does not have yet are not used
    longer = {'a': [*results['a'], {'top1': 99.0}], 'b': results['b']}
    assert ablation.f_ratio(longer, 'top1') == (ratio, probability)
    assert ablation.f_ratio(RESULTS, 'top1') == (None, None)
    assert ablation.f_ratio({'a': [{'top1': 1.0}] * 2, 'b': [{'top1': 2.0}] * 2}, 'top1') == (None, None)


def test_paired_tests_by_hand():
    """The gains are 1, 2, 3 (t = 2 sqrt 3), 1, 0, -1 (t = 0), 4, 4, 4 (not tested) and 10, 11, 12 (t = 11 sqrt 3)."""
    gains = {'a': (0, 0, 0), 'b': (1, 2, 3), 'c': (1, 0, -1), 'd': (4, 4, 4), 'e': (10, 11, 12)}
    results = {
        n: [{'top1': base + gain} for base, gain in zip((5, 9, 1), each, strict=True)] for n, each in gains.items()
    }
    found = ablation.paired_tests(results, 'top1')
    assert found.keys() == {'b', 'c', 'e'}

    def two_sided(t):  # Student's t with two degrees of freedom
        return 1 - t / math.sqrt(2 + t * t)

    p = {'b': two_sided(2 * 3**0.5), 'c': 1.0, 'e': two_sided(11 * 3**0.5)}
    assert {name: values[0] for name, values in found.items()} == pytest.approx(p)
    # Holm: the smallest of 3 times 3, the next times 2, the last times 1, none smaller than the one before
    assert [found[name][1] for name in 'ebc'] == pytest.approx([3 * p['e'], 2 * p['b'], 1.0])
    assert [found[name][2] for name in 'bce'] == pytest.approx([2, 0, 11])
    assert ablation.paired_tests(RESULTS, 'top1') == {}
    assert ablation.paired_tests({'a': RESULTS['a']}, 'top1') == {}
    # equal p: the larger factor holds for both
    twice = {'a': results['a'], 'b': results['b'], 'x': results['b']}
    assert [values[1] for values in ablation.paired_tests(twice, 'top1').values()] == pytest.approx([2 * p['b']] * 2)


def test_tests_and_times_stand_in_the_table(tmp_path):
    results = {'a': [{'top1': x} for x in (5.0, 9.0, 1.0)], 'b': [{'top1': x} for x in (6.0, 11.0, 4.0)]}
    lines = ablation.write_table(tmp_path, results, {'b': {'train s': 61.4}}).splitlines()
    assert lines[0] == '| config | seeds | top1 | to a | p | p by Holm | effect | train s |'
    assert lines[3] == '| b | 3 | 7.00 ± 3.61 (6.00, 11.00, 4.00) | +2.00 ± 1.00 | 0.074 | 0.074 | +2.0 | 61 |'
    for seed, seconds in ((0, 10.5), (2, 20.0), (3, 1.0)):
        (tmp_path / f'seed_{seed}').mkdir()
        (tmp_path / f'seed_{seed}/seconds.json').write_text(str(seconds))
    assert ablation.seconds_of(tmp_path, 3) == [10.5, 20.0]


def test_costs_are_counted_and_timed_at_the_size_of_the_config():
    cfgs = {}
    for name in ('fb', 'fb_raster'):
        cfgs[name] = Config.fromfile(f'configs/classification/ablation/pico_digits/{name}.py')
    cfgs['fb_raster'].image_size = (32, 32)
    cfgs['peer'] = Config.fromfile('configs/classification/fashion_mnist_peers/convnext_pico_params.py')
    costs = ablation.measure_costs(cfgs, rounds=1, batch=2)
    assert costs['fb']['params'] == 26_650 and costs['fb_raster']['params'] == 29_210
    assert all(cost['img/s'] > 0 and cost['img/s trained'] > 0 for cost in costs.values())
    larger = ablation.measure_costs(cfgs, shape=(64,), rounds=0)
    # with four times the pixels everything but the head needs four times the FLOPs
    head = 10 * 32
    assert larger['fb']['flops'] - head == 4 * (costs['fb']['flops'] - head)
    assert 'img/s' not in larger['fb']


def test_the_tool_goes_through_all_configs_before_the_next_seed(tmp_path, monkeypatch, capsys):
    runs = []

    def run_once(cfg, seed, work_dir):
        runs.append((work_dir.relative_to(tmp_path), seed, cfg.model.backbone.dw_conv))
        return {'top1': float(seed)}

    # where the tool calls them: another test of this process may have imported the tool
    monkeypatch.setattr(tool, 'run_once', run_once)
    monkeypatch.setattr(tool, 'measure_costs', lambda cfgs, *_: {name: {'params': 1} for name in cfgs})
    main = runpy.run_path('tools/ablation.py')['main']
    folder = 'configs/classification/ablation/pico_digits'
    options = ['--work-dir', str(tmp_path), '--cfg-options', 'model.backbone.dw_conv=False']
    main([f'{folder}/fb.py', f'{folder}/db.py', '--seeds', '2', *options])
    assert runs == [(Path(name), seed, False) for seed in (0, 1) for name in ('fb', 'db')]
    assert (tmp_path / 'table.md').read_text().splitlines()[2] == '| fb | 2 | 0.500 ± 0.707 (0.000, 1.000) |  | 1 |'
    with pytest.raises(SystemExit):
        main([f'{folder}/fb.py', 'configs/classification/ablation/tiny_in1k/fb.py', *options])
    assert 'two configs have the same file name, so their runs would share a folder' in capsys.readouterr().err
