from pathlib import Path

import pytest
import yaml

from mmdefmamba.analysis import config_complexity
from mmdefmamba.paper.tables import PAPER, ROOT, measured_scores, paper_tables


def count(cfg):
    return dict(params=50_921_220, flops_without_scan=268.01e9, flops=273.09e9), (1280, 800)


def test_rows_contain_the_counted_costs():
    lines = paper_tables(['2'], count=count).splitlines()
    assert lines[-6] == '| 2 | DefMamba small | - | 50.92M | 268G | 268.01G | 273.09G | box AP | 47.5 | - |'
    assert len(lines) == 2 + 6 * (9 + 1)
    everything = paper_tables(count=count).splitlines()
    others = 35 + 6 * (9 + 6) + 2 * (12 + 8)
    assert len(everything) == 2 + others + sum(len(row.scores) for row in PAPER) == 2 + others + 3 + 12 + 4 + 5 + 6
    assert sum(line.endswith(' published |') for line in everything) == others
    assert len({line.count('|') for line in everything}) == 1


def test_tiny_is_counted_as_the_paper_prints():
    [row] = (line for line in paper_tables(['1']).splitlines() if 'tiny' in line)
    assert row == '| 1 | DefMamba tiny | 8M | 8.13M | 1.2G | 1.17G | 1.29G | Top 1 Accuracy | 78.6 | - |'


def test_ablations_are_counted():
    real = {'fb_raster', 'fb_points'}
    counted = []

    def some(cfg):
        counted.append(Path(cfg.filename).stem)
        return config_complexity(cfg) if counted[-1] in real else count(cfg)

    lines = paper_tables(['5'], count=some).splitlines()
    assert lines[2] == '| 5 | (1) none | 7.5M | 7.32M | 1.1G | 1.12G | 1.24G | Top 1 Accuracy | 77.0 | - |'
    assert lines[3] == '| 5 | (2) points | 7.5M | 7.38M | 1.2G | 1.17G | 1.29G | Top 1 Accuracy | 77.4 | - |'
    assert len(lines) == 2 + 6 and len(set(counted)) == 6


def test_measured_scores_come_from_the_metafile(tmp_path):
    config = PAPER[0].config
    metafile = (tmp_path / config).with_name('metafile.yml')
    metafile.parent.mkdir(parents=True)
    results = [dict(Task='Image Classification', Metrics={'Top 1 Accuracy': 78.7})]
    metafile.write_text(yaml.safe_dump(dict(Models=[dict(Config=config, Results=results), dict(Config='other')])))
    assert measured_scores(tmp_path, config) == {'Top 1 Accuracy': 78.7}
    assert measured_scores(tmp_path / 'elsewhere', config) == {}
    assert all((ROOT / row.config).is_file() for row in PAPER)


def test_unknown_table_is_refused():
    with pytest.raises(ValueError, match=r"one of \['1', '2', 'B2', '3', 'C3', '4', '5'\], got '7'"):
        paper_tables(['7'], count=count)


def test_compared_methods_stand_where_the_paper_has_them():
    lines = paper_tables(['1', '2', '3', 'B2', 'C3'], count=count).splitlines()
    networks = [line.split(' | ')[1] for line in lines if line.startswith('| 1 |')]
    assert networks[:2] + networks[8:11] + networks[-2:] == [
        *('RegNetY-800M', 'GhostNet 1.3'),
        *('QuadMamba-Li', 'DefMamba tiny', 'RegNetY-4G'),
        *('QuadMamba-B', 'DefMamba base'),
    ]
    for line in (
        '| 1 | Swin-T | 29M | - | 4.5G | - | - | Top 1 Accuracy | 81.3 | published |',
        '| 1 | ViM-S | 26M | - | 5.1G | - | - | Top 1 Accuracy | 81.0 | published |',
        '| 2 | VMamba-T | - | - | 286G | - | - | box AP | 47.4 | published |',
        '| 3 | MSVMamba-T | 65M | - | 942G | - | - | mIoU | 47.6 | published |',
        '| B2 | GrootV-S | - | - | 341G | - | - | box AP | 48.6 | published |',
        '| C3 | PlainMamba-L3 | 81M | - | 419G | - | - | mIoU | 49.1 | published |',
    ):
        assert line in lines
    at = lines.index('| C3 | PlainMamba-L3 | 81M | - | 419G | - | - | mIoU | 49.1 | published |')
    assert lines[at + 1] == '|  |  |  |  |  |  |  | mIoU(ms+flip) | - | published |'


def test_tables_2_and_b2_read_the_scores_of_the_training_at_several_scales():
    assert {row.config for row in PAPER if row.table in ('2', 'B2')} == {
        f'configs/detection/mask_rcnn_defmamba_{size}_ms_1x.py' for size in 'sb'
    }
