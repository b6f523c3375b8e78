"""Instructions on memory, and those that exchange numbers between the lanes of a warp."""

import numpy as np

from .arithmetic import opcode
from .faults import Fault
from .operands import SIGNED, UNSIGNED, address, bits, bits_of, registers_of

CACHE_POLICIES = ('createpolicy',)
FENCES = ('fence', 'membar', 'prefetch')


def _space_and_vector(instruction):
    """Return the space ('global', 'shared' or 'param') and the length of the vector of a load or store."""
    parts = [part.partition('::')[0] for part in instruction.parts[1:-1]]
    spaces = [part for part in parts if part in ('global', 'shared', 'param')]
    vectors = [int(part[1:]) for part in parts if part in ('v2', 'v4', 'v8')]
    known = ('global', 'shared', 'param', 'v2', 'v4', 'v8', 'nc', 'ca', 'cg', 'cs', 'lu', 'cv', 'wb', 'wt', 'volatile')
    if not spaces or set(parts) - {*known, 'weak', 'L1', 'L2'}:
        raise instruction.unknown()
    return spaces[0], (vectors or [1])[0]


@opcode('ld')
def _load(instruction, program):
    space, vector = _space_and_vector(instruction)
    kind = instruction.parts[-1]
    size = bits_of(kind) // 8
    where = address(instruction, program, instruction.operands[1])
    targets = registers_of(instruction.operands[0])
    widths = [program.width(name) for name in targets]
    if len(targets) != vector or kind == 'b128':
        raise instruction.unknown()
    unsigned = UNSIGNED[size * 8]

    def run(lanes):
        active = lanes.active_lanes
        addresses = where(lanes)[active]
        if space == 'param':
            raw = lanes.parameters[addresses[:, None] + np.arange(size * vector)]
        else:
            raw = lanes.memory[space].load(active, addresses, size * vector)
        parts = np.ascontiguousarray(raw).view(unsigned)
        for i, (name, width) in enumerate(zip(targets, widths, strict=True)):
            if name == '_':
                continue
            value = parts[:, i]
            if width != size * 8:
                wide = (SIGNED if kind[0] == 's' else UNSIGNED)[width]
                value = (value.view(SIGNED[size * 8]) if kind[0] == 's' else value).astype(wide).view(UNSIGNED[width])
            lanes.put_active(name, value)

    return run


@opcode('st')
def _store(instruction, program):
    space, vector = _space_and_vector(instruction)
    size = bits_of(instruction.parts[-1]) // 8
    where = address(instruction, program, instruction.operands[0])
    sources = registers_of(instruction.operands[1])
    if len(sources) != vector or space == 'param':
        raise instruction.unknown()
    read = [bits(instruction, program, source, size * 8) for source in sources]

    def run(lanes):
        active = lanes.active_lanes
        values = np.stack([lanes.spread(one(lanes))[active] for one in read], axis=1)
        lanes.memory[space].store(active, where(lanes)[active], values.view(np.uint8))

    return run


@opcode('cp')
def _asynchronous_copy(instruction, program):
    """Copies from global to shared memory arrive when the lane waits for them, not before."""
    parts = instruction.parts
    if parts[:3] == ['cp', 'async', 'commit_group']:
        return lambda lanes: lanes.copies.commit()
    if parts[:3] in (['cp', 'async', 'wait_group'], ['cp', 'async', 'wait_all']):
        left = int(instruction.operands[0], 0) if instruction.operands else 0
        return lambda lanes: lanes.copies.wait(left)
    if parts[:2] != ['cp', 'async'] or parts[2] not in ('ca', 'cg') or parts[3].partition('::')[0] != 'shared':
        raise instruction.unknown()
    to, of, size, *taken = instruction.operands
    to, of = address(instruction, program, to), address(instruction, program, of)
    size = int(size, 0)
    taken = bits(instruction, program, taken[0], 32) if taken else lambda lanes: np.uint32(size)

    def run(lanes):
        active = lanes.active_lanes
        count = lanes.spread(taken(lanes))[active]
        raw = np.zeros((len(active), size), np.uint8)
        if not np.isin(count, (0, size)).all():
            raise instruction.unknown('a copy that is cut off')
        reads = count > 0
        raw[reads] = lanes.memory['global'].load(active[reads], of(lanes)[active][reads], size)
        lanes.copies.start(to(lanes)[active], raw)

    return run


@opcode('shfl')
def _shuffle(instruction, program):
    mode = instruction.parts[2]
    target, _, predicate = instruction.operands[0].partition('|')
    source, by, clamp, members = (bits(instruction, program, one, 32) for one in instruction.operands[1:])

    def run(lanes):
        lanes.check_members(members(lanes))
        x, b, c = (lanes.spread(one(lanes)) for one in (source, by, clamp))
        lane = np.arange(lanes.count) % 32
        b, segment, c = b.astype(int) & 31, (c.astype(int) >> 8) & 31, c.astype(int) & 31
        last = (lane & segment) | (c & ~segment)
        chosen = {
            'up': lane - b,
            'down': lane + b,
            'bfly': lane ^ b,
            'idx': (lane & segment) | (b & ~segment),
        }[mode]
        inside = chosen >= last if mode == 'up' else chosen <= last
        chosen = np.where(inside, chosen, lane) + np.arange(lanes.count) - lane
        if not lanes.active[chosen][lanes.active].all():
            raise Fault('a lane asks for the number of a lane that does not take part')
        lanes.put(target, x[chosen])
        if predicate:
            lanes.put(predicate, inside)

    return run


REDUCTIONS = {
    'add': np.add,
    'min': np.minimum,
    'max': np.maximum,
    'and': np.bitwise_and,
    'or': np.bitwise_or,
    'xor': np.bitwise_xor,
}


@opcode('redux')
def _reduce(instruction, program):
    _, _, name, kind = instruction.parts
    target, source, members = instruction.operands
    width = bits_of(kind)
    read, members = (bits(instruction, program, one, width) for one in (source, members))

    def run(lanes):
        lanes.check_members(members(lanes))
        lanes.check_whole_warps()
        x = lanes.spread(read(lanes)).reshape(-1, 32)
        x = x.view(np.int32) if kind == 's32' else x
        lanes.put(target, np.repeat(REDUCTIONS[name].reduce(x, axis=1, dtype=x.dtype), 32).view(np.uint32))

    return run


@opcode('vote')
def _vote(instruction, program):
    _, _, name, _ = instruction.parts
    target, source, members = instruction.operands
    read, members = bits(instruction, program, source, 1), bits(instruction, program, members, 32)
    if name not in ('all', 'any', 'ballot'):
        raise instruction.unknown()

    def run(lanes):
        lanes.check_members(members(lanes))
        votes = (lanes.spread(read(lanes)) & lanes.active).reshape(-1, 32)
        if name == 'ballot':
            result = (votes.astype(np.uint64) << np.arange(32, dtype=np.uint64)).sum(1).astype(np.uint32)
        elif name == 'any':
            result = votes.any(1)
        else:
            result = (votes | ~lanes.active.reshape(-1, 32)).all(1)
        lanes.put(target, np.repeat(result, 32))

    return run


@opcode(*FENCES)
def _nothing(instruction, program):
    """Order between memories, and hints: here every access is complete when the next instruction starts."""
    return lambda lanes: None


@opcode(*CACHE_POLICIES)
def _policy(instruction, program):
    target = instruction.operands[0]
    return lambda lanes: lanes.put(target, np.uint64(0))
