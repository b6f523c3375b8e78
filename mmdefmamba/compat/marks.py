"""How mends and guards put a function of their own in the place of a library's."""

MARK = '__mmdefmamba__'


def replace(owner, name, make, mark):
    """Replace an attribute by what ``make`` makes of it, once.

    The replacement carries a mark. ``functools.wraps`` copies it, so that a second call notices the first also where
    other code has decorated the replacement since, and is not misled by other decorators.

    Args:
        owner: the module or class that has the attribute.
        name: of the attribute, a function or class.
        make: a function that takes the attribute and returns its replacement.
        mark: name of the mend or guard.

    Returns:
        Whether it was replaced; False where it carries the mark already.
    """
    old = getattr(owner, name)
    if mark in getattr(old, MARK, ()):
        return False
    new = make(old)
    setattr(new, MARK, (*getattr(old, MARK, ()), mark))
    setattr(owner, name, new)
    return True
