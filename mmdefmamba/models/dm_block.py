"""The deformable Mamba block (DefMamba, figure 2b)."""

from torch import nn

from ..layers import is_plain
from ..ops.precision import result_dtype
from .drop_path import DropPath
from .dssm import DSSM
from .linear_layers import apply_ffn, is_plain_ffn
from .norm_layers import add_and_norm, apply_norm

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

    def forward(self, x, normed=None):
        """Return the map after the block: (B, H, W, C) -> (B, H, W, C).

        Args:
            x: the map before the block.
            normed: ``norm1(x)``, if the block before this one has computed it.
        """
        x, branch = self._first_half(x, normed)
        return x + self.drop_path(branch)

    def forward_and_norm(self, x, normed, following):
        """Return what :meth:`forward` returns, and the norm of it with which the following block starts.

        A residual addition and the norm after it are one pass over memory then.

        Args:
            x: (B, H, W, C).
            normed: the second result of the block before this one, or None.
            following: the next block.
        """
        x, branch = self._first_half(x, normed)
        return add_and_norm(x, branch, self.drop_path, following.norm1, following.dtype_of_norm1(x))

    def dtype_of_norm1(self, x):
        """Return the dtype in which the DSSM's first layer reads the norm of ``x``; None if anything else reads it."""
        plain = is_plain(self.dssm, DSSM) and is_plain(self.dssm.in_proj, nn.Linear)
        return result_dtype(x) if plain else None

    def _first_half(self, x, normed=None):
        """Return the map between the residual branches, and the second branch before its drop path."""
        if normed is None:
            normed = apply_norm(self.norm1, x, dtype=self.dtype_of_norm1(x))
        dtype = result_dtype(x) if is_plain_ffn(self.ffn) else None
        x, normed = add_and_norm(x, self.dssm(normed), self.drop_path, self.norm2, dtype)
        return x, apply_ffn(self.ffn, normed)
