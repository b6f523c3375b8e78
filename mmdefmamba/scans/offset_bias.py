"""The offset bias: position information for points that were moved by an offset (DefMamba, section 3.3)."""

import torch
from torch import nn

from ..ops.reference_points import bias_table

# Size of the table in the released code, which is resized to each map.
RELEASED_TABLE_SIZE = (7, 7)


class OffsetBias(nn.Module):
    """A learnable table of features, read bilinearly at half the displacement of each point.

    In the formulation 'paper' the table has the size of the stage's map in pretraining. Displacements between H points
    span 2H - 1 values. The paper reduces the table to H values and therefore halves the displacements. In the
    formulation 'released' the table is 7 x 7 and is resized to the map before it is read.

    Args:
        context: the :class:`~mmdefmamba.scans.ScanContext` of the scan it belongs to.
    """

    def __init__(self, context):
        super().__init__()
        self.formulation = context.formulation
        size = RELEASED_TABLE_SIZE if self.formulation == 'released' else context.map_size
        self.table = nn.Parameter(torch.empty(context.embed_dims, *size))
        nn.init.trunc_normal_(self.table, std=0.01)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        # DefMamba has resized the tables of another image size before (models/bias_tables.py). For any other table
        # MMEngine would only warn, keep the random one, and the scores would be wrong.
        table = state_dict.get(prefix + 'table')
        if table is not None and table.shape != self.table.shape:
            raise ValueError(
                f'{prefix}table is {tuple(table.shape)} in the checkpoint and {tuple(self.table.shape)} in the model: '
                'set formulation, pretrain_img_size and arch as in the training of the checkpoint'
            )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, displacement):
        """Return the table, and where each displacement reads it: at half of it.

        Args:
            displacement: distance of each point from the place of its token, (y, x) in normalised coordinates,
                (B, H, W, 2), float32 or float64.

        Returns:
            The table, (C, height, width), and points, (B, H, W, 2), for :func:`~mmdefmamba.ops.sample_points`.
        """
        return bias_table(self.table, displacement, self.formulation)
