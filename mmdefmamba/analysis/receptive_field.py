"""The effective receptive field: the pixels that influence the centre of a stage's map."""

import torch

from .modes import evaluating
from .trace import find_backbone


def effective_receptive_field(model, images, stage=-1, batch_size=8):
    """Compute how strongly each pixel influences the feature at the centre of a stage's map, averaged over images.

    The sum over the channels of that feature is differentiated with respect to the image. The magnitudes are averaged
    over images and summed over channels. In a DefMamba the feature is the result of the stage's last block, before the
    output norm, because after a new LayerNorm the channels always sum to zero.

    Args:
        model: a :class:`~mmdefmamba.models.DefMamba`, a model that contains one, or any module that computes one map
            (B, C, h, w) from images. It runs in eval mode and keeps its own mode.
        images: preprocessed images of several scenes, (B, channels, height, width), float.
        stage: index of the stage, negative numbers count from the end; not used for a model without DefMamba.
        batch_size: number of images that go through the model together.

    Returns:
        (height, width), not negative, dtype of ``images``, on the CPU. The centre of a map is the token
        (h // 2, w // 2), which in an even map is right below the middle.

    Raises:
        ValueError: there are no images, or the backbone does not have this stage.

    Source: Luo et al., Understanding the effective receptive field in deep convolutional neural networks, 2016.
    """
    if images.ndim != 4 or not len(images):
        raise ValueError(
            f'images must be (batch, channels, height, width) with at least one image, got {tuple(images.shape)}'
        )
    backbone = find_backbone(model, required=False)
    total = images.new_zeros(images.shape[-2:], device='cpu')
    with evaluating(model), torch.enable_grad():
        for batch in images.split(batch_size):
            batch = batch.detach().requires_grad_()
            feature_BChw = model(batch) if backbone is None else _stage_map(backbone, batch, stage)
            height, width = feature_BChw.shape[-2:]
            (gradient,) = torch.autograd.grad(feature_BChw[..., height // 2, width // 2].sum(), batch)
            total += gradient.abs().sum((0, 1)).cpu()
    return total / len(images)


def field_area(field, share):
    """Return the share of the pixels that contain a given share of a field, strongest pixels first.

    Args:
        field: (height, width), not negative.
        share: share of the sum of the field, from 0 to 1.

    Returns:
        A number from 0 to 1, which is small for a concentrated field.
    """
    strongest = field.flatten().double().sort(descending=True).values.cumsum(0)
    if strongest[-1] == 0:
        return 0.0
    return float((strongest < share * strongest[-1]).sum() + 1) / field.numel()


def _stage_map(backbone, images, stage):
    """Compute the map of a stage, (B, C, h, w)."""
    count = len(backbone.stages)
    if not -count <= stage < count:
        raise ValueError(f'stage must be from {-count} to {count - 1}, counted from 0, got {stage}')
    seen = []
    hook = backbone.stages[stage].register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        backbone(images)
    finally:
        hook.remove()
    return seen[0].permute(0, 3, 1, 2)
