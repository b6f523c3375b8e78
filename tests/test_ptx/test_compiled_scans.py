"""The scans' kernels as Triton compiles them for an H100, in the emulator, against the float64 reference.

Every test also fails on an access out of bounds, on a read of unwritten memory, on a race, and on an unwritten result.
"""

import pytest
import torch
import torch.nn.functional as F
from ptx_emulator import Fault
from ptx_emulator.plant import remove_barriers, remove_masks

from mmdefmamba.ops import TokenOrder, multi_scan
from mmdefmamba.ops.triton_scan import layout, multi_scan_triton, use_scan_options
from mmdefmamba.ops.triton_scan.merge_op import merge_scans_triton

pytestmark = pytest.mark.ptx
DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}
#: What PyTorch's own results may differ by, relative to the largest value
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def check_launches(emulator, names):
    """Check which kernels ran, and that they wrote all of their results; states of short segments need no scratch."""
    assert {launch.kernel for launch in emulator.launches} == set(names)
    for launch in emulator.launches:
        assert set(launch.unwritten) <= {'scratch'}, launch
        assert launch.rounding == 0, launch  # all lanes that write a sum to one place have the same bits


def relative(actual, expected):
    return ((actual.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-12)).item()


def make_orders(kinds, batch, length):
    """Return no order for 'f', the reverse for 'b', one order for 's' and one per image for 'l'."""
    made = {
        'f': lambda: None,
        'b': lambda: TokenOrder.from_order(torch.arange(length).flip(0), backwards=True),
        's': lambda: TokenOrder.from_order(torch.randperm(length)),
        'l': lambda: TokenOrder.from_order(torch.stack([torch.randperm(length) for _ in range(batch)])),
    }
    return [made[kind]() for kind in kinds]


def compare_scan(emulator, kinds, sources, sizes, dtype, chunk_length=0, slices=False, bare=False):
    batch, length, channels, states = sizes
    scans, rows = len(kinds), len(kinds) * channels
    torch.manual_seed(0)

    def randn(*shape, dtype=dtype):
        return torch.randn(*shape).to(dtype).requires_grad_()

    maps = [randn(batch, length, channels) for _ in range(max(sources) + 1)]
    if slices:  # as the network passes B and C: side by side, so that a row may start at any element
        pitch = 3 + 2 * states
        parameters = torch.randn(scans, batch, length, pitch).to(dtype)[..., 3:].transpose(0, 1)
        B, C = (x.detach().requires_grad_() for x in parameters.split(states, dim=-1))
    else:
        B, C = randn(batch, scans, length, states), randn(batch, scans, length, states)
    inputs = [
        *maps,
        randn(batch, scans, length, channels),
        (-torch.rand(rows, states) - 0.1).requires_grad_(),
        B,
        C,
        *([] if bare else [randn(rows, dtype=torch.float32), randn(rows, dtype=torch.float32)]),
    ]
    orders = make_orders(kinds, batch, length)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    zeros = torch.zeros(rows, dtype=torch.float64)  # the reference has no form without skip and bias

    def run(scan, tensors, *skip_and_bias, **options):
        *of_maps, _, _, _, _ = tensors[: len(maps) + 4]
        return scan([of_maps[i] for i in sources], *tensors[len(maps) :], *skip_and_bias, orders, **options)

    y = run(multi_scan_triton, inputs, *[None, None] * bare, chunk_length=chunk_length)
    expected = run(multi_scan, exact, *[zeros, zeros] * bare, backend='reference')
    assert relative(y, expected) < TOLERANCE[dtype]
    weight = torch.randn_like(y)
    gradients = torch.autograd.grad(y, inputs, weight)
    for i, (x, want) in enumerate(zip(gradients, torch.autograd.grad(expected, exact, weight.double()), strict=True)):
        assert relative(x, want) < 2 * TOLERANCE[dtype], i
    chunked = {'chunk_ends', 'pass_carries'} if 0 < chunk_length < length else set()
    check_launches(emulator, {'scan_forward', 'scan_backward', 'sum_rows', *chunked})


@pytest.fixture
def scan_in_chunks(emulator, monkeypatch):
    """All four kernels, two blocks of channels of which the second is not full, and a last chunk and tile likewise."""
    monkeypatch.setattr(layout, 'CHECKPOINT', 8)
    return lambda: compare_scan(
        emulator, 'fbsl', [0, 0, 1, 1], (2, 21, 35, 3), torch.bfloat16, chunk_length=8, slices=True
    )


def test_multi_scan_in_chunks(scan_in_chunks):
    scan_in_chunks()


@pytest.mark.parametrize('states', [3, pytest.param(17, marks=pytest.mark.sweep)])
def test_several_blocks_of_channels_in_one_program(emulator, states):
    """Three blocks, of which the last is not full: a program adds up two of them in the memory of its result."""
    with use_scan_options(backward_block=16, backward_blocks=2):
        compare_scan(emulator, 'l', [0], (1, 5, 35, states), torch.bfloat16)


@pytest.mark.parametrize(
    ('file', 'place'),
    [
        ('backward.py', '(shared memory|scratch)'),
        pytest.param('blocks.py', 'shared memory', marks=pytest.mark.sweep),
    ],
)
def test_a_race_is_reported(emulator, scan_in_chunks, file, place):
    """Without its barriers the backward reads what other lanes have not written yet, or overwrites what they read."""
    emulator.edit = lambda ptx: remove_barriers(ptx, file) if '.entry scan_backward(' in ptx else ptx
    with pytest.raises(Fault, match=rf'scan_backward, \w+.py:\d+ .*race: lane \d+ of program \d+ .* of {place}'):
        scan_in_chunks()


OTHERS = [pytest.param(name, marks=pytest.mark.sweep) for name in ('chunk_ends', 'pass_carries', 'scan_backward')]


@pytest.mark.parametrize(('access', 'verb'), [('ld', 'reads'), ('st', 'writes')])
@pytest.mark.parametrize('kernel', ['scan_forward', *OTHERS])
def test_an_overrun_is_reported(emulator, scan_in_chunks, kernel, access, verb):
    """Without masks, the lanes beyond the last channel or token leave the tensor, or write where other lanes do."""
    emulator.edit = lambda ptx: remove_masks(ptx, access) if f'.entry {kernel}(' in ptx else ptx
    found = rf'{verb} \d+ bytes at byte .*outside of every tensor'
    if access == 'st':
        found += '|write different values to|writes byte .* which another lane read'
    with pytest.raises(Fault, match=rf'{kernel}, \w+.py:\d+ .* ({found})'):
        scan_in_chunks()


@pytest.mark.sweep
@pytest.mark.parametrize('states', [1, 4, 5, 16])
@pytest.mark.parametrize('dtype', DTYPES.values(), ids=DTYPES)
def test_multi_scan_of_any_dtype_and_number_of_states(emulator, dtype, states):
    compare_scan(emulator, 'fbl', [0, 0, 1], (2, 7, 40, states), dtype)


@pytest.mark.sweep
@pytest.mark.parametrize('slices', [False, True], ids=['tensors', 'slices'])
@pytest.mark.parametrize('dtype', DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize('length', [1, 63, 64, 65, 130])
def test_multi_scan_of_any_length(emulator, length, dtype, slices):
    compare_scan(emulator, 'fblls', [0, 0, 1, 2, 3], (1, length, 9, 16), dtype, slices=slices)


@pytest.mark.sweep
@pytest.mark.parametrize('dtype', DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize('kinds', ['f', 'b', 's', 'l', 'fbsl'])
def test_multi_scan_in_chunks_of_the_real_size(emulator, kinds, dtype):
    compare_scan(emulator, kinds, [0] * len(kinds), (1, 150, 33, 16), dtype, chunk_length=64)


@pytest.mark.sweep
@pytest.mark.parametrize('dtype', DTYPES.values(), ids=DTYPES)
def test_multi_scan_without_skip_and_bias(emulator, dtype):
    compare_scan(emulator, 'fl', [0, 1], (2, 9, 32, 16), dtype, bare=True)


@pytest.mark.sweep
@pytest.mark.parametrize('states', [17, 32, 64])
def test_multi_scan_of_many_states(emulator, states):
    """More than 16 states take several warps, which exchange numbers through shared memory."""
    compare_scan(emulator, 'fl', [0, 1], (1, 9, 33, states), torch.float32)


@pytest.mark.parametrize('slices', [True, pytest.param(False, marks=pytest.mark.sweep)], ids=['slices', 'tensors'])
@pytest.mark.parametrize(
    'dtype',
    [
        torch.bfloat16,
        pytest.param(torch.float32, marks=pytest.mark.sweep),
        pytest.param(torch.float16, marks=pytest.mark.sweep),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    'sizes', [(2, 3, 37, 29), *(pytest.param(s, marks=pytest.mark.sweep) for s in ((1, 1, 1, 1), (1, 4, 64, 64)))]
)
def test_merge_of_scans(emulator, sizes, dtype, slices):
    batch, _, length, channels = sizes
    torch.manual_seed(0)
    y = torch.randn(sizes).to(dtype).requires_grad_()
    z = torch.randn(batch, length, (1 + slices) * channels).to(dtype)[..., -channels:].requires_grad_()
    exact = [x.detach().double().requires_grad_() for x in (y, z)]
    merged = merge_scans_triton(y, z)
    expected = exact[0].mean(1) * F.silu(exact[1])
    assert relative(merged, expected) < TOLERANCE[dtype]
    weight = torch.randn_like(merged)
    gradients = torch.autograd.grad(merged, [y, z], weight)
    for x, want in zip(gradients, torch.autograd.grad(expected, exact, weight.double()), strict=True):
        assert relative(x, want) < 2 * TOLERANCE[dtype]
    check_launches(emulator, {'merge_forward', 'merge_backward'})
