"""The deformable state space model (DefMamba, figure 3a)."""

import math

import torch
from torch import nn

from ..ops import gated_multi_scan
from ..ops.columns import split_columns
from ..ops.fan_out import fan_out
from ..ops.linear import linear
from ..ops.map_scan import decay_rates, reads_maps_apart, split_projections
from ..ops.precision import result_dtype
from ..ops.tensors import distinct
from ..scans import build_scan
from ..scans.deformable import apply_depthwise
from .linear_layers import apply_linear

D_STATE = 16
DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 1e-1, 1e-4


class DSSM(nn.Module):
    """K scans of one map, each with its own state space model. Their results are averaged and gated.

    Args:
        context: the :class:`~mmdefmamba.scans.ScanContext` of its stage.
        scans: K scan configurations, registered names or dicts with ``type``.
        d_state: N, the size of the state of a channel.
        dw_conv: whether there is a depthwise convolution before the scans.
        scan_backend: backend of the selective scan, see :func:`mmdefmamba.ops.selective_scan`.

    Legend for shapes: B batch, H height, W width, L = H * W, C channels, K scans, N states, R rank of the time step.
    """

    def __init__(self, context, scans, d_state=D_STATE, dw_conv=True, scan_backend='auto'):
        super().__init__()
        dims, num_scans = context.embed_dims, len(scans)
        self.d_state = d_state
        self.dt_rank = math.ceil(dims / 16)
        self.scan_backend = scan_backend

        self.in_proj = nn.Linear(dims, 2 * dims, bias=False)
        self.conv = nn.Conv2d(dims, dims, 3, padding=1, groups=dims) if dw_conv else nn.Identity()
        self.scans = nn.ModuleList(build_scan(scan, context) for scan in scans)
        self.x_proj_weight = nn.Parameter(torch.empty(num_scans, self.dt_rank + 2 * d_state, dims))
        self.dt_proj_weight = nn.Parameter(torch.empty(num_scans, dims, self.dt_rank))
        self.dt_proj_bias = nn.Parameter(torch.empty(num_scans, dims))
        self.A_log = nn.Parameter(torch.empty(num_scans * dims, d_state))
        self.D = nn.Parameter(torch.empty(num_scans * dims))
        self.out_proj = nn.Linear(dims, dims, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self):
        """Initialise the state space parameters as Mamba does. The backbone initialises the linear layers."""
        for weight in (self.x_proj_weight, self.dt_proj_weight):
            bound = weight.shape[-1] ** -0.5
            nn.init.uniform_(weight, -bound, bound)
        dt = torch.empty_like(self.dt_proj_bias).uniform_(math.log(DT_MIN), math.log(DT_MAX)).exp().clamp(min=DT_FLOOR)
        self.dt_proj_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # the inverse of softplus
        self.A_log.copy_(torch.arange(1, self.d_state + 1, dtype=self.A_log.dtype).log().expand_as(self.A_log))
        self.D.fill_(1)

    def forward(self, x):
        """Return the gated mean of the scans: (B, H, W, C) -> (B, H, W, C)."""
        u, z = apply_linear(self.in_proj, x).chunk(2, dim=-1)
        u = apply_depthwise(self.conv, u.permute(0, 3, 1, 2), silu=True)
        maps, scanned, orders = self._read(u)
        bias, z = self.dt_proj_bias.flatten(), z.flatten(1, 2)
        y = gated_multi_scan(
            *(scanned, self._project(maps), self.dt_proj_weight, self.A_log, self.D, bias, z, orders),
            log_rates=True,
            backend=self.scan_backend,
        )
        return apply_linear(self.out_proj, y.unflatten(1, x.shape[1:3]))

    def _read(self, u):
        """Return what the scans read of a map (B, C, H, W), and in which orders.

        What reads the map itself gets a view of its own, so that all gradients of the map are added up at once: the
        projections of all scans that return the map, each of these scans, and each reader of other scans.

        Returns:
            K tensors (B, L, C) to be projected, K tensors to be scanned, which may be other views, and K orders.
        """
        readers = [scan.readers for scan in self.scans]
        apart = reads_maps_apart(u, len(self.scans), self.d_state, self.scan_backend)
        views = fan_out(u, 1 + sum(count for count in readers if count > 1) + apart * len(self.scans))
        shared, read = views.pop(0), []
        for scan, count in zip(self.scans, readers, strict=True):
            read.append(scan(*(views.pop(0) for _ in range(count))) if count > 1 else scan(shared))
        maps, orders = zip(*read, strict=True)
        scanned = [views.pop(0) if apart and x is shared else x for x in maps]
        maps = tokens_of_maps(maps)
        return maps, tokens_of_maps(scanned) if apart else maps, orders

    def state_space_parameters(self, maps):
        """Return the inputs of the state space models for K maps.

        Time step, B and C depend only on the token itself, so they are computed at its place, whatever the order.

        Args:
            maps: K tensors, (B, L, C).

        Returns:
            delta, the time step before bias and softplus, (B, K, L, C); A (K * C, N); B and C (B, K, L, N).
        """
        delta, B, C = split_projections(self._project(maps), self.dt_proj_weight, self.d_state)
        return delta, decay_rates(self.A_log), B, C

    def _project(self, maps):
        """Return x_proj of each map, K tensors (B, L, R + 2N). Scans that share a map share one matrix product."""
        rows = self.x_proj_weight.shape[1]
        projected = [None] * len(maps)
        found, reads = distinct(maps)
        weight = self.x_proj_weight.to(result_dtype(maps[0]))  # under autocast: once, not for each product
        readers = [[k for k, read in enumerate(reads) if read == i] for i in range(len(found))]
        if reads == sorted(reads):  # neighbouring scans share a map: their weights are one matrix
            weights = [rows_KPC.flatten(0, 1) for rows_KPC in weight.split([len(scans) for scans in readers])]
        else:
            weights = [torch.cat([weight[k] for k in scans]) for scans in readers]
        for u, scans, weight_of_map in zip(found, readers, weights, strict=True):
            for k, parameters_BLP in zip(scans, split_columns(linear(u, weight_of_map), rows), strict=True):
                projected[k] = parameters_BLP
        return projected


def tokens_of_maps(maps):
    """Return maps (B, C, H, W) as tokens (B, L, C). Scans that share a map get the same tensor, one view of it."""
    found, reads = distinct(maps)
    tokens = [x.flatten(2).transpose(1, 2) for x in found]
    return [tokens[read] for read in reads]
