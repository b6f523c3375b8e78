"""Which pixels the centre of a stage depends on: the effective receptive field."""

import torch

from ..models import DefMamba
from .modes import evaluating


def effective_receptive_field(model, images, stage=-1, batch_size=8):
    """How strongly each pixel moves the feature at the centre of a stage's map, on average over images.

    The sum over channels of that feature is differentiated with respect to the image; the magnitudes are averaged over
    images and summed over colours. Of a DefMamba the feature is the stage's last block's result, before the output
    norm: a LayerNorm as it starts out has channels that sum to zero whatever it sees.

    Args:
        model: a :class:`~mmdefmamba.models.DefMamba`, a model that contains one, or any module that makes one map
            (B, C, h, w) of images. It runs in eval mode, and is left in the mode it had.
        images: preprocessed, (B, 3, height, width), float; they should not be those of one scene alone.
        stage: of the backbone, from 0, negative ones from the last; of no meaning for a model without one.
        batch_size: images that go through the model at once.

    Returns:
        (height, width), not negative, dtype of ``images``, on the CPU. The centre of an even map is the token right
        below its middle, (h // 2, w // 2).

    Raises:
        ValueError: no images, or a stage that the backbone does not have.

    Source: Luo et al., Understanding the effective receptive field in deep convolutional neural networks, 2016.
    """
    if images.ndim != 4 or not len(images):
        raise ValueError(
            f'images must be (batch, channels, height, width) with one at least, got {tuple(images.shape)}'
        )
    network = next((module for module in model.modules() if isinstance(module, DefMamba)), model)
    total = images.new_zeros(images.shape[-2:], device='cpu')
    with evaluating(model), torch.enable_grad():
        for batch in images.split(batch_size):
            batch = batch.detach().requires_grad_()
            feature_BChw = _stage_map(network, batch, stage)
            height, width = feature_BChw.shape[-2:]
            (gradient,) = torch.autograd.grad(feature_BChw[..., height // 2, width // 2].sum(), batch)
            total += gradient.abs().sum((0, 1)).cpu()
    return total / len(images)


def field_area(field, share):
    """The share of the pixels that hold the given share of a field, taken from the strongest on.

    Args:
        field: (height, width), not negative.
        share: of the whole, from 0 to 1.

    Returns:
        A number from 0 to 1: small where the field is concentrated.
    """
    strongest = field.flatten().double().sort(descending=True).values.cumsum(0)
    if strongest[-1] == 0:
        return 0.0
    return float((strongest < share * strongest[-1]).sum() + 1) / field.numel()


def _stage_map(network, images, stage):
    """The map (B, C, h, w) whose centre is looked at."""
    if not isinstance(network, DefMamba):
        return network(images)
    count = len(network.depths)
    if not -count <= stage < count:
        raise ValueError(f'stage must be from {-count} to {count - 1}, counted from 0, got {stage}')
    seen = []
    # the blocks are called one by one, the stage that holds them is not
    hook = network.stages[stage][-1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        network(images)
    finally:
        hook.remove()
    return seen[0].permute(0, 3, 1, 2)
