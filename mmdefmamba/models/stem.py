"""Overlapping convolutions that shrink the map: the stem and the downsampling between stages (appendix A)."""

from torch import nn


class ConvNorm(nn.Module):
    """Convolution 3x3, stride 2, padding 1, then LayerNorm over channels; any size from 1x1 up, rounded up.

    Maps go in and come out as (B, H, W, C): the layout of LayerNorm and of the linear layers around it.
    """

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x):
        """(B, H, W, in_channels) -> (B, ceil(H/2), ceil(W/2), out_channels)."""
        return self.norm(self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class Stem(nn.Sequential):
    """Image to first map at a quarter of its size: two :class:`ConvNorm` with a GELU between."""

    def __init__(self, in_channels, embed_dims):
        super().__init__(
            ConvNorm(in_channels, embed_dims // 2),
            nn.GELU(),
            ConvNorm(embed_dims // 2, embed_dims),
        )
