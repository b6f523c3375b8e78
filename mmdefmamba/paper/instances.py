"""Attributes of one object that are replaced for a while, in order to measure a model under other rules."""

import contextlib


@contextlib.contextmanager
def attributes_replaced(instance, **values):
    """Within the block some attributes of an object have other values; afterwards it is as before, also on an error.

    Only this object is changed. Its class, and other objects of the class, keep their attributes and methods.

    Args:
        instance: any object with a ``__dict__``, such as a module. Its parameters, buffers and submodules cannot be
            replaced.
        **values: name and value of each attribute. A function replaces a method; it gets no ``self``.
    """
    attributes = vars(instance)
    before = {name: attributes[name] for name in values if name in attributes}
    attributes.update(values)
    try:
        yield
    finally:
        for name in values:
            del attributes[name]
        attributes.update(before)
