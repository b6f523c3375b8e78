"""Losses that become NaN or infinite, and checkpoints that do not fit, in runs of the tools."""

import os
import pickle
from pathlib import Path

import pytest
import torch

TASKS = ('classification', 'detection', 'segmentation')
EXPLODE = ['optim_wrapper.optimizer.lr=1e30', 'optim_wrapper.clip_grad=None']


@pytest.fixture(scope='module', params=TASKS)
def trained(request, tiny_class, tools, tmp_path_factory):
    """Return a dataset, the path of its checkpoint and the content of this checkpoint."""
    data = tiny_class(request.param, tmp_path_factory.mktemp(request.param), tools)
    data.train()
    file = Path((data.work_dir / 'last_checkpoint').read_text())
    return data, file, torch.load(file, weights_only=False)


@pytest.mark.parametrize('task', TASKS)
def test_diverged_training_stops(tiny, task):
    data = tiny(task)
    options = ['train_cfg.max_iters=4'] if task == 'segmentation' else ['train_cfg.max_epochs=2']
    with pytest.raises(FloatingPointError, match=r'iteration \d: .*loss (nan|inf).* weights are no longer finite'):
        data.train(*EXPLODE, *options)
    # the training stopped before such weights were saved
    for file in data.work_dir.glob('*.pth'):
        state = torch.load(file, weights_only=False)['state_dict']
        assert all(weight.isfinite().all() for weight in state.values())


SPOILS = {
    'lacks the backbone': lambda state: {k: v for k, v in state.items() if not k.startswith('backbone.')},
    'other names': lambda state: {f'x.{k}': v for k, v in state.items()},
    'other shapes': lambda state: {k: v[..., None] for k, v in state.items()},
    'not finite': lambda state: {k: v * torch.nan if v.is_floating_point() else v for k, v in state.items()},
}
MESSAGES = {
    'lacks the backbone': r'it fills \d+ of \d+ parameters and buffers; \d+ missing in the checkpoint: backbone\.',
    'other names': r'it fills 0 of \d+ .*\d+ in the checkpoint but not in the model: x\.',
    'other shapes': r'\d+ with another shape there: .* instead of',
    'not finite': r'holds NaN or infinite values in \d+ parameters, such as backbone\.',
}


@pytest.mark.parametrize('spoil', SPOILS)
def test_a_checkpoint_that_does_not_fit_is_refused(trained, spoil):
    data, file, good = trained
    torch.save(dict(good, state_dict=SPOILS[spoil](good['state_dict'])), file)
    try:
        with pytest.raises(ValueError, match=MESSAGES[spoil]):
            data.test()
        with pytest.raises(ValueError, match=MESSAGES[spoil]):
            data.train(args=['--resume', str(file)])
        if spoil == 'lacks the backbone':  # fine-tuning may start from a part of the weights
            assert data.train(f'load_from={file}')
        else:
            with pytest.raises(ValueError, match=MESSAGES[spoil]):
                data.train(f'load_from={file}')
    finally:
        (data.work_dir / 'last_checkpoint').write_text(str(file))
        torch.save(good, file)


@pytest.mark.parametrize('content', [[1], 3, {'state_dict': 'text'}])
def test_a_checkpoint_without_parameters_is_refused(trained, content):
    data, file, good = trained
    torch.save(content, file)
    try:
        with pytest.raises(
            (ValueError, RuntimeError), match=rf'{file} (must hold weights by name|does not fit|cannot be read)'
        ):
            data.test()
    finally:
        torch.save(good, file)


def test_code_in_a_checkpoint_is_refused_and_does_not_run(trained, creates_file, monkeypatch, tmp_path):
    data, file, good = trained
    monkeypatch.chdir(tmp_path)
    torch.save(dict(good, meta=creates_file('attacked', os.mkdir)), file)
    try:
        init = ['model.backbone.init_cfg.type=Pretrained', f'model.backbone.init_cfg.checkpoint={file}']
        runs = [
            data.test,
            lambda: data.train(args=['--resume', str(file)]),
            lambda: data.train(f'load_from={file}'),
            lambda: data.train(*init),
        ]
        for run in runs[: 3 if data.task == 'segmentation' else 4]:  # its config has another kind of init_cfg
            with pytest.raises(pickle.UnpicklingError, match=r'mkdir\. Only tensors and plain data are loaded'):
                run()
            assert not any(tmp_path.iterdir())
        torch.load(file, weights_only=False)
        assert any(tmp_path.iterdir()), 'the file would do no harm: this test proves nothing'
    finally:
        torch.save(good, file)
