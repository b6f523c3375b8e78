"""From an instruction to what it does: a function of the lanes, or a change of the place at which they run."""

from . import exchange, matrices  # noqa: F401  they add their instructions to OPCODES
from .arithmetic import OPCODES
from .control import flow


def prepare(program):
    """Give each instruction of a program its ``action``.

    Raises:
        UnknownInstructionError: with the line, for an instruction that the emulator does not know.
    """
    for instruction in program.code:
        instruction.action = flow(instruction, program)
        if instruction.action is None:
            build = OPCODES.get(instruction.parts[0])
            if build is None:
                raise instruction.unknown()
            instruction.action = build(instruction, program)
    return program
