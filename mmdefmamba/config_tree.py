"""Walking through a config, in MMEngine's text style or in its pure Python style."""

import inspect

#: The libraries whose models we train.
LIBRARIES = ('mmpretrain', 'mmdet', 'mmseg')


def dicts_in(node, path=()):
    """Yield all dicts in nested dicts and lists, each with its path.

    Args:
        node: a dict, list or tuple; anything else yields nothing.
        path: path of ``node`` itself.

    Yields:
        Pairs of the path, a tuple of keys and list indices as strings, and the dict.
    """
    if isinstance(node, dict):
        yield path, node
        children = node.items()
    elif isinstance(node, (list, tuple)):
        children = enumerate(node)
    else:
        return
    for name, child in children:
        yield from dicts_in(child, (*path, str(name)))


def values_in(node, place=''):
    """Yield all values in nested dicts and lists, each with its place.

    Args:
        node: a dict, list or tuple, or a value.
        place: place of ``node`` itself.

    Yields:
        Pairs of the place, keys and indices with dots between them, and the value. An empty dict or list is a value.
    """
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    empty = True
    for key, value in items:
        empty = False
        yield from values_in(value, f'{place}.{key}' if place else str(key))
    if empty:
        yield place, node


def innermost_dataset(cfg):
    """Return the config of the dataset inside RepeatDataset and other wrappers; it is part of ``cfg``, not a copy."""
    while 'dataset' in cfg:
        cfg = cfg.dataset
    return cfg


def type_name(node, default=''):
    """Return the name of the class in a dict of a config, ``'Resize'``.

    Args:
        node: a dict with ``type``: a name, a name with its scope or its module, or the class itself.
        default: the result where there is no type.
    """
    kind = node.get('type') or default
    return kind.rpartition('.')[2] if isinstance(kind, str) else kind.__name__


def library_of(cfg):
    """Return the library of a config: 'mmpretrain', 'mmdet' or 'mmseg'; None if it belongs to none of them.

    Its ``default_scope`` says it. A config in pure Python style needs none: its model is a class of one of these
    libraries, or the name of one with its library or module in front.

    Args:
        cfg: a Config.
    """
    scope = cfg.get('default_scope')
    if scope in LIBRARIES:
        return scope
    kind = (cfg.get('model') or {}).get('type')
    modules = [kind] if isinstance(kind, str) else [base.__module__ for base in inspect.getmro(kind)] if kind else []
    roots = [module.partition('.')[0] for module in modules]
    return next((root for root in roots if root in LIBRARIES), None)
