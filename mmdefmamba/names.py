"""Names that a user got wrong."""

import difflib


def near_name(name, known, otherwise='', cutoff=0.6):
    """What to add to an error about a name: ``, did you mean 'NEAR'?``.

    Args:
        name: what was given.
        known: the names that there are.
        otherwise: what to add where none of them is near.
        cutoff: how near, from 0 to 1, as for ``difflib.get_close_matches``.
    """
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=cutoff)
    return f', did you mean {near[0]!r}?' if near else otherwise
