"""The networks that the benchmarks compare, and one step of each."""

import importlib.util

import torch
from loops import materialising_loop
from timing import autocast, recorded

from mmdefmamba.compat import provide_mamba_ssm
from mmdefmamba.models import ARCHITECTURES, DefMamba
from mmdefmamba.ops import BACKENDS, unavailable_reason, use_backend

TORCHVISION = ('swin_t', 'convnext_t')
# of PyPI's mambavision, with mmdefmamba's scan in the place of mamba-ssm's where that does not run
MAMBAVISION = 'mamba_vision_t'
#: arch -> (scan, rest) in microseconds per image, in inference and in forward + backward, by a model of an H200 in
#: bfloat16 at 224 x 224, batch 128. They are calculated, not measured.
MODEL = {'tiny': ((10.9, 8.8), (38, 29)), 'small': ((23.1, 20), (76, 65)), 'base': ((37.7, 33), (122, 105))}
#: multiprocessors and TB/s of that H200
MODEL_DEVICE = (132, 4.3)
NAMES = [*ARCHITECTURES, *(f'{arch}:{backend}' for arch in ARCHITECTURES for backend in [*BACKENDS, 'loop'])]
NAMES += [*TORCHVISION, MAMBAVISION]


def limit_of(arch, training, multiprocessors, bandwidth):
    """Return the most images/s that a device could process, by the model: the scan at its special function units' rate.

    Args:
        arch: 'tiny', 'small' or 'base'.
        training: forward + backward instead of inference.
        multiprocessors: their number; their clock is taken to be that of the model, 1.7 GHz.
        bandwidth: measured for copies, TB/s, bytes read plus bytes written.
    """
    scan, rest = MODEL[arch][training]
    return 1e6 / (scan * MODEL_DEVICE[0] / multiprocessors + rest * MODEL_DEVICE[1] / bandwidth)


def build(name, device):
    """Return a network of ``NAMES``.

    'small' takes the backend that 'auto' chooses, 'small:triton' the named one, 'small:loop' the loop of ``loops.py``.
    """
    torch.manual_seed(0)
    if name in TORCHVISION:
        return _torchvision_network(name).to(device)
    if name == MAMBAVISION:
        with provide_mamba_ssm():
            from mambavision import create_model
        return create_model('mamba_vision_T').to(device)
    arch, _, backend = name.partition(':')
    backend = 'auto' if backend in ('', 'loop') else backend
    return DefMamba(arch, out_indices=(3,), scan_backend=backend).to(device)


def _torchvision_network(name):
    """Return Swin-T or ConvNeXt-T; where torchvision is missing, those of timm, which are the same networks."""
    if importlib.util.find_spec('torchvision') is not None:
        import torchvision

        return getattr(torchvision.models, {'swin_t': 'swin_t', 'convnext_t': 'convnext_tiny'}[name])()
    import timm

    print(f'{name} is that of timm: torchvision is not installed')
    return timm.create_model({'swin_t': 'swin_tiny_patch4_window7_224', 'convnext_t': 'convnext_tiny'}[name])


def unavailable(name, device, dtype):
    """Return why a network cannot run here, or None if it can."""
    if name == MAMBAVISION and importlib.util.find_spec('mambavision') is None:
        return 'mambavision is not installed: pip install --no-deps mambavision==1.2.0; pip install timm einops'
    if name in TORCHVISION and not any(importlib.util.find_spec(library) for library in ('torchvision', 'timm')):
        return 'neither torchvision nor timm is installed: pip install torchvision'
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
