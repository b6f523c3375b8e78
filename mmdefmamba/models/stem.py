"""The stem and the downsampling between stages: overlapping convolutions with stride 2 (DefMamba, appendix A)."""

from torch import nn


class ConvNorm(nn.Module):
    """A 3x3 convolution with stride 2 and padding 1, then LayerNorm over channels.

    It takes maps of any size from 1 x 1; half of an odd size is rounded up. Input and output are (B, H, W, C), the
    layout of LayerNorm and of the linear layers around it.
    """

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x):
        """Return a map of half the size: (B, H, W, in_channels) -> (B, ceil(H/2), ceil(W/2), out_channels)."""
        return self.norm(self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class Stem(nn.Sequential):
    """The first map, at a quarter of the image size: two :class:`ConvNorm` with a GELU between them."""

    def __init__(self, in_channels, embed_dims):
        super().__init__(
            ConvNorm(in_channels, embed_dims // 2),
            nn.GELU(),
            ConvNorm(embed_dims // 2, embed_dims),
        )
