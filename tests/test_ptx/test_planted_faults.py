"""The emulator reports faults that are planted into kernels, and nothing for the kernels as they are."""

import re

import pytest
import torch
from ptx_emulator import Fault, UnknownInstructionError
from ptx_emulator.plant import remove_barriers, remove_masks

from mmdefmamba.ops.triton_scan.merge_op import merge_scans_triton

triton = pytest.importorskip('triton')
import triton.language as tl  # noqa: E402

pytestmark = pytest.mark.ptx


def merge():
    return merge_scans_triton(torch.ones(1, 2, 5, 3), torch.ones(1, 5, 3))


@pytest.mark.parametrize(('access', 'verb'), [('ld', 'reads'), ('st', 'writes')])
def test_an_overrun_is_reported(emulator, access, verb):
    """Without masks, the lanes beyond the last token use memory that is not the tensor's."""
    emulator.edit = lambda ptx: remove_masks(ptx, access)
    with pytest.raises(Fault, match=rf'merge_forward, .* {verb} \d+ bytes at byte .*outside of every tensor'):
        merge()


def test_an_unknown_instruction_is_named_with_its_line(emulator):
    emulator.edit = lambda ptx: ptx.replace('ex2.approx.ftz.f32', 'ex3.approx.ftz.f32')
    with pytest.raises(UnknownInstructionError, match=r"line \d+ of the PTX, \w+.py:\d+: .* does not know 'ex3.approx"):
        merge()


@triton.jit
def copy(x, y, size, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i, mask=i < size), mask=i < size)


@triton.jit(do_not_specialize_on_alignment=['x'])
def move_up(x, BLOCK: tl.constexpr, BARRIER: tl.constexpr):
    """Move each number of a row to the next place; a lane writes what the next lane must have read."""
    i = tl.arange(0, BLOCK)
    value = tl.load(x + i)
    if BARRIER:
        tl.debug_barrier()
    tl.store(x + 1 + i, value)


@triton.jit
def sum_up(x, y, BLOCK: tl.constexpr):
    """Write one number per program, or all to the same place."""
    total = tl.sum(tl.load(x + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)), 0)
    tl.store(y, total)


@pytest.mark.parametrize('warps', [1, 4])
def test_a_kernel_that_is_right_passes(emulator, warps):
    x, y = torch.arange(77.0), torch.empty(77)
    copy[(2,)](x, y, 77, BLOCK=64, num_warps=warps)
    assert torch.equal(x, y) and not emulator.launches[-1].unwritten
    x = torch.arange(257.0)
    move_up[(1,)](x, BLOCK=256, BARRIER=True, num_warps=warps)
    assert x.tolist() == [0, *range(256)]
    sum_up[(1,)](x, y, BLOCK=256, num_warps=warps)  # several warps add up through shared memory
    assert y[0] == 255 * 127


@pytest.mark.parametrize('warps', [1, 4])
def test_a_race_between_lanes_or_warps_is_reported(emulator, warps):
    with pytest.raises(Fault, match=r'race: .* which another lane read without a barrier'):
        move_up[(1,)](torch.arange(257.0), BLOCK=256, BARRIER=False, num_warps=warps)
    x, y = torch.arange(256.0), torch.zeros(1)
    emulator.edit = remove_barriers
    if warps == 1:  # one warp adds up with exchanges, without memory
        sum_up[(1,)](x, y, BLOCK=256, num_warps=1)
    else:
        with pytest.raises(Fault, match=r'sum_up, .*race: lane \d+ of program 0 reads .* of shared memory'):
            sum_up[(1,)](x, y, BLOCK=256, num_warps=4)


def test_a_race_between_programs_is_reported(emulator):
    clash = 'lane 0 of program 0 and another lane write different values to byte 0 of y'
    with pytest.raises(Fault, match=rf'sum_up, .*race: {clash}'):
        sum_up[(2,)](torch.arange(64.0), torch.zeros(1), BLOCK=32, num_warps=1)


def test_reading_what_nobody_wrote_is_reported(emulator):
    x = torch.empty(8)
    x[:5] = torch.arange(5.0)  # PyTorch writes a part
    copy[(1,)](x, torch.empty(8), 5, BLOCK=32, num_warps=1)
    with pytest.raises(Fault, match=r'copy, .*reads byte 20 of x \(32 bytes\): it was never written'):
        copy[(1,)](x, torch.empty(8), 8, BLOCK=32, num_warps=1)


def test_a_result_that_was_left_unwritten_is_counted(emulator):
    y = torch.empty(8)
    copy[(1,)](torch.arange(8.0), y, 6, BLOCK=32, num_warps=1)
    assert emulator.launches[-1].unwritten == {'y': 2}
    assert y[:6].tolist() == list(range(6)) and y[6:].isnan().all()


def test_an_element_between_those_of_a_slice_is_out_of_bounds(emulator):
    x = torch.arange(32.0).view(16, 2)
    copy[(1,)](x[:8], torch.empty(16), 16, BLOCK=32, num_warps=1)
    with pytest.raises(Fault, match=r'reads 4 bytes at byte 4 of x .*outside of every tensor'):
        copy[(1,)](x[:, 0], torch.empty(16), 16, BLOCK=32, num_warps=1)


def test_a_misaligned_access_is_reported(emulator):
    """Triton promises aligned pointers to the compiler; a kernel that was made for them gets another one."""
    x = torch.arange(257.0)
    copy[(1,)](x[:256], torch.empty(256), 256, BLOCK=128, num_warps=1)
    emulator.edit = move_first_pointer
    with pytest.raises(Fault, match=r'reads 16 bytes at .*misaligned'):
        copy[(1,)](x[:256], torch.empty(256), 256, BLOCK=128, num_warps=1)


def move_first_pointer(ptx):
    """Add 4 bytes to the first pointer of a kernel after it was loaded."""
    return re.sub(r'(ld\.param\.b64\s+(%rd\d+), \[copy_param_0\];)', r'\1 add.s64 \2, \2, 4;', ptx)


@pytest.mark.parametrize('exponent', [0.5, -3.25])
def test_approximate_functions_are_off_by_what_a_gpu_may_be_off(emulator, exponent):
    x, y = torch.tensor([exponent]), torch.empty(1)
    exponentials[(1,)](x, y, num_warps=1)
    exact = x.double().exp2()
    ulp = 2.0 ** (torch.frexp(exact.float()).exponent.item() - 24)
    assert 1.4 * ulp < (y.double() - exact).abs().item() < 2.6 * ulp


@triton.jit
def exponentials(x, y):
    tl.store(y, tl.exp2(tl.load(x)))
