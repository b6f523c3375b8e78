"""What runs a function for another purpose than its values: then only PyTorch's own operators may be called."""

import torch
from torch.autograd import forward_ad


def is_transformed():
    """Return whether something looks at the operators that are called, or calls them with other rules.

    That is torch.compile, torch.export and torch.jit.trace; torch.func and forward mode gradients; and every dispatch
    mode, such as fake tensors, make_fx and FLOP counters. They know PyTorch's public operators, and none of ours.
    """
    return bool(
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._len_torch_dispatch_stack()
        or has_function_transforms()
    )


def has_function_transforms():
    """Return whether torch.func or forward mode gradients are active. Our registered operators do not know them."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_float32_on_cpu(*tensors):
    """Return whether all are float32 tensors on a CPU, stored plainly, and of no class of their own. None is skipped.

    Under autocast the answer is no: there PyTorch computes in another dtype.
    """
    return not torch.is_autocast_enabled('cpu') and all(
        type(x) in (torch.Tensor, torch.nn.Parameter)
        and x.device.type == 'cpu'
        and x.dtype == torch.float32
        and x.layout == torch.strided
        for x in tensors
        if x is not None
    )
