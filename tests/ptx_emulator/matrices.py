"""Instructions of a warp on small matrices: moving them through shared memory, and multiplying them."""

import numpy as np

from .arithmetic import opcode
from .faults import Fault
from .operands import address, bits, bits_to_float, registers_of


@opcode('ldmatrix', 'stmatrix')
def _matrices(instruction, program):
    """Matrices of 8 x 8 numbers of 16 bits: lanes 8 i to 8 i + 7 name the rows of matrix i; each lane holds a pair."""
    parts = instruction.parts
    counts = [int(part[1:]) for part in parts if part in ('x1', 'x2', 'x4')]
    if parts[-1] != 'b16' or 'm8n8' not in parts or not counts:
        raise instruction.unknown()
    loads = parts[0] == 'ldmatrix'
    registers, place = instruction.operands if loads else reversed(instruction.operands)
    where = address(instruction, program, place)
    names = registers_of(registers)
    transposed = 'trans' in parts
    lane = np.arange(32)

    def pieces(lanes, i):
        """Yield (address of each active lane, number of its first byte, bytes) for matrix ``i``."""
        rows = where(lanes).reshape(-1, 32)[:, 8 * i : 8 * i + 8]
        if (rows[lanes.active.reshape(-1, 32)[:, 0]] % 16).any():
            raise Fault('a row of a matrix is misaligned')
        if not transposed:
            yield (rows[:, lane // 4] + 4 * (lane % 4)).ravel()[lanes.active_lanes], 0, 4
            return
        for j in range(2):
            yield (rows[:, 2 * (lane % 4) + j] + 2 * (lane // 4)).ravel()[lanes.active_lanes], 2 * j, 2

    def run(lanes):
        lanes.check_whole_warps()
        memory, active = lanes.memory['shared'], lanes.active_lanes
        for i, name in enumerate(names):
            raw = np.zeros((len(active), 4), np.uint8)
            if not loads:
                raw = lanes.register(name)[active][:, None].view(np.uint8)
            for addresses, first, size in pieces(lanes, i):
                if loads:
                    raw[:, first : first + size] = memory.load(active, addresses, size)
                else:
                    memory.store(active, addresses, np.ascontiguousarray(raw[:, first : first + size]))
            if loads:
                lanes.put_active(name, np.ascontiguousarray(raw).view(np.uint32)[:, 0])

    return run


def _tf32(values):
    """Return what a tensor core reads of float32: 10 bits after the point."""
    return (values & np.uint32(0xFFFFE000)).view(np.float32)


def _rows_and_columns(rows, depth, packed):
    """Return (row, k) of A, (k, column) of B and (row, column) of C and D for each register, lane and half of it."""
    group, member = np.arange(32) // 4, np.arange(32) % 4
    a, b = [], []
    for k in range(0, depth, 4 * packed):
        along = np.stack([k + member * packed + i for i in range(packed)], 1)
        for row in range(0, rows, 8):
            a.append((np.repeat((group + row)[:, None], packed, 1), along))
        b.append((along, np.repeat(group[:, None], packed, 1)))
    c = [(group + row, 2 * member + i) for row in range(0, rows, 8) for i in range(2)]
    return a, b, c


@opcode('mma')
def _multiply_add(instruction, program):
    """D = A B + C of one warp, for A (16, k) and B (k, 8)."""
    *_, shape, _, _, d_kind, a_kind, b_kind, c_kind = instruction.parts
    known = {('m16n8k8', 'tf32'): 1, ('m16n8k4', 'tf32'): 1}
    known |= {(size, kind): 2 for size in ('m16n8k8', 'm16n8k16') for kind in ('f16', 'bf16')}
    packed = known.get((shape, a_kind))
    if packed is None or (d_kind, c_kind) != ('f32', 'f32') or a_kind != b_kind or 'row.col' not in instruction.opcode:
        raise instruction.unknown()
    depth = int(shape[6:])
    a_places, b_places, c_places = _rows_and_columns(16, depth, packed)
    targets, *sources = (registers_of(operand) for operand in instruction.operands)
    read = [[bits(instruction, program, name, 32) for name in names] for names in sources]

    def matrix(lanes, readers, places, size):
        result = np.zeros((lanes.count // 32, *size))
        for one, (row, column) in zip(readers, places, strict=True):
            x = lanes.spread(one(lanes))
            x = _tf32(x) if packed == 1 else bits_to_float(f'{a_kind}x2', x)
            result[:, row, column] = x.reshape(-1, 32, packed)
        return result

    def run(lanes):
        lanes.check_whole_warps()
        a = matrix(lanes, read[0], a_places, (16, depth))
        b = matrix(lanes, read[1], b_places, (depth, 8))
        product = a @ b
        for name, one, (row, column) in zip(targets, read[2], c_places, strict=True):
            c = lanes.spread(one(lanes)).view(np.float32)
            lanes.put(name, (product[:, row, column].ravel() + c).astype(np.float32).view(np.uint32))

    return run
