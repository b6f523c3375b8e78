import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PICO = ROOT / 'configs/classification/defmamba_pico_digits.py'
# 128 images in batches of 32 make 4 iterations per epoch. 61 images do not divide evenly between two processes.
TINY = f"""
_base_ = {str(PICO)!r}
model = dict(
    backbone=dict(arch=dict(_delete_=True, embed_dims=(8, 8, 16, 16), depths=(1, 1, 1, 1))),
    head=dict(in_channels=16),
)
train_dataloader = dict(batch_size=32, dataset=dict(indices=128))
val_dataloader = dict(batch_size=16, dataset=dict(indices=61))
test_dataloader = dict(batch_size=16, dataset=dict(indices=61))
train_cfg = dict(max_epochs=2, val_interval=1)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=1, max_keep_ckpts=-1))
"""


@pytest.fixture(scope='session')
def tiny_config(tmp_path_factory):
    path = tmp_path_factory.mktemp('config') / 'tiny.py'
    path.write_text(TINY)
    return path


@pytest.fixture(scope='session')
def trained(tools, tiny_config, tmp_path_factory):
    """Return the work dir of a training of two epochs."""
    work_dir = tmp_path_factory.mktemp('trained')
    tools['train']([str(tiny_config), '--work-dir', str(work_dir)])
    return work_dir


@pytest.fixture(scope='session')
def logged():
    """Return ``read(work_dir)``: the lines that its latest run logged in training and in validation, as dicts."""

    def read(work_dir):
        latest = max(Path(work_dir).glob('*/vis_data/scalars.json'))
        lines = [json.loads(line) for line in latest.read_text().splitlines()]
        return [line for line in lines if 'loss' in line], [line for line in lines if 'accuracy/top1' in line]

    return read
