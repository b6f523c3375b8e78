"""The offset bias: position information for points that have left their place (DefMamba, section 3.3)."""

import torch
import torch.nn.functional as F
from torch import nn

from ..ops import sample_points

# Side of the released code's table, resized to every map.
RELEASED_TABLE_SIZE = (7, 7)


class OffsetBias(nn.Module):
    """A learnable table of features, read bilinearly at half of each point's displacement.

    In the paper's formulation the table has the stage's size at pretraining; displacements over H points span
    2H - 1, which the paper shrinks to H and therefore halves. In the released one the table is 7 x 7, resized to
    the map before it is read.

    Args:
        context: the :class:`~mmdefmamba.scans.ScanContext` of the scan it belongs to.
    """

    def __init__(self, context):
        super().__init__()
        self.released = context.formulation == 'released'
        size = RELEASED_TABLE_SIZE if self.released else context.map_size
        self.table = nn.Parameter(torch.empty(context.embed_dims, *size))
        nn.init.trunc_normal_(self.table, std=0.01)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        # A DefMamba has resized tables of another image size by now (models/bias_tables.py). MMEngine would only warn
        # of what is left, and go on with a random table: scores that nobody could explain.
        table = state_dict.get(prefix + 'table')
        if table is not None and table.shape != self.table.shape:
            raise ValueError(
                f'{prefix}table is {tuple(table.shape)} in the checkpoint and {tuple(self.table.shape)} in the model: '
                'the checkpoint was made with another arch, formulation or pretrain_img_size'
            )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, displacement):
        """Read the table.

        Args:
            displacement: how far each point is from its token's place, (y, x) in the units of normalised
                coordinates, (B, H, W, 2), float32 or float64.

        Returns:
            (B, C, H, W), dtype of the table.
        """
        batch, height, width, _ = displacement.shape
        table = self.table.unsqueeze(0)
        if self.released:
            table = F.interpolate(table, size=(height, width), mode='bilinear', align_corners=False)
        # all images read one table: as rows of one tall image, not as a table copied for each of them
        rows = (displacement / 2).reshape(1, batch * height, width, 2)
        return sample_points(table, rows).view(-1, batch, height, width).transpose(0, 1)
