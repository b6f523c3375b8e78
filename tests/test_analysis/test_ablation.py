import json

from mmengine.config import Config

from mmdefmamba.analysis import ablation

OPTIONS = {
    'model.backbone.arch.depths': (1, 1, 1, 1),
    'max_epochs': 1,
    'train_cfg.max_epochs': 1,
    'train_cfg.val_interval': 1,
    'param_scheduler': [],
    'train_dataloader.dataset.indices': 128,
    'val_dataloader.dataset.indices': 60,
}


def test_a_run_is_reproducible_and_kept(tmp_path, monkeypatch):
    cfg = Config.fromfile('configs/classification/defmamba_pico_digits.py')
    cfg.merge_from_dict(OPTIONS)
    results = [ablation.run_once(cfg, 3, tmp_path / name) for name in ('first', 'second')]
    assert results[0] == results[1] and 0 <= results[0]['accuracy/top1'] <= 100
    assert cfg.randomness.seed == 0, 'the config is not changed'
    # what was run is not run again
    monkeypatch.delattr(ablation, 'Runner')
    assert ablation.run_once(cfg, 3, tmp_path / 'first') == results[0]
    assert json.loads((tmp_path / 'first/seed_3/result.json').read_text()) == results[0]


def test_summary_by_hand():
    table = ablation.summarise({'a': [{'top1': 97.0}, {'top1': 99.0}], 'b': [{'top1': 50.0}]})
    assert table.splitlines() == [
        '| config | seeds | top1 |',
        '|---|---|---|',
        '| a | 2 | 98.00 ± 1.41 (97.00, 99.00) |',
        '| b | 1 | 50.00 ± - (50.00) |',
    ]
