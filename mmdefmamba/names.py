"""Names that a user misspelled: which known name is near, and what the error says."""

import difflib


def nearest(name, known, cutoff=0.6):
    """Return the known name that is most similar to a name, or None if no name is near; see :func:`near_name`."""
    return next(iter(difflib.get_close_matches(str(name), known, n=1, cutoff=cutoff)), None)


def near_name(name, known, cutoff=0.6):
    """Return what an error adds about an unknown name, such as ``, did you mean 'raster'?``; '' if no name is near.

    An error that goes on after this hint takes :func:`unknown_name`, which puts the punctuation.

    Args:
        name: the name that was given.
        known: the names that exist.
        cutoff: how similar a known name must be, from 0 to 1, as for ``difflib.get_close_matches``.
    """
    near = nearest(name, known, cutoff)
    return f', did you mean {near!r}?' if near else ''


def unknown_name(problem, name, known, remedy='', cutoff=0.6):
    """Return the whole text of an error about an unknown name: the problem, a near name if there is one, the remedy.

    ``unknown_name("unknown scan 'rastr'", 'rastr', ['raster'], 'Registered scans: raster')`` is ``unknown scan
    'rastr', did you mean 'raster'? Registered scans: raster``. Without a near name a full stop takes its place.

    Args:
        problem: what is wrong, with the name, without punctuation at its end.
        name: the name that was given.
        known: the names that exist.
        remedy: a sentence of its own that says what to do. It begins with a capital letter and has no full stop.
        cutoff: as of :func:`near_name`.
    """
    text = problem + near_name(name, known, cutoff=cutoff)
    if not remedy:
        return text
    return f'{text} {remedy}' if text.endswith('?') else f'{text}. {remedy}'
