"""Whether a layer does only what its class says, so that an equal function may compute it instead."""

from torch import nn


def is_plain(layer, kind):
    """Return whether calling ``layer`` does what ``kind.forward`` does and nothing else.

    A layer of another class (quantised, low-rank adapted, wrapped, parametrised), one with hooks, one whose ``forward``
    was replaced, and one that was compiled alone are not plain: call them.

    Args:
        layer: a module.
        kind: a class of modules, such as ``nn.Linear``.
    """
    return (
        type(layer) is kind
        and 'forward' not in layer.__dict__
        and layer._compiled_call_impl is None
        and not _has_hooks(layer)
    )


def _has_hooks(layer):
    of_all = nn.modules.module  # hooks of every module. PyTorch 2.7 has no function that asks for them
    return bool(
        layer._forward_hooks
        or layer._forward_pre_hooks
        or layer._backward_hooks
        or layer._backward_pre_hooks
        or of_all._global_forward_hooks
        or of_all._global_forward_pre_hooks
        or of_all._global_backward_hooks
        or of_all._global_backward_pre_hooks
    )
