"""Walking through a config."""


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


def innermost_dataset(cfg):
    """Return the config of the dataset inside RepeatDataset and other wrappers; it is part of ``cfg``, not a copy."""
    while 'dataset' in cfg:
        cfg = cfg.dataset
    return cfg
