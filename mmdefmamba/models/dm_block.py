"""The deformable Mamba block (DefMamba, figure 2b)."""

from torch import nn

from .drop_path import DropPath
from .dssm import DSSM
from .linear_layers import apply_ffn

FFN_RATIO = 4


class DMBlock(nn.Module):
    """A residual block: x + DSSM(LayerNorm(x)), then x + FFN(LayerNorm(x)), each branch with drop path.

    Args:
        context: the :class:`~mmdefmamba.scans.ScanContext` of its stage.
        scans: configurations of the scans, see :class:`DSSM`.
        drop_path: probability that a branch is dropped for an image, in training.
        dw_conv: whether the DSSM has a depthwise convolution.
        scan_backend: backend of the selective scan.
    """

    def __init__(self, context, scans, drop_path=0.0, dw_conv=True, scan_backend='auto'):
        super().__init__()
        dims = context.embed_dims
        self.norm1 = nn.LayerNorm(dims)
        self.dssm = DSSM(context, scans, dw_conv=dw_conv, scan_backend=scan_backend)
        self.norm2 = nn.LayerNorm(dims)
        self.ffn = nn.Sequential(nn.Linear(dims, FFN_RATIO * dims), nn.GELU(), nn.Linear(FFN_RATIO * dims, dims))
        self.drop_path = DropPath(drop_path)

    def forward(self, x):
        """Return the map after the block: (B, H, W, C) -> (B, H, W, C)."""
        x = x + self.drop_path(self.dssm(self.norm1(x)))
        return x + self.drop_path(apply_ffn(self.ffn, self.norm2(x)))
