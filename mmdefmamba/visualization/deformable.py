"""What the deformable scans of a model did with a batch of images."""

from typing import NamedTuple

import torch

from ..scans import DeformableScan


class DeformableTrace(NamedTuple):
    """One deformable scan on one batch; on the CPU.

    Args:
        name: of the scan's module in the model.
        map_size: (H, W) of its map.
        point_offset: (B, H, W, 2), (y, x) in normalised coordinates, or None.
        order: (B, L) int64, the place on the map of the i-th token scanned, or None.
    """

    name: str
    map_size: tuple
    point_offset: torch.Tensor | None
    order: torch.Tensor | None


@torch.no_grad()
def trace_deformable(model, *args, **kwargs):
    """Call ``model(*args, **kwargs)`` and note what each of its deformable scans did.

    Returns:
        The model's result, and a list of :class:`DeformableTrace` in the order of execution.

    Raises:
        ValueError: the model has no deformable scan with points or order.
    """
    traces, hooks = [], []

    def note(name, scan):
        def hook(module, inputs, raw):
            point_offset, index_offset = scan.constrain(raw)
            order = None if index_offset is None else scan.token_order(index_offset).order.cpu()
            point_offset = None if point_offset is None else point_offset.cpu()
            traces.append(DeformableTrace(name, tuple(raw.shape[-2:]), point_offset, order))

        return hook

    for name, module in model.named_modules():
        if isinstance(module, DeformableScan) and module.offset_network is not None:
            hooks.append(module.offset_network.register_forward_hook(note(name, module)))
    if not hooks:
        raise ValueError(f'{type(model).__name__} has no deformable scan with points or order to trace')
    try:
        result = model(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    return result, traces
