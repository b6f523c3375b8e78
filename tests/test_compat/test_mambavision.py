"""Code that nobody here wrote: NVIDIA's mambavision runs on a CPU with the stand-in for mamba-ssm."""

import importlib
import importlib.util
import sys

import pytest
import torch

from mmdefmamba.compat import provide_mamba_ssm
from mmdefmamba.ops import use_backend

pytest.importorskip('einops')
pytest.importorskip('timm')
if importlib.util.find_spec('mambavision') is None:
    pytest.skip('mambavision is not installed: pip install --no-deps mambavision==1.2.0', allow_module_level=True)


def run(model, images, backend):
    """Return the scores and the gradients of all parameters by name."""
    with use_backend(backend):
        scores = model(images)
    weight = torch.randn(scores.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    loss = (scores * weight.to(scores.dtype)).sum()
    names, parameters = zip(*model.named_parameters(), strict=True)
    return scores.detach(), dict(zip(names, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True))


def test_tiny_model_runs_forward_and_backward_as_on_the_reference_scan():
    with provide_mamba_ssm():
        assert 'mambavision' not in sys.modules
        create_model = importlib.import_module('mambavision').create_model
    torch.manual_seed(0)
    model = create_model('mamba_vision_T').eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    scores, gradients = run(model, images, 'auto')
    exact_scores, exact = run(model.double(), images.double(), 'reference')
    plain_scores, plain = run(model.float(), images, 'reference')
    # the model in float32 on the reference differs from float64 by its own rounding: ours may differ by twice that
    rounding = (plain_scores - exact_scores).abs().max()
    assert 0 < rounding < 1e-4 * exact_scores.abs().max()
    assert (scores - exact_scores).abs().max() <= 2 * rounding
    scans = [name for name in exact if any(part in name for part in ('A_log', 'dt_proj', 'x_proj', '.D'))]
    assert len(scans) > 20 and all(exact[name].abs().max() > 0 for name in scans)
    for name, want in exact.items():
        if want is not None:
            limit = 2 * (plain[name] - want).norm() + 1e-6 * want.norm()
            assert (gradients[name] - want).norm() <= limit, name
