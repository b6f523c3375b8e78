"""The deformable scan: it learns which points to read and in which order (DefMamba, section 3.3, figure 3)."""

import torch
import torch.nn.functional as F
from torch import nn

from ..layers import is_plain
from ..ops import TokenOrder, learned_order, sample_offsets, sample_points
from ..ops.depthwise_conv import depthwise_conv
from ..ops.offset_head import channel_attention, offset_head
from ..ops.precision import at_least_float32, rounded
from ..ops.reference_points import linspace, moved_points
from ..ops.sequence_scan.interface import prefers_triton
from ..ops.tensors import intervals
from .base import SCANS, Scan
from .offset_bias import OffsetBias

# Size of the depthwise kernel of the offset network, by stage. A fifth stage and later ones use the last size.
KERNEL_SIZES = (9, 7, 5, 3)
CHANNEL_ATTENTION_REDUCTION = 16
ORDER_GRADIENTS = ('paper', 'released', 'swap')
ATTENTION_INPUTS = ('map', 'convolution')
# Precision of the numbers that are computed from the offsets: of points, and of the keys that are sorted.
PRECISIONS = {'float32': None, 'float16': torch.float16}


class ChannelAttention(nn.Module):
    """Squeeze-and-excitation weights: w = sigmoid(linear(GELU(linear(global average pool(u)))))."""

    def __init__(self, embed_dims):
        super().__init__()
        hidden = max(1, embed_dims // CHANNEL_ATTENTION_REDUCTION)
        self.fc1 = nn.Linear(embed_dims, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, embed_dims)

    def forward(self, u):
        """Return weights in (0, 1): (B, C, H, W) -> (B, C, 1, 1)."""
        return self.fc2(self.act(self.fc1(u.mean((2, 3))))).sigmoid()[..., None, None]

    def is_plain(self):
        """Return whether :func:`.channel_attention` computes what calling this module does."""
        linear = (self.fc1, self.fc2)
        return (
            is_plain(self, ChannelAttention)
            and _is_exact_gelu(self.act)
            and all(is_plain(layer, nn.Linear) and layer.bias is not None for layer in linear)
        )


def apply_depthwise(layer, x, silu=False):
    """Return ``layer(x)``. A plain depthwise convolution that keeps the size is computed by :func:`.depthwise_conv`.

    Args:
        layer: an ``nn.Conv2d``, or what took its place.
        x: (B, C, H, W).
        silu: whether SiLU follows.
    """
    keeps_size = is_plain(layer, nn.Conv2d) and (
        layer.groups == layer.in_channels == layer.out_channels
        and layer.stride == layer.dilation == (1, 1)
        and all(size % 2 for size in layer.kernel_size)
        and layer.padding == tuple(size // 2 for size in layer.kernel_size)
        and layer.padding_mode == 'zeros'
    )
    if keeps_size:
        return depthwise_conv(x, layer.weight, layer.bias, silu=silu)
    return F.silu(layer(x)) if silu else layer(x)


class OffsetNetwork(nn.Module):
    """Network that predicts raw offsets: depthwise convolution, channel attention, LayerNorm, GELU, 1x1 convolution.

    Args:
        embed_dims: channels of the map.
        kernel_size: size of the depthwise convolution, odd.
        offsets: channels of the result.
        channel_attention: whether the map after the convolution is weighted per channel.
        norm_first: whether LayerNorm comes before GELU, as in the authors' code, or after it, as in the paper's text.
        attention_input: what the channel attention pools: 'map', the input of the convolution, as in the authors' code;
            or 'convolution', its output, as in the paper's text.

    Raises:
        ValueError: ``attention_input`` is unknown.
    """

    def __init__(
        self, embed_dims, kernel_size, offsets, channel_attention=True, norm_first=True, attention_input='map'
    ):
        super().__init__()
        if attention_input not in ATTENTION_INPUTS:
            raise ValueError(f'attention_input must be one of {ATTENTION_INPUTS}, got {attention_input!r}')
        self.norm_first = norm_first
        self.attention_input = attention_input
        self.dwconv = nn.Conv2d(embed_dims, embed_dims, kernel_size, padding=kernel_size // 2, groups=embed_dims)
        self.channel_attention = ChannelAttention(embed_dims) if channel_attention else None
        self.norm = nn.LayerNorm(embed_dims)
        self.act = nn.GELU()
        self.proj = nn.Conv2d(embed_dims, offsets, 1, bias=False)

    def forward(self, u):
        """Return offsets without bounds: (B, C, H, W) -> (B, offsets, H, W)."""
        x = apply_depthwise(self.dwconv, u)
        if self.channel_attention is not None:
            x = x * self.channel_attention(u if self.attention_input == 'map' else x)
        x = x.permute(0, 2, 3, 1)
        x = self.act(self.norm(x)) if self.norm_first else self.norm(self.act(x))
        return self.proj(x.permute(0, 3, 1, 2))

    def offsets_and_keys(self, u, points, order, formulation, pooled=None):
        """Return what :func:`.offset_head` does for a map (B, C, H, W), or None where the layers have to be called.

        They have to be called if the kernels cannot run, and if a layer does anything but what its class says.

        Args:
            u: the map.
            points, order, formulation: see :func:`.offset_head`.
            pooled: a view of ``u`` for the channel attention, see :func:`~mmdefmamba.ops.fan_out.fan_out`, or None.
        """
        if not (prefers_triton(u, self.parameters()) and self._is_plain()):
            return None
        x = apply_depthwise(self.dwconv, u)
        weights, attention = None, self.channel_attention
        if attention is not None:
            fc1, fc2 = attention.fc1, attention.fc2
            if self.attention_input == 'convolution':
                pooled = x
            elif pooled is None:
                pooled = u
            weights = channel_attention(pooled, fc1.weight, fc1.bias, fc2.weight, fc2.bias)
        return offset_head(
            *(x, weights, self.norm.weight, self.norm.bias, self.norm.eps, self.proj.weight.flatten(1)),
            **dict(points=points, order=order, formulation=formulation, norm_first=self.norm_first),
        )

    def _is_plain(self):
        norm, proj, attention = self.norm, self.proj, self.channel_attention
        return (
            is_plain(self, OffsetNetwork)
            and (attention is None or attention.is_plain())
            and is_plain(norm, nn.LayerNorm)
            and norm.weight is not None
            and norm.bias is not None
            and len(norm.normalized_shape) == 1
            and _is_exact_gelu(self.act)
            and is_plain(proj, nn.Conv2d)
            and proj.bias is None
            and proj.groups == 1
            and proj.kernel_size == proj.stride == (1, 1)
            and proj.padding == (0, 0)
        )


def _is_exact_gelu(layer):
    return is_plain(layer, nn.GELU) and layer.approximate == 'none'


def reference_index(length, formulation, dtype, device):
    """Return the index of each token in the raster order, normalised to [-1, 1], (L,).

    'paper': 2 k / (L-1) - 1 for index k. 'released': the same formula with linspace(0.5, L-0.5, L) instead of k.
    """
    if formulation == 'released':
        index = linspace(0.5, length - 0.5, length, dtype, device)
    else:
        index = torch.arange(length, dtype=dtype, device=device)
    return index / intervals(length) * 2 - 1


def _tanh(raw, dtype):
    return rounded(rounded(raw, dtype).tanh(), dtype)


@SCANS.register_module(name='deformable')
class DeformableScan(Scan):
    """A scan that reads the map at learned points and visits them in a learned order.

    Each of its four parts can be switched off (table 5 of the paper). Without points and order the scan has no offset
    network and is a raster scan.

    Args:
        context: the :class:`~mmdefmamba.scans.ScanContext` of its place in the network.
        points: sample the map at reference points that are moved within their own cell.
        order: sort the tokens by reference index plus a learned offset.
        offset_bias: add a learned feature that depends on the displacement of each point. It needs ``points``.
        channel_attention: weight the channels in the offset network. It needs ``points`` or ``order``.
        kernel_size: size of the depthwise convolution in the offset network; by default 9, 7, 5, 3 for stages 1 to 4.
        order_gradient: gradient of the order: 'paper' or 'released', see :func:`~mmdefmamba.ops.learned_order`, or
            'swap', see :func:`~mmdefmamba.ops.map_scan.swap_gradient.swap_gradient`. The default is the gradient of
            the formulation.
        key_dtype: 'float32', or 'float16': reference indices, index offsets and their sums are then rounded to float16
            at each step, as under the float16 autocast in which the authors train and validate. Keys that are rounded
            to the same number keep their row-major order: the sort is stable.
        point_dtype: the same for the points that are read: reference points, point offsets, sums and displacements.
        norm_first, attention_input: two details of the offset network, see :class:`OffsetNetwork`.

    Raises:
        ValueError: a part needs another part that is switched off, ``kernel_size`` is not odd and positive, or
            ``order_gradient``, ``key_dtype``, ``point_dtype`` or ``attention_input`` is unknown.
    """

    def __init__(
        self,
        context,
        points=True,
        order=True,
        offset_bias=True,
        channel_attention=True,
        kernel_size=None,
        order_gradient=None,
        key_dtype='float32',
        point_dtype='float32',
        norm_first=True,
        attention_input='map',
    ):
        super().__init__(context)
        for name, value in (('key_dtype', key_dtype), ('point_dtype', point_dtype)):
            if value not in PRECISIONS:
                raise ValueError(f'{name} must be one of {tuple(PRECISIONS)}, got {value!r}')
        if attention_input not in ATTENTION_INPUTS:
            raise ValueError(f'attention_input must be one of {ATTENTION_INPUTS}, got {attention_input!r}')
        if attention_input != 'map' and not channel_attention:
            raise ValueError(f'attention_input={attention_input!r} needs channel_attention=True: there is no attention')
        if offset_bias and not points:
            raise ValueError('offset_bias=True needs points=True: without points there is no displacement to read at')
        if channel_attention and not (points or order):
            raise ValueError('channel_attention=True needs points=True or order=True: it is part of the offset network')
        kernel_size = kernel_size or KERNEL_SIZES[min(context.stage, len(KERNEL_SIZES) - 1)]
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f'kernel_size must be odd and positive, got {kernel_size}')
        self.points, self.order = points, order
        self.order_gradient = order_gradient or context.formulation
        if self.order_gradient not in ORDER_GRADIENTS:
            raise ValueError(f'order_gradient must be one of {ORDER_GRADIENTS}, got {order_gradient!r}')
        self.key_dtype, self.point_dtype = PRECISIONS[key_dtype], PRECISIONS[point_dtype]
        self.offset_network = None
        if points or order:
            self.offset_network = OffsetNetwork(
                *(context.embed_dims, kernel_size, 2 * points + order),
                *(channel_attention, norm_first, attention_input),
            )
        self.offset_bias = OffsetBias(context) if offset_bias else None

    def offsets(self, u):
        """Return the offsets of a map (B, C, H, W), as :meth:`constrain` does, or (None, None) without a network."""
        return (None, None) if self.offset_network is None else self.constrain(self.offset_network(u))

    def constrain(self, raw):
        """Bring raw offsets into their ranges.

        Args:
            raw: result of the offset network, (B, offsets, H, W), any floating dtype.

        Returns:
            Point offsets (B, H, W, 2), (y, x) in normalised coordinates within the cell of the token, or None without
            points. Index offsets (B, L) in (-1, 1), or None without order. Both are float32 or wider: in half precision
            the indices of more than 2048 tokens would tie. ``key_dtype`` and ``point_dtype`` round their values.
        """
        height, width = raw.shape[-2:]
        raw = at_least_float32(raw)
        # one tanh of all offsets, unless points and keys have different precisions
        bounded = {dtype: _tanh(raw, dtype) for dtype in {self.point_dtype, self.key_dtype}}
        point_offset = index_offset = None
        if self.points:
            size = (height, width)
            if self.context.formulation == 'released':
                size = (intervals(height), intervals(width))
            # filled on the device: a tensor copied from the host could not be part of a CUDA graph
            size = torch.stack([raw.new_full((), side) for side in size])
            point_offset = rounded(bounded[self.point_dtype][:, :2].permute(0, 2, 3, 1) / size, self.point_dtype)
        if self.order:
            index_offset = bounded[self.key_dtype][:, -1].flatten(1)
        return point_offset, index_offset

    def sample(self, u, point_offset):
        """Return a map (B, C, H, W) read at reference points plus ``point_offset`` (B, H, W, 2), with offset bias."""
        bias, formulation = self.offset_bias, self.context.formulation
        if self.point_dtype is None and (bias is None or is_plain(bias, OffsetBias)):
            return sample_offsets(u, point_offset, None if bias is None else bias.table, formulation=formulation)
        points, displacement = moved_points(point_offset, formulation, self.point_dtype)
        return sample_points(u, points, *(() if bias is None else bias(displacement)))

    def sort_keys(self, index_offset):
        """Return the keys (B, L) that are sorted: reference index plus index offset (B, L), see :meth:`constrain`."""
        length, dtype = index_offset.shape[-1], self.key_dtype or index_offset.dtype
        if self.key_dtype is not None and length > torch.finfo(self.key_dtype).max:
            raise ValueError(
                "key_dtype='float16' has no number above 65504, "
                f"but the map has {length} tokens: use key_dtype='float32'"
            )
        reference = reference_index(length, self.context.formulation, dtype, index_offset.device)
        return rounded(index_offset + reference.to(index_offset.dtype), self.key_dtype)

    def token_order(self, index_offset):
        """Return the :class:`TokenOrder` (B, L) that sorts :meth:`sort_keys`, ascending and stable."""
        return TokenOrder.from_keys(self.sort_keys(index_offset), with_gradient=self.order_gradient == 'swap')

    def _fused_offsets(self, u, pooled=None):
        """Return point offsets and sort keys of a map from few kernels, or None where the steps have to be called."""
        steps = ('offsets', 'constrain', 'sort_keys', 'token_order')
        as_here = all(
            name not in self.__dict__ and getattr(type(self), name) is getattr(DeformableScan, name) for name in steps
        )
        if self.offset_network is None or not as_here or self.key_dtype or self.point_dtype:
            return None
        return self.offset_network.offsets_and_keys(u, self.points, self.order, self.context.formulation, pooled)

    @property
    def readers(self):
        is_here = type(self).forward is DeformableScan.forward and 'forward' not in self.__dict__
        return 1 if self.offset_network is None or not is_here else 3

    def forward(self, x, for_convolution=None, for_attention=None):
        fused = self._fused_offsets(x if for_convolution is None else for_convolution, for_attention)
        point_offset, index_offset = self.offsets(x) if fused is None else fused
        if point_offset is not None:
            x = self.sample(x, point_offset)
        if index_offset is None:
            return x, None
        if fused is None:
            order = self.token_order(index_offset)
        else:  # keys, whose gradient is that of the offsets: the reference index is constant
            order = TokenOrder.from_keys(index_offset, with_gradient=self.order_gradient == 'swap')
        if self.order_gradient == 'swap':
            return x, order
        return learned_order(x, index_offset, order, self.order_gradient), order
