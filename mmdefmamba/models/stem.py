"""The stem and the downsampling between stages: overlapping convolutions with stride 2 (DefMamba, appendix A)."""

import torch
from torch import nn

from ..layers import is_plain
from ..ops.precision import result_dtype
from .norm_layers import apply_conv_norm

#: Of the maps between blocks under autocast. None: what LayerNorm returns, float32 on CUDA, autocast's dtype on a CPU.
RESIDUAL_DTYPES = (None, 'float32', 'autocast')


class ConvNorm(nn.Module):
    """A 3x3 convolution with stride 2 and padding 1, then LayerNorm over channels.

    It takes maps of any size from 1 x 1; half of an odd size is rounded up. Input and output are (B, H, W, C), the
    layout of LayerNorm and of the linear layers around it.

    Args:
        in_channels, out_channels: of the convolution.
        residual_dtype: dtype of the result under autocast, one of ``RESIDUAL_DTYPES``.
    """

    def __init__(self, in_channels, out_channels, residual_dtype=None):
        super().__init__()
        self.residual_dtype = residual_dtype
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x, act=None, dtype=None):
        """Return a map of half the size: (B, H, W, in_channels) -> (B, ceil(H/2), ceil(W/2), out_channels).

        Args:
            x: the map.
            act: an activation after the norm, or None.
            dtype: of the result, or None: that of ``residual_dtype``.
        """
        if dtype is None and self.residual_dtype is not None and torch.is_autocast_enabled(x.device.type):
            dtype = torch.float32 if self.residual_dtype == 'float32' else result_dtype(x)
        return apply_conv_norm(self.conv, self.norm, x, act, dtype)


class Stem(nn.Sequential):
    """The first map, at a quarter of the image size: two :class:`ConvNorm` with a GELU between them."""

    def __init__(self, in_channels, embed_dims, residual_dtype=None):
        super().__init__(
            ConvNorm(in_channels, embed_dims // 2),
            nn.GELU(),
            ConvNorm(embed_dims // 2, embed_dims, residual_dtype),
        )

    def forward(self, x):
        """Return (B, ceil(H/4), ceil(W/4), embed_dims) of images (B, H, W, in_channels)."""
        if len(self) != 3 or not is_plain(self[0], ConvNorm) or not is_plain(self[2], ConvNorm):
            return super().forward(x)
        # norm and GELU in one pass, in the dtype in which the second convolution reads them
        dtype = result_dtype(x) if is_plain(self[2].conv, nn.Conv2d) else None
        return self[2](self[0].forward(x, self[1], dtype))
