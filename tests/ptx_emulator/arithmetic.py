"""Instructions on registers. Where a GPU may be off by some ulp, these results are off by as much as PTX allows."""

import operator

import numpy as np

from .operands import (
    FLOATS,
    SIGNED,
    UNSIGNED,
    bits,
    bits_of,
    float_to_bits,
    floats,
    integers,
    registers_of,
)

OPCODES = {}


def opcode(*names):
    def register(function):
        OPCODES.update(dict.fromkeys(names, function))
        return function

    return register


def is_float(kind):
    return kind in FLOATS


def off_by(ulps, exact, operand):
    """Return numbers that are ``ulps`` above or below the exact ones, by turns of the operand's last bit."""
    single = np.asarray(exact, np.float32)
    pattern = single.view(np.int32)
    sign = np.where(operand.view(np.uint32) & np.uint32(1), np.int32(ulps), np.int32(-ulps))
    ordinary = np.isfinite(single) & (np.abs(single) > np.float32(2e-38))
    return np.where(ordinary, pattern + sign, pattern).astype(np.int32).view(np.float32)


def flushed(numbers):
    """Return numbers with zero for subnormal ones."""
    return np.where(np.abs(numbers) < np.float32(1.1754944e-38), np.float32(0) * numbers, numbers)


def _of_floats(compute, wide=False):
    """With ``wide`` the numbers are computed as float64 and rounded once, as a fused multiply-add is."""

    def build(instruction, program):
        kind = instruction.parts[-1]
        target, *sources = instruction.operands
        read = [floats(instruction, program, source, kind) for source in sources]

        def run(lanes):
            numbers = [one(lanes) for one in read]
            if wide:
                numbers = [x.astype(np.float64) for x in numbers]
            lanes.put(target, float_to_bits(kind, compute(*numbers)))

        return run

    return build


def _of_integers(compute):
    def build(instruction, program):
        kind = instruction.parts[-1]
        target, *sources = instruction.operands
        unsigned = UNSIGNED[bits_of(kind)]
        read = [integers(instruction, program, source, kind) for source in sources]

        def run(lanes):
            lanes.put(target, np.asarray(compute(*(one(lanes) for one in read))).view(unsigned))

        return run

    return build


def _of_both(name, compute):
    def build(instruction, program):
        make = _of_floats if is_float(instruction.parts[-1]) else _of_integers
        return make(compute)(instruction, program)

    OPCODES[name] = build


_of_both('add', operator.add)
_of_both('sub', operator.sub)
_of_both('neg', operator.neg)
_of_both('abs', np.abs)


def _smallest_or_largest(name, ignoring, keeping):
    """Of a number and a NaN, PTX takes the number, or the NaN with '.NaN'."""

    def build(instruction, program):
        if not is_float(instruction.parts[-1]):
            return _of_integers(keeping)(instruction, program)
        return _of_floats(keeping if 'NaN' in instruction.parts else ignoring)(instruction, program)

    OPCODES[name] = build


_smallest_or_largest('min', np.fmin, np.minimum)
_smallest_or_largest('max', np.fmax, np.maximum)


@opcode('fma')
def _fma(instruction, program):
    return _of_floats(lambda a, b, c: a * b + c, wide=True)(instruction, program)


@opcode('mul', 'mad')
def _multiply(instruction, program):
    kind = instruction.parts[-1]
    if is_float(kind):
        make = _of_floats(operator.mul) if instruction.parts[0] == 'mul' else _fma
        return make(instruction, program)
    target, *sources = instruction.operands
    width = bits_of(kind)
    read = [integers(instruction, program, source, kind) for source in sources[:2]]
    wide, high = 'wide' in instruction.parts, 'hi' in instruction.parts
    result = width * 2 if wide else width
    addend = bits(instruction, program, sources[2], result) if len(sources) > 2 else lambda lanes: UNSIGNED[result](0)
    if high and width == 64:
        raise instruction.unknown()
    double = (SIGNED if kind[0] == 's' else UNSIGNED)[min(2 * width, 64)]

    def run(lanes):
        a, b = (one(lanes) for one in read)
        if wide or high:
            product = np.asarray(a.astype(double) * b.astype(double))
            if high:
                product = product >> double(width)
        else:
            product = np.asarray(a * b)
        lanes.put(target, product.astype(UNSIGNED[result]) + addend(lanes))

    return run


@opcode('div', 'rem')
def _divide(instruction, program):
    kind = instruction.parts[-1]
    target, *sources = instruction.operands
    if is_float(kind):
        approximate = 'full' in instruction.parts or 'approx' in instruction.parts
        read = [floats(instruction, program, source, kind) for source in sources]

        def run(lanes):
            a, b = (one(lanes) for one in read)
            exact = a.astype(np.float64) / b.astype(np.float64)
            lanes.put(target, float_to_bits(kind, off_by(2, exact, b) if approximate else exact))

        return run

    def compute(a, b):
        # truncated towards zero, as in C; a division by zero gives all ones
        safe = np.where(b == 0, np.ones_like(b), b)
        quotient = a // safe
        quotient = np.where((quotient * safe != a) & ((a < 0) != (safe < 0)), quotient + np.ones_like(safe), quotient)
        result = quotient if instruction.parts[0] == 'div' else a - quotient * safe
        return np.where(b == 0, ~np.zeros_like(b), result)

    return _of_integers(compute)(instruction, program)


#: name -> (function, ulps by which a GPU may be off; see the PTX manual)
APPROXIMATE = {
    'ex2': (np.exp2, 2),
    'lg2': (np.log2, 2),
    'rcp': (np.reciprocal, 1),
    'sqrt': (np.sqrt, 1),
    'rsqrt': (lambda x: 1 / np.sqrt(x), 2),
    'sin': (np.sin, 4),
    'cos': (np.cos, 4),
    'tanh': (np.tanh, 2**12),
}


@opcode(*APPROXIMATE)
def _function(instruction, program):
    name, *_, kind = instruction.parts
    compute, ulps = APPROXIMATE[name]
    target, source = instruction.operands
    read = floats(instruction, program, source, kind)
    flush = 'ftz' in instruction.parts
    exact = 'rn' in instruction.parts or kind == 'f64'

    def run(lanes):
        x = read(lanes)
        y = compute((flushed(x) if flush else x).astype(np.float64))
        if not exact:
            y = off_by(ulps, y, x.astype(np.float32))
        lanes.put(target, float_to_bits(kind, flushed(y) if flush else y))

    return run


# -- bits


def _logic(name, compute):
    def build(instruction, program):
        width = bits_of(instruction.parts[-1])
        target, *sources = instruction.operands
        read = [bits(instruction, program, source, width) for source in sources]
        return lambda lanes: lanes.put(target, np.asarray(compute(*(one(lanes) for one in read))))

    OPCODES[name] = build


_logic('and', operator.and_)
_logic('or', operator.or_)
_logic('xor', operator.xor)
_logic('not', operator.invert)


@opcode('lop3')
def _lop3(instruction, program):
    target, *sources, table = instruction.operands
    read = [bits(instruction, program, source, 32) for source in sources]
    table = int(table, 0)

    def run(lanes):
        a, b, c = (one(lanes) for one in read)
        result = np.zeros(lanes.count, np.uint32)
        for row in range(8):
            if table >> row & 1:
                result |= (a if row & 4 else ~a) & (b if row & 2 else ~b) & (c if row & 1 else ~c)
        lanes.put(target, result)

    return run


@opcode('shl', 'shr')
def _shift(instruction, program):
    name, kind = instruction.parts[0], instruction.parts[-1]
    width = bits_of(kind)
    target, source, by = instruction.operands
    read = integers(instruction, program, source, kind)
    amount = bits(instruction, program, by, 32)

    def run(lanes):
        x, n = np.asarray(read(lanes)), np.asarray(amount(lanes))
        inside = np.minimum(n, np.uint32(width - 1)).astype(x.dtype)
        shifted = x << inside if name == 'shl' else x >> inside
        if kind[0] != 's' or name == 'shl':  # an arithmetic shift keeps the sign, however far it goes
            shifted = np.where(n >= width, x.dtype.type(0), shifted)
        lanes.put(target, np.asarray(shifted).view(UNSIGNED[width]))

    return run


@opcode('shf')
def _funnel_shift(instruction, program):
    target, *sources = instruction.operands
    read = [bits(instruction, program, source, 32) for source in sources]
    left, wraps = 'l' in instruction.parts, 'wrap' in instruction.parts

    def run(lanes):
        low, high, n = (one(lanes).astype(np.uint64) for one in read)
        n = n & np.uint64(31) if wraps else np.minimum(n, np.uint64(32))
        both = (high << np.uint64(32)) | low
        result = (both << n) >> np.uint64(32) if left else both >> n
        lanes.put(target, np.asarray(result).astype(np.uint32))

    return run


@opcode('bfe')
def _extract(instruction, program):
    kind = instruction.parts[-1]
    width = bits_of(kind)
    target, source, position, length = instruction.operands
    read = integers(instruction, program, source, kind)
    numbers = [bits(instruction, program, one, 32) for one in (position, length)]

    def run(lanes):
        x = lanes.spread(read(lanes))
        first, count = (lanes.spread(one(lanes)).astype(np.int64) & 255 for one in numbers)
        if (first + count > width).any():
            raise instruction.unknown('a field beyond the register')
        # move the field to the top, then down again, which repeats the sign of a signed field
        up = x << (width - first - count).clip(0, width - 1).astype(x.dtype)
        down = up >> (width - count).clip(0, width - 1).astype(x.dtype)
        lanes.put(target, np.where(count == 0, x.dtype.type(0), down).view(UNSIGNED[width]))

    return run


@opcode('bfi')
def _insert(instruction, program):
    width = bits_of(instruction.parts[-1])
    kind = UNSIGNED[width]
    target, source, into, position, length = instruction.operands
    read = [bits(instruction, program, one, width) for one in (source, into)]
    numbers = [bits(instruction, program, one, 32) for one in (position, length)]

    def run(lanes):
        x, base = (lanes.spread(one(lanes)) for one in read)
        first, count = (lanes.spread(one(lanes)).astype(kind) & kind(255) for one in numbers)
        ones = np.where(count >= width, ~kind(0), (kind(1) << np.minimum(count, kind(width - 1))) - kind(1))
        lanes.put(target, (base & ~(ones << first)) | ((x & ones) << first))

    return run


@opcode('prmt')
def _permute_bytes(instruction, program):
    if instruction.parts != ['prmt', 'b32']:
        raise instruction.unknown()
    target, *sources = instruction.operands
    read = [bits(instruction, program, source, 32) for source in sources]

    def run(lanes):
        low, high, selector = (lanes.spread(one(lanes)).astype(np.uint64) for one in read)
        both = (high << np.uint64(32)) | low
        result = np.zeros(lanes.count, np.uint64)
        for i in range(4):
            choice = (selector >> np.uint64(4 * i)) & np.uint64(15)
            byte = (both >> (np.uint64(8) * (choice & np.uint64(7)))) & np.uint64(255)
            sign = np.where(byte & np.uint64(128), np.uint64(255), np.uint64(0))
            result |= np.where(choice & np.uint64(8), sign, byte) << np.uint64(8 * i)
        lanes.put(target, result.astype(np.uint32))

    return run


@opcode('popc', 'clz', 'brev')
def _count_bits(instruction, program):
    name, kind = instruction.parts
    width = bits_of(kind)
    target, source = instruction.operands
    read = bits(instruction, program, source, width)

    def run(lanes):
        x = lanes.spread(read(lanes))
        table = (x[:, None] >> np.arange(width - 1, -1, -1).astype(x.dtype)) & x.dtype.type(1)  # highest bit first
        if name == 'popc':
            result = table.sum(1).astype(np.uint32)
        elif name == 'clz':
            result = np.where(table.any(1), table.argmax(1), width).astype(np.uint32)
        else:
            result = (table << np.arange(width).astype(x.dtype)).sum(1).astype(x.dtype)
        lanes.put(target, result)

    return run


@opcode('copysign')
def _copysign(instruction, program):
    target, sign, magnitude = instruction.operands
    read = [bits(instruction, program, source, 32) for source in (sign, magnitude)]
    top = np.uint32(1 << 31)

    def run(lanes):
        a, b = (one(lanes) for one in read)
        lanes.put(target, np.asarray((a & top) | (b & ~top)))

    return run


# -- choices


COMPARISONS = {
    'eq': operator.eq,
    'ne': operator.ne,
    'lt': operator.lt,
    'le': operator.le,
    'gt': operator.gt,
    'ge': operator.ge,
    'lo': operator.lt,
    'ls': operator.le,
    'hi': operator.gt,
    'hs': operator.ge,
}


@opcode('setp')
def _compare(instruction, program):
    _, name, *rest, kind = instruction.parts
    target, *sources = instruction.operands
    if '|' in target:
        raise instruction.unknown('two results')
    reader = floats if is_float(kind) else integers
    read = [reader(instruction, program, source, kind) for source in sources[:2]]
    joined = [part for part in rest if part in ('and', 'or', 'xor')]
    join = {'and': operator.and_, 'or': operator.or_, 'xor': operator.xor}[joined[0]] if joined else None
    third = bits(instruction, program, sources[2], 1) if joined else None
    unordered_too = is_float(kind) and name.endswith('u') and name[:-1] in COMPARISONS
    if name not in (*COMPARISONS, 'nan', 'num') and not unordered_too:
        raise instruction.unknown()

    def run(lanes):
        a, b = (one(lanes) for one in read)
        nan = np.isnan(a) | np.isnan(b) if is_float(kind) else None
        if name in ('nan', 'num'):
            result = nan if name == 'nan' else ~nan
        elif unordered_too:
            result = COMPARISONS[name[:-1]](a, b) | nan
        else:
            result = COMPARISONS[name](a, b)
            if is_float(kind):
                result = result & ~nan
        lanes.put(target, np.asarray(join(result, third(lanes)) if join else result))

    return run


@opcode('selp')
def _select(instruction, program):
    width = bits_of(instruction.parts[-1])
    target, *sources, predicate = instruction.operands
    read = [bits(instruction, program, source, width) for source in sources]
    choose = bits(instruction, program, predicate, 1)
    return lambda lanes: lanes.put(target, np.where(choose(lanes), read[0](lanes), read[1](lanes)))


# -- moves and conversions


@opcode('mov')
def _move(instruction, program):
    width = bits_of(instruction.parts[-1])
    target, source = instruction.operands
    if target.startswith('{'):
        targets = registers_of(target)
        read = bits(instruction, program, source, width)
        part = width // len(targets)
        kind = UNSIGNED[part]

        def unpack(lanes):
            x = read(lanes)
            for i, name in enumerate(targets):
                lanes.put(name, np.asarray(x >> x.dtype.type(i * part)).astype(kind))

        return unpack
    if source.startswith('{'):
        sources = registers_of(source)
        part = width // len(sources)
        readers = [bits(instruction, program, name, part) for name in sources]
        kind = UNSIGNED[width]

        def pack(lanes):
            x = kind(0)
            for i, one in enumerate(readers):
                x = x | (one(lanes).astype(kind) << kind(i * part))
            lanes.put(target, np.asarray(x))

        return pack
    read = bits(instruction, program, source, width)
    return lambda lanes: lanes.put(target, np.asarray(read(lanes)))


@opcode('cvta')
def _same_address(instruction, program):
    return _move(instruction, program)


ROUNDINGS = {'rni': np.rint, 'rzi': np.trunc, 'rmi': np.floor, 'rpi': np.ceil}


@opcode('cvt')
def _convert(instruction, program):
    *modes, to, of = instruction.parts[1:]
    target, *sources = instruction.operands
    reader = floats if is_float(of) else integers
    if to.endswith('x2') and of == 'f32':  # two numbers into one register, the first into the upper half
        readers = [floats(instruction, program, source, of) for source in sources]
        half = to[:-2]

        def pack(lanes):
            upper, lower = (float_to_bits(half, lanes.spread(one(lanes))).astype(np.uint32) for one in readers)
            lanes.put(target, (upper << np.uint32(16)) | lower)

        return pack
    if (modes, to, of) == (['rna'], 'tf32', 'f32'):  # to the nearest with 10 bits after the point, ties away from zero
        nearest = bits(instruction, program, sources[0], 32)
        mask = np.uint32(0xFFFFE000)
        return lambda lanes: lanes.put(target, np.asarray((nearest(lanes) + np.uint32(0x1000)) & mask))
    if {to, of} - {*FLOATS} - {f'{letter}{width}' for letter in 'sub' for width in (8, 16, 32, 64)}:
        raise instruction.unknown()
    if set(modes) - {'rn', 'rz', 'sat', 'ftz', *ROUNDINGS}:
        raise instruction.unknown()
    read = reader(instruction, program, sources[0], of)
    rounding = next((ROUNDINGS[mode] for mode in modes if mode in ROUNDINGS), None)
    if 'rz' in modes:
        raise instruction.unknown()
    saturates = 'sat' in modes
    own = program.width(target)

    def run(lanes):
        x = read(lanes)
        if rounding:
            x = rounding(x)
        if is_float(to):
            if saturates:
                x = np.where(np.isnan(x), 0, np.clip(x, 0, 1))
            lanes.put(target, float_to_bits(to, x))
            return
        width = bits_of(to)
        integer = (SIGNED if to[0] == 's' else UNSIGNED)[width]
        if is_float(of) or saturates:
            limits = np.iinfo(integer)
            if is_float(of):
                x = np.where(np.isnan(x), 0, x).astype(np.float64)
                top = np.nextafter(float(limits.max) + 1, 0) if width == 64 else float(limits.max)
                x = np.clip(x, float(limits.min), top)
            else:
                x = np.clip(x, limits.min, limits.max)
        # a register wider than the type repeats the sign of a signed number
        wide = SIGNED if to[0] == 's' else UNSIGNED
        lanes.put(target, np.asarray(np.asarray(x).astype(integer).astype(wide[own])).view(UNSIGNED[own]))

    return run
