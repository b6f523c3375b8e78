"""The networks that the benchmarks compare, and one step of each."""

import importlib.util

import torch
import torchvision
from loops import materialising_loop
from timing import autocast, recorded

from mmdefmamba.compat import provide_mamba_ssm
from mmdefmamba.models import ARCHITECTURES, DefMamba
from mmdefmamba.ops import BACKENDS, unavailable_reason, use_backend

TORCHVISION = ('swin_t', 'convnext_t')
# of PyPI's mambavision, with mmdefmamba's scan in the place of mamba-ssm's where that does not run
MAMBAVISION = 'mamba_vision_t'
# Upper bounds in images/s (inference, forward + backward) from a model of an H200 in bfloat16 with batch 128 at
# 224 x 224. They are calculated, not measured.
H200_LIMITS = {'tiny': (51_000, 15_000), 'small': (23_000, 7_100), 'base': (14_000, 4_400)}
NAMES = [*ARCHITECTURES, *(f'{arch}:{backend}' for arch in ARCHITECTURES for backend in [*BACKENDS, 'loop'])]
NAMES += [*TORCHVISION, MAMBAVISION]


def build(name, device):
    """Return a network of ``NAMES``.

    'small' takes the backend that 'auto' chooses, 'small:triton' the named one, 'small:loop' the loop of ``loops.py``.
    """
    torch.manual_seed(0)
    if name in TORCHVISION:
        return getattr(torchvision.models, {'swin_t': 'swin_t', 'convnext_t': 'convnext_tiny'}[name])().to(device)
    if name == MAMBAVISION:
        with provide_mamba_ssm():
            from mambavision import create_model
        return create_model('mamba_vision_T').to(device)
    arch, _, backend = name.partition(':')
    backend = 'auto' if backend in ('', 'loop') else backend
    return DefMamba(arch, out_indices=(3,), scan_backend=backend).to(device)


def unavailable(name, device, dtype):
    """Return why a network cannot run here, or None if it can."""
    if name == MAMBAVISION and importlib.util.find_spec('mambavision') is None:
        return 'mambavision is not installed: pip install --no-deps mambavision==1.2.0; pip install timm einops'
    backend = name.partition(':')[2]
    if backend in ('', 'loop'):
        return None
    return unavailable_reason(backend, torch.empty(1, device=device, dtype=dtype))


def make_step(name, model, images, dtype, training, mode):
    """Return a function that runs one step.

    Args:
        training: run forward and backward, with a loss that reaches all parameters, instead of inference.
        mode: 'eager', 'compile' (torch.compile) or 'graph' (CUDA graph).
    """
    device = images.device.type
    model.train(training)
    network = torch.compile(model) if mode == 'compile' else model
    parameters = [p for p in model.parameters() if p.requires_grad]

    def run():
        with autocast(device, dtype):
            out = network(images)
        return out if isinstance(out, torch.Tensor) else out[-1]

    def infer():
        with torch.no_grad():
            return run()

    def train():
        loss = run().float().square().mean()
        return torch.autograd.grad(loss, parameters)

    def looped():
        with use_backend(materialising_loop):
            return infer()

    step = train if training else looped if name.endswith(':loop') else infer
    return recorded(step) if mode == 'graph' else step
