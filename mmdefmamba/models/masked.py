"""DefMamba for masked image modelling: a part of each image is hidden, and a head reconstructs it.

mmpretrain's SimMIM trains it (configs/classification/simmim_*.py), and its checkpoint loads into a plain DefMamba.
"""

import math

import torch
from mmengine.registry import MODELS
from torch import nn

from .defmamba import DefMamba


@MODELS.register_module()
class MaskedDefMamba(DefMamba):
    """A DefMamba that can hide parts of its images.

    Where an image is hidden, a learned mask token takes the place of the stem's token. The convolutions of the stem
    overlap, so that tokens beside a hidden part would still see a few of its pixels. Therefore the pixels are set to 0
    before the stem, which is the mean colour of normalised images: the maps do not depend on what is hidden.

    Args:
        *args, **kwargs: those of :class:`~mmdefmamba.models.DefMamba`.

    Source: SimMIM (CVPR 2022) for the mask token; the arguments of ``forward`` are those of mmpretrain's
    SimMIMSwinTransformer.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.mask_token = nn.Parameter(torch.empty(self.embed_dims[0]))
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, x, mask=None):
        """Extract features of images of which parts are hidden.

        Args:
            x: images, (B, in_channels, height, width).
            mask: 1 or True where an image is hidden, (B, h, w), with one entry for each token of the stem's map,
                ceil(height / 4) x ceil(width / 4), or for each square of tokens; None hides nothing.

        Returns:
            The maps, as :class:`~mmdefmamba.models.DefMamba` returns them.

        Raises:
            ValueError: the images are wrong, or the sides of the mask do not divide those of the stem's map alike.
        """
        if mask is None:
            return super().forward(x)
        self.check_images(x)
        height, width = (-(-side // 4) for side in x.shape[-2:])
        hidden = _mask_of_tokens(mask, len(x), height, width).to(x.device)
        hidden_pixels = hidden.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, : x.shape[2], : x.shape[3]]
        tokens = self.stem(x.masked_fill(hidden_pixels.unsqueeze(1), 0).permute(0, 2, 3, 1))
        return self.stage_maps(torch.where(hidden.unsqueeze(-1), self.mask_token.to(tokens.dtype), tokens), x)


def _mask_of_tokens(mask, batch, height, width):
    """Return a mask with one boolean per token of the stem's map, (B, height, width)."""
    if mask.ndim == 3 and len(mask) == batch and 0 not in mask.shape:
        side = height // mask.shape[1]
        if (side * mask.shape[1], side * mask.shape[2]) == (height, width):
            return mask.bool().repeat_interleave(side, 1).repeat_interleave(side, 2)
    common = math.gcd(height, width)
    sizes = ', '.join(f'{height // k} x {width // k}' for k in range(1, common + 1) if common % k == 0)
    raise ValueError(
        f'the mask must be (batch, h, w) = {batch} x {height} x {width} for these images, or another h x w of {sizes}; '
        f'got {" x ".join(map(str, mask.shape))}. In a config, input_size of SimMIMMaskGenerator is the size of the '
        'images, and model_patch_size is 4'
    )
