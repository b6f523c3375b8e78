"""Which entries of a checkpoint fit a module, by name and shape; and how to say so."""

import re
from typing import NamedTuple


class Match(NamedTuple):
    """What :func:`match_parameters` found.

    Attributes:
        matched: dict of the entries that fit, by the module's own names.
        other_shape: the module's names that the checkpoint has in another shape.
        missing: the module's names that the checkpoint does not have.
        unused: names of the checkpoint that the module does not have.
        total: number of parameters and buffers of the module.
    """

    matched: dict
    other_shape: list
    missing: list
    unused: list
    total: int

    def __str__(self):
        return (
            f'kept their initial values: {some(self.missing) or "none"}; have another shape there: '
            f'{some(self.other_shape) or "none"}; not used: {some(self.unused) or "none"}'
        )


def state_dict_of(checkpoint, source):
    """The weights in a loaded checkpoint file of MMEngine, of the authors' code, or of plain ``torch.save``.

    Args:
        checkpoint: what was saved.
        source: name of the file, for the message.

    Raises:
        ValueError: there are none.
    """
    state = checkpoint
    if isinstance(checkpoint, dict):
        state = checkpoint.get('state_dict', checkpoint.get('model', checkpoint))
    if not isinstance(state, dict):
        raise ValueError(f'{source} holds no weights by name, but {type(state).__name__}')
    return {re.sub(r'^module\.', '', key): value for key, value in state.items()}  # saved under DistributedDataParallel


def match_parameters(module, found):
    """Compare a module's parameters and buffers with ``found``, a dict of tensors by name: a :class:`Match`."""
    own = module.state_dict()
    matched = {key: found[key] for key in own if key in found and found[key].shape == own[key].shape}
    return Match(
        matched,
        other_shape=[key for key in own if key in found and key not in matched],
        missing=[key for key in own if key not in found],
        unused=[key for key in found if key not in own],
        total=len(own),
    )


def some(names, limit=5):
    """The first few of some names, and how many more there are; empty for none."""
    names = list(names)
    more = f' and {len(names) - limit} more' if len(names) > limit else ''
    return ', '.join(names[:limit]) + more
