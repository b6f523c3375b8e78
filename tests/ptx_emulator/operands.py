"""Readers of operands: each is a function of the lanes that returns one number per lane, or one for all of them."""

import re

import numpy as np

UNSIGNED = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
SIGNED = {8: np.int8, 16: np.int16, 32: np.int32, 64: np.int64}
#: float type -> (bits of a register, how many numbers lie in it)
FLOATS = {'f16': (16, 1), 'bf16': (16, 1), 'f32': (32, 1), 'f64': (64, 1), 'f16x2': (32, 2), 'bf16x2': (32, 2)}
ADDRESS = re.compile(r'\[\s*([^\s+\]]+)\s*(?:\+\s*(-?\w+))?\s*\]')
SHARED_ARRAY = 'global_smem'


def bits_of(kind):
    """Return the bits of a type such as 'u32', 'bf16x2' or 'pred'."""
    if kind == 'pred':
        return 1
    return FLOATS[kind][0] if kind in FLOATS else int(kind[1:])


def registers_of(operand):
    """Return the registers of '{a, b}', or of 'a'."""
    return [name.strip() for name in operand.strip('{} ').split(',')]


def constant(instruction, program, text):
    """Return the number of an immediate operand, as bits."""
    symbol, _, offset = text.partition('+')
    if symbol in program.parameters or symbol == SHARED_ARRAY:
        return program.parameters.get(symbol, (0,))[0] + int(offset or 0)
    if text[:2] in ('0f', '0F', '0d', '0D'):
        return int(text[2:], 16)
    try:
        return int(text.rstrip('U'), 0)
    except ValueError:
        raise instruction.unknown(f'the operand {text!r}') from None


def bits(instruction, program, operand, width):
    """Return a reader of ``width`` bits as an unsigned integer; of a bool for a width of 1."""
    if operand.startswith('!'):
        inner = bits(instruction, program, operand[1:], width)
        return lambda lanes: ~inner(lanes)
    own = program.width(operand)
    if own == width:
        return lambda lanes: lanes.register(operand)
    if own:
        kind = UNSIGNED[width]
        return lambda lanes: lanes.register(operand).astype(kind)
    if operand.startswith('%'):
        name = operand
        kind = UNSIGNED[width]
        if name not in SPECIAL:
            raise instruction.unknown(f'the register {name!r}')
        read = SPECIAL[name]
        return lambda lanes: read(lanes).astype(kind)
    value = constant(instruction, program, operand)
    value = np.bool_(value) if width == 1 else UNSIGNED[width](value & ((1 << width) - 1))
    return lambda lanes: value


SPECIAL = {
    '%tid.x': lambda lanes: lanes.thread,
    '%tid.y': lambda lanes: lanes.zero,
    '%tid.z': lambda lanes: lanes.zero,
    '%laneid': lambda lanes: lanes.thread % 32,
    '%warpid': lambda lanes: lanes.thread // 32,
    '%ntid.x': lambda lanes: lanes.zero + lanes.threads,
    '%clusterid.x': lambda lanes: lanes.program_xyz[0],
    '%cluster_ctarank': lambda lanes: lanes.zero,
    **{f'%ctaid.{axis}': (lambda lanes, i=i: lanes.program_xyz[i]) for i, axis in enumerate('xyz')},
    **{f'%nctaid.{axis}': (lambda lanes, i=i: lanes.zero + lanes.grid[i]) for i, axis in enumerate('xyz')},
}


def integers(instruction, program, operand, kind):
    """Return a reader of a type such as 's32', 'u64' or 'b16'."""
    width = bits_of(kind)
    read = bits(instruction, program, operand, width)
    if kind[0] == 's':
        return lambda lanes: read(lanes).view(SIGNED[width])
    return read


def bits_to_float(kind, values):
    """Return the numbers, as float32 or float64, that unsigned integers stand for; x2 types give two in a row."""
    width, packed = FLOATS[kind]
    if packed == 2:
        values = values.view(np.uint16)
    if kind.startswith('bf16'):
        return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if kind.startswith('f16'):
        return values.view(np.float16).astype(np.float32)
    return values.view({32: np.float32, 64: np.float64}[width])


def float_to_bits(kind, numbers):
    """Return the unsigned integers of numbers, rounded to the nearest (ties to even) of the type."""
    if kind.startswith('bf16'):
        single = np.asarray(numbers, np.float32)
        wide = single.view(np.uint32).astype(np.uint64)
        rounded = (wide + np.uint64(0x7FFF) + ((wide >> np.uint64(16)) & np.uint64(1))) >> np.uint64(16)
        half = np.where(np.isnan(single), np.uint16(0x7FFF), rounded.astype(np.uint16))
        return half.view(np.uint32) if kind == 'bf16x2' else half
    if kind.startswith('f16'):
        half = np.asarray(numbers, np.float16).view(np.uint16)
        return half.view(np.uint32) if kind == 'f16x2' else half
    return np.asarray(numbers, {'f32': np.float32, 'f64': np.float64}[kind]).view(UNSIGNED[FLOATS[kind][0]])


def floats(instruction, program, operand, kind):
    """Return a reader of a float type; two numbers per lane for x2 types."""
    width, packed = FLOATS[kind]
    read = bits(instruction, program, operand, width)
    if packed == 2:
        return lambda lanes: bits_to_float(kind, lanes.spread(read(lanes)))
    return lambda lanes: bits_to_float(kind, read(lanes))


def address(instruction, program, operand):
    """Return a reader of an address such as '[%rd1+4]', as int64."""
    found = ADDRESS.fullmatch(operand)
    if not found:
        raise instruction.unknown(f'the address {operand!r}')
    base, offset = found[1], int(found[2] or '0', 0)
    width = program.width(base)
    if width is None:
        start = constant(instruction, program, base) + offset
        return lambda lanes: np.full(lanes.count, start, np.int64)
    return lambda lanes: lanes.register(base).astype(np.int64) + offset
