"""The deformable scan against the formulas of the paper and of the released code, written a second time here."""

import numpy as np
import pytest
import torch

from mmdefmamba.ops import sample_points
from mmdefmamba.ops.reference_points import reference_points
from mmdefmamba.scans import ScanContext, build_scan
from mmdefmamba.scans.deformable import reference_index

DIMS = 6
PARTS = ('points', 'order', 'offset_bias', 'channel_attention')


def make_scan(formulation='paper', stage=1, map_size=(8, 6), **parts):
    torch.manual_seed(0)
    context = ScanContext(DIMS, stage, map_size, formulation)
    return build_scan({'type': 'deformable', **parts}, context).double()


def set_raw_offsets(scan, raw):
    """Let the offset network return ``raw``, (B, offsets, H, W)."""
    scan.offset_network.forward = lambda u: raw


@pytest.mark.parametrize('size', [(1, 1), (5, 4), (1, 7), (9, 1)], ids=str)
def test_zero_offset_is_identity(size):
    scan = make_scan(offset_bias=False)
    u = torch.randn(2, DIMS, *size, dtype=torch.float64)
    set_raw_offsets(scan, torch.zeros(2, 3, *size, dtype=torch.float64))
    read, order = scan(u)
    torch.testing.assert_close(read, u, rtol=1e-12, atol=1e-12)
    assert order.order.tolist() == [list(range(size[0] * size[1]))] * 2


def test_zero_offset_of_the_released_formulation_is_half_a_pixel():
    scan = make_scan('released', offset_bias=False)
    u = torch.randn(1, DIMS, 4, 5, dtype=torch.float64)
    set_raw_offsets(scan, torch.zeros(1, 3, 4, 5, dtype=torch.float64))
    padded = torch.nn.functional.pad(u, (0, 1, 0, 1))
    expected = (padded[..., :-1, :-1] + padded[..., 1:, :-1] + padded[..., :-1, 1:] + padded[..., 1:, 1:]) / 4
    torch.testing.assert_close(scan(u)[0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('formulation', ['paper', 'released'])
def test_points_stay_within_their_own_cell(formulation):
    scan = make_scan(formulation)
    raw = torch.full((1, 3, 4, 5), 50.0, dtype=torch.float64)
    raw[:, 1] = -50
    point_offset, index_offset = scan.constrain(raw)
    limits = (1 / 4, 1 / 5) if formulation == 'paper' else (1 / 3, 1 / 4)
    torch.testing.assert_close(point_offset[0, 0, 0], torch.tensor([limits[0], -limits[1]], dtype=torch.float64))
    assert (point_offset[..., 0] <= 1 / 3).all(), 'half the distance of two points, 2 / (H-1) / 2'
    assert (index_offset == 1).all()


def test_reference_points_and_index():
    points = reference_points(3, 5, 'paper', torch.float64, 'cpu')
    assert points[0, 0].tolist() == [-1, -1] and points[2, 4].tolist() == [1, 1] and points[1, 1].tolist() == [0, -0.5]
    assert reference_points(3, 5, 'released', torch.float64, 'cpu')[0, 0].tolist() == [-0.5, -0.75]
    assert reference_index(5, 'paper', torch.float64, 'cpu').tolist() == [-1, -0.5, 0, 0.5, 1]
    released = reference_index(5, 'released', torch.float64, 'cpu')
    assert released.tolist() == [(0.5 + i) / 4 * 2 - 1 for i in range(5)]
    assert reference_index(1, 'paper', torch.float64, 'cpu').tolist() == [-1]


def test_offset_bias_is_read_at_half_the_displacement():
    """The values of a table that is linear in its position show where it was read."""
    scan = make_scan()
    height, width = scan.offset_bias.table.shape[-2:]
    y = torch.linspace(-1, 1, height, dtype=torch.float64).view(-1, 1)
    x = torch.linspace(-1, 1, width, dtype=torch.float64)
    scan.offset_bias.table.data = torch.stack([y.expand(-1, width), x.expand(height, -1)] * 3)
    displacement = torch.rand(2, 4, 5, 2, dtype=torch.float64) - 0.5
    table, points = scan.offset_bias(displacement)
    bias = sample_points(table.expand(2, -1, -1, -1), points)
    torch.testing.assert_close(bias[:, :2].permute(0, 2, 3, 1), displacement / 2)
    torch.testing.assert_close(
        scan.sample(torch.zeros(2, DIMS, 4, 5).double(), displacement / 10)[:, 0], displacement[..., 0] / 20
    )


def test_offset_bias_of_the_released_formulation_measures_from_its_own_keys():
    scan = make_scan('released')
    y = torch.linspace(-1, 1, 7, dtype=torch.float64).view(-1, 1).expand(7, 7)
    scan.offset_bias.table.data = torch.stack([y] * DIMS)
    offset = (torch.rand(1, 7, 7, 2, dtype=torch.float64) - 0.5) / 7
    read = scan.sample(torch.zeros(1, DIMS, 7, 7).double(), offset)[0, 0]
    row = torch.arange(7, dtype=torch.float64)
    key, point = 2 * (row * 7 / 6) / 6 - 1, 2 * (row + 0.5) / 6 - 1
    # the map is as large as the table, so that the table is read as it is
    torch.testing.assert_close(read, ((key - point).view(-1, 1) - offset[0, ..., 0]) / 2)


def test_order_sorts_reference_plus_offset_and_is_stable():
    scan = make_scan()
    # reference -1, -1/3, 1/3, 1: the second token moves behind the third, and the last ties with the second
    offset = torch.tensor([[0.0, 2 / 3 + 0.1, 0.0, -2 / 3 + 0.1]], dtype=torch.float64)
    assert scan.token_order(offset).order.tolist() == [[0, 2, 1, 3]]
    assert scan.token_order(
        torch.zeros(1, 9, dtype=torch.float64) - torch.linspace(-1, 1, 9).double()
    ).order.tolist() == [list(range(9))]


def test_order_of_a_half_precision_map_has_no_ties():
    """At L = 66,000 reference indices differ by 3e-5: float16 would tie thousands of them."""
    scan = make_scan(points=False, offset_bias=False).bfloat16()
    u = torch.randn(1, DIMS, 200, 330, dtype=torch.bfloat16)
    _, index_offset = scan.offsets(u)
    assert index_offset.dtype == torch.float32
    order = scan.token_order(torch.zeros_like(index_offset)).order
    assert torch.equal(order[0], torch.arange(66000))


@pytest.mark.parametrize('formulation', ['paper', 'released'])
@pytest.mark.parametrize('size', [(1, 1), (1, 5), (6, 1), (7, 5)], ids=str)
def test_every_size_and_every_part(formulation, size):
    u = torch.randn(2, DIMS, *size, dtype=torch.float64)
    for parts in ({}, {'offset_bias': False}, {'order': False}, {'points': False, 'offset_bias': False}):
        scan = make_scan(formulation, **parts)
        read, order = scan(u)
        assert read.isfinite().all()
        assert (order is None) == (parts.get('order') is False)
        read.sum().backward()
    nothing = make_scan(formulation, **dict.fromkeys(PARTS, False))
    read, order = nothing(u)
    assert order is None and read is u
    assert not list(nothing.parameters())


def test_every_part_has_its_parameters():
    names = {part: {name for name, _ in make_scan(**{part: False}).named_parameters()} for part in PARTS[1:]}
    full = {name for name, _ in make_scan().named_parameters()}
    assert full - names['offset_bias'] == {'offset_bias.table'}
    assert {n.split('.')[1] for n in full - names['channel_attention']} == {'channel_attention'}
    assert make_scan(order=False).offset_network.proj.out_channels == 2
    assert make_scan(points=False, offset_bias=False).offset_network.proj.out_channels == 1


def test_kernel_sizes_by_stage():
    assert [make_scan(stage=s).offset_network.dwconv.kernel_size[0] for s in range(6)] == [9, 7, 5, 3, 3, 3]


@pytest.mark.parametrize('order_gradient', ['paper', 'released', 'swap'])
def test_every_order_gradient_reaches_the_offset_network(order_gradient):
    from mmdefmamba.models.dssm import DSSM

    torch.manual_seed(0)
    scan = dict(type='deformable', points=False, offset_bias=False, order_gradient=order_gradient)
    dssm = DSSM(ScanContext(DIMS, 1, (8, 6)), ['raster', scan]).double()
    # With L = 1 there is nothing to order: 'swap' gives a gradient of zero.
    for size in ((5, 4), (1, 1)):
        dssm.zero_grad()
        dssm(torch.randn(2, *size, DIMS, dtype=torch.float64)).square().sum().backward()
        grad = dssm.scans[1].offset_network.proj.weight.grad
        assert grad.isfinite().all() and (grad.any() or size == (1, 1))
    assert order_gradient != 'swap' or not grad.any()


def half(x):
    """Round to float16 and go on in float64, as an operator does that computes in more precision than it stores."""
    return np.asarray(x, dtype=np.float64).astype(np.float16).astype(np.float64)


@pytest.mark.parametrize('size', [(1, 1), (3, 5), (56, 56), (67, 41)], ids=str)
def test_keys_in_float16_are_rounded_at_each_step_and_ties_keep_their_order(size):
    scan = make_scan(order_gradient='swap', key_dtype='float16')
    raw = torch.randn(2, 3, *size, dtype=torch.float64)
    length = size[0] * size[1]
    reference = half(half(half(half(np.arange(length)) / max(length - 1, 1)) * 2) - 1)
    keys = half(half(np.tanh(half(raw[:, -1].flatten(1).numpy()))) + reference)
    order = scan.token_order(scan.constrain(raw)[1])
    assert np.array_equal(order.keys.numpy(), keys)
    assert np.array_equal(order.order.numpy(), np.argsort(keys, axis=-1, kind='stable'))
    exact = make_scan().token_order(make_scan().constrain(raw)[1])
    assert torch.equal(
        exact.order,
        (raw[:, -1].flatten(1).tanh() + reference_index(length, 'paper', torch.float64, 'cpu')).argsort(stable=True),
    )
    if length > 2048:
        assert (order.inverse != exact.inverse).double().mean() > 0.2
    torch.testing.assert_close(scan.constrain(raw)[0], make_scan().constrain(raw)[0], rtol=0, atol=0)


@pytest.mark.parametrize('formulation', ['paper', 'released'])
def test_points_in_float16_are_rounded_at_each_step(formulation):
    """A map that holds its own coordinates shows where it was read."""
    height, width = 31, 23
    scan = make_scan(formulation, offset_bias=False, point_dtype='float16')
    raw = torch.randn(1, 3, height, width, dtype=torch.float64)
    shift, limits = (0, (height, width)) if formulation == 'paper' else (0.5, (height - 1, width - 1))
    for axis, (size, limit) in enumerate(zip((height, width), limits, strict=True)):
        reference = half(half(half(half(np.arange(size) + shift) / (size - 1)) * 2) - 1)
        offset = half(half(np.tanh(half(raw[0, axis].numpy()))) / limit)
        expected = half(offset + (reference[:, None] if axis == 0 else reference))
        coordinate = torch.linspace(-1, 1, size, dtype=torch.float64)
        u = (coordinate[:, None] if axis == 0 else coordinate).expand(1, DIMS, height, width)
        read = scan.sample(u, scan.constrain(raw)[0])[0, 0].numpy()
        inside = np.zeros((height, width), dtype=bool)
        inside[1:-1, 1:-1] = True  # at the border a point may lie outside of the map
        np.testing.assert_allclose(read[inside], expected[inside], rtol=0, atol=1e-9)
        assert inside.mean() > 0.8
    assert torch.equal(scan.constrain(raw)[1], make_scan(formulation).constrain(raw)[1])


def test_rounding_does_not_round_gradients():
    scan = make_scan('released', key_dtype='float16', point_dtype='float16')
    raw = torch.randn(1, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    points, index = scan.constrain(raw)
    (points.sum() * 1e-9 + index.sum() * 1e-9).backward()  # float16 would round these gradients to zero
    slope = 1 - raw.detach().half().double().tanh() ** 2
    torch.testing.assert_close(raw.grad[:, 2], 1e-9 * slope[:, 2], rtol=1e-12, atol=0)
    torch.testing.assert_close(raw.grad[:, 0], 1e-9 / 3 * slope[:, 0], rtol=1e-12, atol=0)


@pytest.mark.parametrize('norm_first', [True, False])
@pytest.mark.parametrize('attention_input', ['map', 'convolution'])
def test_offset_network_as_in_the_code_and_as_in_the_text(norm_first, attention_input):
    network = make_scan(norm_first=norm_first, attention_input=attention_input).offset_network
    for parameter in network.parameters():
        parameter.data = torch.randn_like(parameter)
    u = torch.randn(2, DIMS, 9, 5, dtype=torch.float64)
    convolution, attention = network.dwconv, network.channel_attention
    x = torch.nn.functional.conv2d(u, convolution.weight, convolution.bias, padding='same', groups=DIMS)
    pooled = (u if attention_input == 'map' else x).mean((2, 3))
    gelu = torch.nn.functional.gelu
    weights = torch.sigmoid(
        gelu(pooled @ attention.fc1.weight.T + attention.fc1.bias) @ attention.fc2.weight.T + attention.fc2.bias
    )
    x = (x * weights[:, :, None, None]).movedim(1, -1)
    x = gelu(x) if not norm_first else x
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    x = x * network.norm.weight + network.norm.bias
    x = gelu(x) if norm_first else x
    expected = torch.einsum('bhwc,oc->bohw', x, network.proj.weight[:, :, 0, 0])
    torch.testing.assert_close(network(u), expected, rtol=1e-10, atol=1e-10)


def test_unknown_precision_and_attention_are_refused():
    with pytest.raises(ValueError, match=r"key_dtype must be one of \('float32', 'float16'\), got 'bfloat16'"):
        make_scan(key_dtype='bfloat16')
    with pytest.raises(ValueError, match='point_dtype must be one of'):
        make_scan(point_dtype=torch.float16)
    with pytest.raises(ValueError, match=r"attention_input must be one of \('map', 'convolution'\), got 'output'"):
        make_scan(attention_input='output')
    with pytest.raises(ValueError, match="attention_input='convolution' needs channel_attention=True"):
        make_scan(attention_input='convolution', channel_attention=False)
    scan = make_scan(points=False, offset_bias=False, key_dtype='float16')
    with pytest.raises(
        ValueError, match="no number above 65504, but the map has 66000 tokens: use key_dtype='float32'"
    ):
        scan.token_order(torch.zeros(1, 66000))
