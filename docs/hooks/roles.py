"""For `mkdocs build`: docstrings name things as Sphinx does, :func:`~package.name`; make links of that."""

import re

import griffe

ROLE = re.compile(r':(?:class|func|meth|mod|data|attr):`(~?)([\w.]+)`')


class Roles(griffe.Extension):
    """Turns a role into a link where the name is on a page, and into code where it is not."""

    def on_object(self, *, obj, **kwargs):
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(lambda match: _link(obj, *match.groups()), obj.docstring.value)


def _link(obj, short, name):
    text = name.rpartition('.')[2] if short else name
    full = name
    if not name.startswith('mmdefmamba.'):
        module = obj if obj.is_module else obj.module
        full = f'{module.path}.{name}'
    return f'<autoref identifier="{full}" optional><code>{text}</code></autoref>'
