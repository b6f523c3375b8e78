"""Hook of `mkdocs build` that turns Sphinx roles in docstrings, such as :func:`~package.name`, into links.

The `::` before an indented block becomes a colon.
"""

import re

import griffe

ROLE = re.compile(r':(?:class|func|meth|mod|data|attr):`(~?)([\w.]+)`')


class Roles(griffe.Extension):
    """Extension that turns a role into a link if the name is on a page, and into code otherwise."""

    def on_object(self, *, obj, **kwargs):
        if obj.docstring is not None:
            text = ROLE.sub(lambda match: _link(obj, *match.groups()), obj.docstring.value)
            obj.docstring.value = re.sub(r'::$', ':', text, flags=re.MULTILINE)  # before an indented block


def _link(obj, short, name):
    text = name.rpartition('.')[2] if short else name
    full = name
    if not name.startswith('mmdefmamba.'):
        module = obj if obj.is_module else obj.module
        full = f'{module.path}.{name}'
    return f'<autoref identifier="{full}" optional><code>{text}</code></autoref>'
