"""What a pickle would build, told from its operations, without building it.

``torch.load(weights_only=True)`` runs no code of a file. But the few bytes of a list that holds another list twice, and
so on for 40 levels, describe 2^40 values. PyTorch would write all of them into an error, or compute the hash of a key
from all of them, and neither ends.
"""

import pickle
import pickletools
import struct

#: Values, and characters of texts, where parts that occur twice count twice. No checkpoint comes near it.
MOST_VALUES = 2**27
_MARK = pickletools.markobject
_PUT, _GET = ('PUT', 'BINPUT', 'LONG_BINPUT'), ('GET', 'BINGET', 'LONG_BINGET')
#: Operations that add what is above a container to it.
_ADD = ('APPEND', 'APPENDS', 'SETITEM', 'SETITEMS', 'ADDITEMS', 'BUILD')
_CALL = ('REDUCE', 'NEWOBJ', 'NEWOBJ_EX')
_FUNCTIONS = ('GLOBAL', 'STACK_GLOBAL')


class _Value:
    """What is known of a value on the stack: how many values it consists of, and whether it is named by a module."""

    __slots__ = ('is_function', 'size')

    def __init__(self, size, is_function=False):
        self.size, self.is_function = size, is_function


def check_pickles(stream, count=1):
    """Refuse pickles that describe more than ``MOST_VALUES`` values, or that call what is no function.

    A pickle that is damaged is let through up to the damage: whoever reads it says what is wrong.

    Args:
        stream: bytes, or a file in memory that is at the beginning of the first pickle.
        count: how many pickles follow one another in a file.

    Raises:
        pickle.UnpicklingError: one of the two; says which.
    """
    try:
        for _ in range(count):
            _check(pickletools.genops(stream))
    except (ValueError, IndexError, KeyError, OverflowError, struct.error):  # damaged
        return


def _check(operations):
    stack, memo = [], {}
    for operation, argument, _ in operations:
        name = operation.name
        if name in _PUT:
            memo[argument] = stack[-1]
        elif name == 'MEMOIZE':
            memo[len(memo)] = stack[-1]
        elif name in _GET:
            stack.append(memo[argument])
        elif name == 'DUP':
            stack.append(stack[-1])
        elif name == 'MARK':
            stack.append(None)
        else:
            _apply(operation, argument, stack)


def _apply(operation, argument, stack):
    """Replace what an operation takes from the stack by what it leaves there."""
    name, taken, above = operation.name, operation.stack_before, []
    if _MARK in taken:
        while (value := stack.pop()) is not None:
            above.append(value)
        taken = taken[: taken.index(_MARK)]
    parts = [stack.pop() for _ in taken][::-1]
    if None in parts:
        raise ValueError('a mark is in the place of a value')
    if name in _CALL and not parts[0].is_function:
        raise pickle.UnpicklingError('it calls what is no function')
    size = sum(part.size for part in (*parts, *above))
    if name in _ADD:
        value = parts[0]
        value.size = size
    else:
        length = len(argument) if isinstance(argument, (str, bytes, bytearray)) else 0
        value = _Value(1 + size + length, name in _FUNCTIONS)
    if value.size > MOST_VALUES:
        raise pickle.UnpicklingError(f'it describes more than {MOST_VALUES:,} values')
    stack += [value] * len(operation.stack_after)
