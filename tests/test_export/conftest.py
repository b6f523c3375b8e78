"""Networks for the tests of exported files, with weights under which their scans matter."""

import pytest
import torch
from mmengine.utils import digit_version

from mmdefmamba.export.export_model import OLDEST_TORCH


@pytest.fixture(scope='session', autouse=True)
def new_exporter():
    """Skip the tests with a PyTorch that is too old for the export, which refuses it."""
    if digit_version(torch.__version__) < digit_version(OLDEST_TORCH):
        pytest.skip(f'the export needs PyTorch {OLDEST_TORCH}')


@torch.no_grad()
def make_lively(model, seed=0):
    """Give every layer weights of its fan-in, decay rates from 0.14 to 2.7, and biases.

    With initial weights a block is a small part of its residual, and an error in it would be invisible.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(p, scale):
        p.copy_(torch.randn(p.shape, generator=generator) * scale)

    for name, p in model.named_parameters():
        if name.endswith('A_log'):
            p.copy_(torch.rand(p.shape, generator=generator) * 3 - 2)
        elif name.endswith('table'):
            normal(p, 0.1)
        elif name.endswith('dt_proj_bias'):
            normal(p, 0.5)  # time steps of about 0.7
        elif name.endswith('x_proj_weight'):
            normal(p, 2 * p.shape[-1] ** -0.5)
        elif p.ndim == 4:
            normal(p, p[0].numel() ** -0.5)
        elif p.ndim >= 2:
            normal(p, p.shape[-1] ** -0.5)
        elif name.endswith('bias'):
            normal(p, 0.1)
    return model.eval()


@pytest.fixture
def lively():
    return make_lively
