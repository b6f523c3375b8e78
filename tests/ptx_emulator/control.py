"""Branches, ends and barriers: what changes the place at which lanes run."""

from dataclasses import dataclass


@dataclass
class Flow:
    """What the chosen lanes do: end, go to ``target``, or wait for the other lanes of their program or warp."""

    ends: bool = False
    target: int | None = None
    whole_program: bool = False


def flow(instruction, program):
    """Return the :class:`Flow` of an instruction, or None if lanes go on to the next one."""
    name, *rest = instruction.parts
    if name in ('ret', 'exit'):
        return Flow(ends=True)
    if name == 'bra':
        return Flow(target=program.labels[instruction.operands[0]])
    if name in ('bar', 'barrier'):
        if rest[:2] == ['warp', 'sync']:
            return Flow()
        if rest[0] == 'sync' or rest[:2] == ['cta', 'sync']:
            if instruction.operands[0] != '0':
                raise instruction.unknown(f'the barrier {instruction.operands[0]}')
            return Flow(whole_program=True)
        raise instruction.unknown()
    return None
