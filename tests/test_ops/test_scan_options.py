"""Options of the launches: what they refuse, and that they change no number."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from mmdefmamba.ops.tensors import grid_of
from mmdefmamba.ops.triton_scan import (
    ScanOptions,
    layout,
    merge_scans_triton,
    multi_scan_triton,
    scan_options,
    unavailable_reason,
    use_scan_options,
)

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
REASON = unavailable_reason(torch.zeros(1, device=DEVICE))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(forward_block=8), r'forward_block must be one of \(16, 32\), got 8'),
        (dict(backward_block=33), r'backward_block must be one of \(16, 32\), got 33'),
        (dict(backward_registers=256), 'backward_registers must be None or from 24 to 255, got 256'),
        (dict(forward_registers=True), 'forward_registers must be None or from 24 to 255, got True'),
        (dict(float32_carry=1), 'float32_carry must be True or False, got 1'),
        (dict(programs_per_multiprocessor=0), 'programs_per_multiprocessor must be from 1 to 1024, got 0'),
        (dict(min_chunk=100), 'min_chunk must be a multiple of 64, got 100'),
        (dict(chunks=-1), 'chunks must be 0 or the number of chunks, up to 65536, got -1'),
        (dict(chunks=2.0), r'chunks must be 0 or the number of chunks, up to 65536, got 2\.0'),
        (dict(backward_blocks=-1), 'backward_blocks must be 0 or the number of blocks, up to 65536, got -1'),
        (dict(chunk=2), r"there are no options \['chunk'\]: the options are \['forward_block',"),
    ],
)
def test_impossible_options_are_refused(options, message):
    before = scan_options()
    with pytest.raises(ValueError, match=message), use_scan_options(**options):
        pass
    assert scan_options() is before


def test_options_hold_within_their_block():
    assert scan_options() == ScanOptions()
    with pytest.raises(KeyError), use_scan_options(chunks=2):
        with use_scan_options(forward_block=16) as options:
            assert options == scan_options() == dataclasses.replace(ScanOptions(), chunks=2, forward_block=16)
        raise KeyError
    assert scan_options() == ScanOptions()


@pytest.mark.skipif(REASON is not None, reason=str(REASON))
@pytest.mark.usefixtures('quick_interpreter')
def test_no_option_changes_the_numbers(monkeypatch):
    """In float32 only the order of sums may change: that over blocks of channels, for B and C, and that over chunks."""
    monkeypatch.setattr(layout, 'CHECKPOINT', 8)
    torch.manual_seed(0)
    length, channels, states = 9, 33, 2
    inputs = [
        torch.randn(1, length, channels),
        torch.randn(1, 1, length, channels),
        -torch.rand(channels, states),
        *(torch.randn(1, 1, length, states) for _ in range(2)),
        *(torch.randn(channels) for _ in range(2)),
    ]
    u, *others = inputs = [x.to(DEVICE).requires_grad_() for x in inputs]

    def step(**options):
        with use_scan_options(**options):
            y = multi_scan_triton([u], *others, [None])
            return [y, *torch.autograd.grad(y.square().sum(), inputs)]

    expected = step()
    for equal, options in (
        (True, dict(float32_carry=False, forward_registers=128, backward_registers=None, min_chunk=128)),
        (False, dict(forward_block=16, backward_block=16, chunks=2)),
        # 33 channels are 3 blocks: a program of two and one of one
        (False, dict(backward_block=16, backward_blocks=2)),
    ):
        for actual, wanted in zip(step(**options), expected, strict=True):
            assert torch.equal(actual, wanted) or not equal
            torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-5)


@pytest.fixture
def launches(monkeypatch):
    """The launches of a step, recorded in place of running them: (name of the kernel, grid, compile-time arguments)."""
    from mmdefmamba.ops.triton_scan import launch, merge_kernels

    recorded = []

    class Recorder:
        def __init__(self, name):
            self.name = name

        def __getitem__(self, grid):
            return lambda *args, **kwargs: recorded.append((self.name, grid, kwargs))

    for module, names in (
        (launch, ('scan_forward', 'scan_backward', 'chunk_ends', 'pass_carries', 'sum_rows')),
        (merge_kernels, ('merge_forward', 'merge_backward')),
    ):
        for name in names:
            monkeypatch.setattr(module, name, Recorder(name))
    return recorded


def step_of_many_images(batch):
    """One number per image: 128 KB for 65,537 images."""
    u = torch.zeros(batch, 1, 1, device=DEVICE, requires_grad=True)
    delta, B, C = (torch.zeros(batch, 2, 1, 1, device=DEVICE, requires_grad=True) for _ in range(3))
    A, D, bias = torch.zeros(2, 1, device=DEVICE), torch.zeros(2, device=DEVICE), torch.zeros(2, device=DEVICE)
    y = multi_scan_triton([u, u], delta, A, B, C, D, bias, [None, None])
    merge_scans_triton(y, u).sum().backward()


@pytest.mark.skipif(REASON is not None, reason=str(REASON))
def test_a_batch_may_be_larger_than_the_second_dimension_of_a_grid(launches, monkeypatch):
    step_of_many_images(65_537)
    assert [(name, grid) for name, grid, _ in launches] == [
        ('scan_forward', (131_074,)),
        ('merge_forward', (65_537,)),
        ('merge_backward', (65_537,)),
        ('scan_backward', (131_074,)),
        ('sum_rows', (131_074,)),
    ]


def test_more_programs_than_a_grid_takes_are_refused():
    assert grid_of(2**31 - 1) == (2**31 - 1,)
    with pytest.raises(ValueError, match='2147483648 programs are more than'):
        grid_of(2**31)


@pytest.mark.skipif(REASON is not None, reason=str(REASON))
def test_options_reach_the_launches(launches, monkeypatch):
    monkeypatch.setattr(layout, 'CHECKPOINT', 8)

    def step(**options):
        launches.clear()
        u = torch.zeros(2, 17, 40, device=DEVICE, requires_grad=True)
        delta, B, C = (torch.zeros(2, 1, 17, size, device=DEVICE) for size in (40, 4, 4))
        A, D, bias = torch.zeros(40, 4, device=DEVICE), torch.zeros(40, device=DEVICE), torch.zeros(40, device=DEVICE)
        with use_scan_options(**options):
            multi_scan_triton([u], delta, A, B, C, D, bias, [None]).sum().backward()
        return launches

    forward, backward, _ = step(forward_registers=None, backward_registers=200)
    assert forward[:2] == ('scan_forward', (4,)) and backward[:2] == ('scan_backward', (4,))
    assert 'maxnreg' not in forward[2] and backward[2]['maxnreg'] == 200
    assert forward[2]['C_BLOCK'] == 32 and forward[2]['CARRY_FLOAT32']

    forward, backward, _ = step(
        forward_block=16, backward_block=16, forward_registers=100, backward_registers=None, float32_carry=False
    )
    assert forward[1] == backward[1] == (6,) and forward[2]['C_BLOCK'] == 16
    assert backward[2]['C_HIGH'] * backward[2]['C_LOW'] == 16
    assert forward[2]['maxnreg'] == 100 and 'maxnreg' not in backward[2] and not forward[2]['CARRY_FLOAT32']

    grids = {name: grid for name, grid, _ in step(chunks=3)}
    assert grids == dict(chunk_ends=(12,), pass_carries=(4,), scan_forward=(12,), scan_backward=(12,), sum_rows=(2,))

    _, backward, _ = step(backward_blocks=9)
    assert backward[1] == (2,) and backward[2]['BLOCKS'] == 2


@pytest.mark.skipif(REASON is not None, reason=str(REASON))
def test_a_program_of_the_backward_takes_as_many_blocks_as_leave_the_gpu_full(monkeypatch):
    """DefMamba-S, batch 128, three scans: 3, 6, 12 and 24 blocks of channels; 132 multiprocessors."""
    from mmdefmamba.ops.triton_scan.launch import choose_blocks

    properties = SimpleNamespace(multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, 'get_device_properties', lambda device: properties)
    cuda = torch.device('cuda')
    assert [choose_blocks(n, n * 3 * 128, cuda) for n in (3, 6, 12, 24)] == [1, 2, 4, 8]
    assert choose_blocks(24, 24 * 3 * 8, cuda) == 1
    assert choose_blocks(24, 24 * 3 * 128, torch.device('cpu')) == 1
