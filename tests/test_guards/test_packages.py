"""Optional packages that are not installed: the error names the package and the command that installs it."""

import sys

import numpy as np
import pytest
import torch

from mmdefmamba.ops.sequence_scan import selective_scan


@pytest.fixture
def without(monkeypatch):
    """Return ``without(name)``, which makes a package look as if it were not installed."""

    def without(name):
        for module in [module for module in sys.modules if module.split('.')[0] == name]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setitem(sys.modules, name, None)

    return without


def scan(backend, device='cpu'):
    u = torch.rand(1, 2, 3, device=device)
    return selective_scan(u, u, -torch.rand(2, 1), torch.rand(1, 1, 1, 3), torch.rand(1, 1, 1, 3), backend=backend)


def test_missing_mamba_ssm_error_says_how_to_build_it():
    from mmdefmamba.ops.sequence_scan import mamba_ssm

    with pytest.raises(RuntimeError, match="backend 'mamba_ssm' cannot run: it needs CUDA tensors"):
        scan('mamba_ssm')

    class OnGPU:
        is_cuda, dtype = True, torch.float32

    if not mamba_ssm.INSTALLED:
        assert 'make mamba-recipe' in mamba_ssm.unavailable_reason(OnGPU)


def test_missing_scikit_learn_error_gives_pip_command(without):
    from mmdefmamba.datasets.digits import load_digits_split

    without('sklearn')
    with pytest.raises(ImportError, match='pip install scikit-learn'):
        load_digits_split('train')


@pytest.mark.parametrize(('backend', 'package'), [('tifffile', 'tifffile'), ('turbojpeg', 'PyTurboJPEG')])
def test_missing_image_decoder_error_gives_pip_command(backend, package, tmp_path, monkeypatch, loading_guards):
    import cv2
    import mmcv
    from mmcv.transforms import LoadImageFromFile

    for name in ('tifffile', 'TurboJPEG'):
        monkeypatch.setattr(mmcv.image.io, name, None)
    path = tmp_path / 'image.png'
    cv2.imwrite(str(path), np.zeros((4, 4, 3), np.uint8))
    for ignore in (False, True):  # a missing package does not count as a damaged image
        with pytest.raises(ImportError, match=f"imdecode_backend='{backend}' needs {package}: pip install {package}"):
            LoadImageFromFile(imdecode_backend=backend, ignore_empty=ignore).transform({'img_path': str(path)})


@pytest.mark.parametrize(
    ('backend', 'module', 'line'),
    [
        ('TensorboardVisBackend', 'torch.utils.tensorboard', 'pip install future tensorboard'),
        ('WandbVisBackend', 'wandb', 'pip install wandb'),
    ],
)
def test_missing_logger_package_error_gives_pip_command(backend, module, line, tmp_path, monkeypatch):
    from mmengine.registry import VISBACKENDS

    for name in (module, 'tensorboardX'):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=line):
        _ = VISBACKENDS.build(dict(type=backend, save_dir=str(tmp_path))).experiment
