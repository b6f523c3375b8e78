"""PTX text to a program: the parameters, the registers, and the instructions with their source lines."""

import re
from dataclasses import dataclass, field

from .faults import UnknownInstructionError

ENTRY = re.compile(r'\.entry\s+(\w+)\s*\((.*?)\)', re.DOTALL)
PARAMETER = re.compile(r'\.param\s+(?:\.align\s+(\d+)\s+)?\.([busf]\d+)\b[^,\n]*?(\w+_param_\d+)(?:\[(\d+)\])?')
LABEL = re.compile(r'([$\w]+):(?!:)')
REGISTERS = re.compile(r'\.reg\s+\.(\w+)\s+(.*)', re.DOTALL)
GUARD = re.compile(r'@(!?)(%?\w+)\s+(.*)', re.DOTALL)
SOURCE = re.compile(r'//\s*(\S+?:\d+)(?::\d+)?')


@dataclass
class Instruction:
    """One statement: ``@guard opcode operands``."""

    opcode: str
    operands: list
    guard: str | None  # a predicate register
    guard_negated: bool
    text: str
    line: int  # of the PTX, from 1
    source: str  # file:line of the Triton kernel

    @property
    def parts(self):
        return self.opcode.split('.')

    def unknown(self, what=None):
        return UnknownInstructionError(
            f'line {self.line} of the PTX, {self.source}: the emulator does not know {what or self.opcode!r} in '
            f'{self.text!r}. Add it to tests/ptx_emulator.'
        )


@dataclass
class Program:
    """A kernel: ``parameters`` is name -> (offset, bytes), ``labels`` is name -> index of an instruction."""

    name: str
    parameters: dict = field(default_factory=dict)
    parameter_bytes: int = 0
    widths: dict = field(default_factory=dict)  # register, or its prefix before the number -> bits; 1 for predicates
    code: list = field(default_factory=list)
    labels: dict = field(default_factory=dict)

    def width(self, register):
        """Return the bits of a register, or None if ``register`` is the name of no register."""
        if register in self.widths:
            return self.widths[register]
        return self.widths.get(register.rstrip('0123456789') + '<>')


def split_operands(text):
    """Split at the commas outside of braces and brackets."""
    operands, depth, begin = [], 0, 0
    for i, character in enumerate(text):
        depth += (character in '{[') - (character in '}]')
        if character == ',' and not depth:
            operands.append(text[begin:i].strip())
            begin = i + 1
    operands.append(text[begin:].strip())
    return [operand for operand in operands if operand]


def parse(ptx):
    """Return the :class:`Program` of the only kernel of a PTX text."""
    entry = ENTRY.search(ptx)
    program = Program(entry[1])
    for align, kind, name, count in PARAMETER.findall(entry[2]):
        size = int(kind[1:]) // 8
        boundary = int(align or size)
        offset = -(-program.parameter_bytes // boundary) * boundary
        program.parameters[name] = (offset, size * int(count or 1))
        program.parameter_bytes = offset + size * int(count or 1)

    start = ptx.index('{', entry.end())
    first_line = ptx.count('\n', 0, start) + 1
    source, waiting, depth = '?', '', 0
    for number, text in enumerate(ptx[start:].split('\n'), first_line):
        code, _, _ = text.partition('//')
        if code.lstrip().startswith(('.loc', '.file')):
            found = SOURCE.search(text)
            source = found[1] if found else source
            continue
        waiting += code + '\n'
        while waiting := waiting.lstrip():
            if waiting[0] in '{}':  # of a scope; braces of operands come later in a statement
                depth += 1 if waiting[0] == '{' else -1
                waiting = waiting[1:]
                if not depth:
                    return program
            elif label := LABEL.match(waiting):
                program.labels[label[1]] = len(program.code)
                waiting = waiting[label.end() :]
            elif ';' in waiting:
                statement, _, waiting = waiting.partition(';')
                _add(program, ' '.join(statement.split()), number, source)
            else:
                break
    raise ValueError(f'the PTX of {program.name} ends within the kernel')


def _add(program, statement, line, source):
    if registers := REGISTERS.fullmatch(statement):
        bits = 1 if registers[1] == 'pred' else int(registers[1][1:])
        for name in registers[2].split(','):
            program.widths[re.sub(r'<\d+>', '<>', name.strip())] = bits
    elif statement and not statement.startswith('.'):
        guard = GUARD.fullmatch(statement)
        opcode, _, operands = (guard[3] if guard else statement).partition(' ')
        program.code.append(
            Instruction(
                opcode,
                split_operands(operands),
                guard[2] if guard else None,
                bool(guard and guard[1]),
                statement,
                line,
                source,
            )
        )
