"""Single PTX instructions in the emulator, against values worked out by hand or with Python's integers and floats."""

import struct

import numpy as np
import pytest
from ptx_emulator import Fault, UnknownInstructionError, lanes
from ptx_emulator.instructions import prepare
from ptx_emulator.memory import Memory
from ptx_emulator.parser import parse

BASE = 1 << 36
TEXT = """
.version 8.0
.target sm_90
.visible .entry one(
	.param .u64 .ptr .global .align 1 one_param_0
)
.reqntid 32
{{
	.reg .pred 	%p<9>;
	.reg .b16 	%rs<9>;
	.reg .b32 	%r<9>;
	.reg .b64 	%rd<9>;
	.loc	1 15 0                          // one.py:15:0
	ld.param.b64 	%rd1, [one_param_0];
	mov.u32 	%r8, %tid.x;
	{body}
	mad.wide.u32 	%rd2, %r8, 4, %rd1;
	st.global.b32 	[%rd2], %r1;
	ret;
}}
"""


def run(body, threads=32):
    """Run a program of one warp, or more, and return register r1 of each lane; r8 has the number of the lane."""
    program = prepare(parse(TEXT.format(body=body)))

    def memory(order):
        made = Memory('global', 4 * threads, order, address=BASE)
        made.exists[:] = True
        return made

    launch = lanes.Lanes(program, (1, 1, 1), threads // 32, memory, BASE.to_bytes(8, 'little'), 512)
    launch.run()
    return launch.memory['global'].data.view(np.uint32)


def as_float(number):
    return f'0f{struct.unpack("<I", struct.pack("<f", number))[0]:08X}'


@pytest.mark.parametrize(
    ('instruction', 'expected'),
    [
        ('add.s32 %r1, 2147483647, 1', 2**31),
        ('sub.s32 %r1, 3, 5', 2**32 - 2),
        ('mul.lo.s32 %r1, 65537, 65537', 65537**2 % 2**32),
        ('mul.hi.u32 %r1, 4294967295, 4294967295', 2**32 - 2),
        ('mul.hi.s32 %r1, -1, 1', 2**32 - 1),
        ('mad.lo.s32 %r1, 7, -3, 1', 2**32 - 20),
        ('div.s32 %r1, -7, 2', 2**32 - 3),
        ('rem.s32 %r1, -7, 2', 2**32 - 1),
        ('div.u32 %r1, 4294967289, 2', 2147483644),
        ('min.s32 %r1, -1, 1', 2**32 - 1),
        ('min.u32 %r1, -1, 1', 1),
        ('abs.s32 %r1, -5', 5),
        ('shl.b32 %r1, 3, 31', 2**31),
        ('shl.b32 %r1, 3, 32', 0),
        ('shr.u32 %r1, -1, 28', 15),
        ('shr.s32 %r1, -16, 2', 2**32 - 4),
        ('shr.s32 %r1, -16, 99', 2**32 - 1),
        ('shf.l.wrap.b32 %r1, 0x80000001, 2, 1', 5),
        ('shf.r.wrap.b32 %r1, 4, 1, 1', 2**31 + 2),
        ('bfe.u32 %r1, 0xABCD, 4, 8', 0xBC),
        ('bfe.s32 %r1, 0xABCD, 4, 8', 2**32 - 0x44),
        ('bfi.b32 %r1, 0xF, 0x1000, 4, 3', 0x1070),
        ('prmt.b32 %r1, 0x33221100, 0x77665544, 0x7531', 0x77553311),
        ('prmt.b32 %r1, 0x80, 0, 0x4008', 0x8080FF),
        ('lop3.b32 %r1, 12, 10, 9, 0xE8', 8),  # what most of three bits say
        ('popc.b32 %r1, 0xF0F', 8),
        ('clz.b32 %r1, 1', 31),
        ('brev.b32 %r1, 1', 2**31),
        ('not.b32 %r1, 0', 2**32 - 1),
        ('cvt.rn.f32.s32 %r1, -3', 0xC0400000),
        ('cvt.rzi.s32.f32 %r1, 0fC0200000', 2**32 - 2),  # -2.5
        ('cvt.rni.s32.f32 %r1, 0f40200000', 2),  # 2.5
        ('cvt.rmi.f32.f32 %r1, 0fC0200000', 0xC0400000),
        ('cvt.rzi.s32.f32 %r1, 0f7F800000', 2**31 - 1),  # infinity
        ('cvt.rn.bf16x2.f32 %r1, 0f3F800000, 0fC0000000', 0x3F80C000),
        ('cvt.rn.f16x2.f32 %r1, 0f3F800000, 0fC0000000', 0x3C00C000),
        ('cvt.rn.bf16.f32 %rs1, 0f3F808000; cvt.u32.u16 %r1, %rs1', 0x3F80),  # half way: to even
        ('cvt.rn.bf16.f32 %rs1, 0f3F818000; cvt.u32.u16 %r1, %rs1', 0x3F82),
        ('cvt.rn.f16.f32 %rs1, 0f47800000; cvt.u32.u16 %r1, %rs1', 0x7C00),  # 65536 is infinity
        ('mov.b16 %rs1, 0xC000; cvt.f32.bf16 %r1, %rs1', 0xC0000000),
        ('cvt.s64.s32 %rd3, -1; shr.u64 %rd3, %rd3, 60; cvt.u32.u64 %r1, %rd3', 15),
        ('mul.wide.s32 %rd3, -2, 3; cvt.u32.u64 %r1, %rd3', 2**32 - 6),
        ('mul.wide.u32 %rd3, -1, 2; shr.u64 %rd3, %rd3, 32; cvt.u32.u64 %r1, %rd3', 1),
        ('mov.b32 {%rs1, %rs2}, 0x20001; mov.b32 %r1, {%rs2, %rs1}', 0x10002),
        ('add.f32 %r1, 0f3F800000, 0f33800000', 0x3F800000),  # 1 + 2**-24: to even
        ('fma.rn.f32 %r1, 0f3F800001, 0f3F800001, 0fBF800002', 0x28800000),  # (1 + e)**2 - 1 - 2 e, rounded once
        ('max.f32 %r1, 0f7FC00000, 0f3F800000', 0x3F800000),
        ('max.NaN.f32 %r1, 0f7FC00000, 0f3F800000', 0x7FC00000),
        ('mul.bf16x2 %r1, 0x40004000, 0x40403F80', 0x40C04000),
        ('copysign.f32 %r1, 0f80000000, 0f3F800000', 0xBF800000),
        ('setp.lt.f32 %p1, 0f7FC00000, 0f3F800000; selp.b32 %r1, 1, 0, %p1', 0),
        ('setp.ltu.f32 %p1, 0f7FC00000, 0f3F800000; selp.b32 %r1, 1, 0, %p1', 1),
        ('setp.ne.f32 %p1, 0f7FC00000, 0f7FC00000; selp.b32 %r1, 1, 0, %p1', 0),
        ('setp.neu.f32 %p1, 0f7FC00000, 0f7FC00000; selp.b32 %r1, 1, 0, %p1', 1),
        ('setp.lt.s32 %p1, -1, 1; setp.lt.and.u32 %p2, -1, 1, %p1; selp.b32 %r1, 1, 0, %p2', 0),
    ],
)
def test_instruction_gives(instruction, expected):
    assert [hex(number) for number in run(instruction + ';')] == [hex(expected)] * 32


@pytest.mark.parametrize(
    ('instruction', 'source'),
    [
        ('shfl.sync.bfly.b32 %r1, %r8, 5, 31, -1', lambda i: i ^ 5),
        ('shfl.sync.idx.b32 %r1, %r8, 3, 31, -1', lambda i: 3),
        ('shfl.sync.up.b32 %r1, %r8, 2, 0, -1', lambda i: i - 2 if i >= 2 else i),
        ('shfl.sync.down.b32 %r1, %r8, 2, 31, -1', lambda i: i + 2 if i < 30 else i),
        ('shfl.sync.idx.b32 %r1, %r8, 1, 0x181F, -1', lambda i: i // 8 * 8 + 1),  # in groups of 8
        ('redux.sync.add.s32 %r1, %r8, -1', lambda i: 31 * 16),
        ('setp.lt.u32 %p1, %r8, 3; vote.sync.ballot.b32 %r1, %p1, -1', lambda i: 7),
        ('setp.lt.u32 %p1, %r8, 3; mov.b32 %r1, 9; @%p1 mov.b32 %r1, 4', lambda i: 4 if i < 3 else 9),
        ('setp.lt.u32 %p1, %r8, 3; mov.b32 %r1, 9; @%p1 bra $L1; mov.b32 %r1, 4; $L1: add.s32 %r1, %r1, 1',
         lambda i: 10 if i < 3 else 5),
        ('mov.b32 %r1, 0; $L1: add.s32 %r1, %r1, 1; setp.lt.u32 %p1, %r1, %r8; @%p1 bra $L1', lambda i: max(i, 1)),
    ],
)  # fmt: skip
def test_each_lane_gets(instruction, source):
    assert run(instruction + ';').tolist() == [source(i) for i in range(32)]


def test_matrices_go_through_shared_memory():
    """A lane holds two neighbours of a row of 8; transposed, two neighbours of a column."""
    store = 'shl.b32 %r2, %r8, 4; and.b32 %r2, %r2, 127; stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r2], {%r8};'
    load = 'bar.warp.sync -1; ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%r1}, [%r2];'
    matrix = np.arange(32, dtype=np.uint32).view(np.uint16).reshape(8, 8)
    assert run(store + load).tolist() == np.ascontiguousarray(matrix.T).view(np.uint32).ravel().tolist()


def test_warps_meet_at_a_barrier():
    """Each lane reads what the lane 32 places away has written."""
    write = 'shl.b32 %r2, %r8, 2; st.shared.b32 [%r2], %r8; xor.b32 %r3, %r2, 128;'
    for barrier in ('bar.sync 0;', 'bar.warp.sync -1;', ''):
        body = write + barrier + 'ld.shared.b32 %r1, [%r3];'
        if barrier.startswith('bar.sync'):
            assert run(body, threads=64).tolist() == [i ^ 32 for i in range(64)]
        else:
            with pytest.raises(Fault, match=r'race: lane 0 of program 0 reads|was never written'):
                run(body, threads=64)


@pytest.mark.parametrize(
    ('body', 'message'),
    [
        ('ld.shared.b32 %r1, [512];', 'lane 0 of program 0 reads 4 bytes at byte 512 of shared memory: outside'),
        ('ld.shared.b32 %r1, [2];', 'misaligned'),
        ('ld.shared.b32 %r1, [0];', 'byte 0 of shared memory: it was never written'),
        ('setp.lt.u32 %p1, %r8, 3; @%p1 shfl.sync.bfly.b32 %r1, %r8, 1, 31, -1;', 'lanes that take part are not those'),
        ('st.shared.b32 [0], %r8;', 'write different values to byte 0 of shared memory'),
        ('$L1: bra $L1;', 'more than 999 instructions'),
    ],
)  # fmt: skip
def test_fault_is_reported_with_its_line(body, message, monkeypatch):
    monkeypatch.setattr(lanes, 'MAX_STEPS', 999)
    with pytest.raises(Fault, match=message) as caught:
        run(body)
    assert 'one' in str(caught.value)


def test_an_unknown_instruction_is_named():
    with pytest.raises(UnknownInstructionError, match=r"line 16 of the PTX, one.py:15: .*does not know 'tex.2d'"):
        run('tex.2d %r1, [%rd1];')
    with pytest.raises(UnknownInstructionError, match='the barrier 1'):
        run('bar.sync 1, 64;')
