"""The log of a training starts with a summary; long lists are in a file of their own."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFIG = f"""
_base_ = {str(ROOT / 'configs/classification/defmamba_pico_digits.py')!r}
train_dataloader = dict(batch_size=32, dataset=dict(indices=64))
val_dataloader = dict(batch_size=16, dataset=dict(indices=16))
test_dataloader = val_dataloader
model = dict(backbone=dict(arch=dict(_delete_=True, embed_dims=(8, 8, 16, 128), depths=(1, 1, 1, 1)), frozen_stages=1))
train_cfg = dict(max_epochs=1, val_interval=1)
"""


@pytest.fixture
def start(tools, tmp_path, capsys):
    """``start(*options)`` trains and returns the console's text, the text of the log, and the details, or None."""

    def run(*options):
        (tmp_path / 'small.py').write_text(CONFIG)
        work_dir = tmp_path / 'work'
        tools['train']([str(tmp_path / 'small.py'), '--work-dir', str(work_dir), *options])
        (log,) = work_dir.glob('*/*.log')
        details = log.with_suffix('.details.txt')
        return capsys.readouterr().out, log.read_text(), details.read_text() if details.exists() else None

    return run


def test_a_training_starts_with_a_summary(start, tmp_path):
    console, log, details = start()
    assert len(log.splitlines()) < 40 and len(console.splitlines()) < 40
    for text in (console, log):
        assert 'start of the training:' in text
        assert re.search(r'model: ImageClassifier, [\d,]+ parameters, [\d,]+ of them trained', text)
        assert 'training data: Digits, 64 images, 10 classes, batches of 32' in text
        assert 'validation data: Digits, 16 images, 10 classes, batches of 16' in text
        assert 'length: 1 epochs, 2 iterations, from iteration 0' in text
        assert f'checkpoints: {tmp_path / "work"}, every 6 epochs, the last 1 are kept' in text
        assert f'config with its bases and options merged: {tmp_path / "work/small.py"}' in text
    # the groups of the optimizer are all trained parameters
    trained = int(re.search(r'parameters, ([\d,]+) of them trained', log)[1].replace(',', ''))
    groups = re.findall(r'lr 0\.002, weight decay (\S+): ([\d,]+) parameters', log)
    assert [decay for decay, _ in groups] == ['0.05', '0']
    assert sum(int(count.replace(',', '')) for _, count in groups) == trained
    # nothing is lost
    for part in ('System environment', 'Config:\n', 'Hooks will be executed', 'paramwise_options -- head.fc.bias'):
        assert part in details and part not in log
    assert 'head.fc.weight - torch.Size([10, 128])' in details and 'head.fc.weight - ' not in log
    assert 'backbone.stem.0.conv.weight is skipped since its requires_grad=False' in details
    assert '.details.txt' in log and '.details.txt' in console
    assert (tmp_path / 'work/small.py').is_file()


def test_log_level_debug_shows_everything(start):
    console, log, details = start('--cfg-options', 'log_level=DEBUG')
    assert details is None
    assert 'start of the training:' in log and 'Config:\n' in console and 'paramwise_options -- head.fc.bias' in log


def test_a_test_says_where_its_config_is(tools, tmp_path, pico_checkpoints, capsys):
    name, checkpoint = pico_checkpoints['classification']
    config = ROOT / f'configs/classification/{name}.py'
    options = ['--cfg-options', 'test_dataloader.dataset.indices=4']
    tools['test']([str(config), str(checkpoint), '--work-dir', str(tmp_path), *options])
    (details,) = tmp_path.glob('*/*.details.txt')
    console = capsys.readouterr().out
    assert str(details) in console and 'Config:' not in console and 'start of the training' not in console
    assert 'Config:\n' in details.read_text()
