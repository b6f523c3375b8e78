import re

import torch

from mmdefmamba.ops import auto_backend
from mmdefmamba.quickstart import classification

SMALL = {
    'model.backbone.arch.depths': (1, 1, 1, 1),
    'max_epochs': 2,
    'train_cfg.max_epochs': 2,
    'train_cfg.val_interval': 2,
    'param_scheduler': [],
    'train_dataloader.dataset.indices': 640,
}


def test_quickstart_learns_tests_and_draws(tmp_path, capsys):
    accuracy = classification.run(tmp_path, SMALL)
    table = capsys.readouterr().out.split('DefMamba pico on handwritten digits')[1]
    assert accuracy > 30, 'two epochs on half of the data are far from chance, 10 %'
    assert f'{accuracy:.2f} %' in table and 'FLOPs at 32 x 32' in table
    backend, _ = auto_backend(torch.zeros(1))
    assert re.search(rf'selective scan backend +{backend}\b', table)
    assert (tmp_path / 'digits.png').stat().st_size > 10_000
    validated = [line for log in tmp_path.glob('*/*.json') for line in log.read_text().splitlines()]
    assert any(f'"accuracy/top1": {accuracy}' in line for line in validated), 'the test repeats the last validation'
