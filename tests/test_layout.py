"""The layout of the package: which room may import which other rooms, and what library code must not use."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / 'mmdefmamba'
#: The rooms from the lowest to the highest. A room may import itself and the rooms in the lines above its own.
ORDER = (
    ('files',),
    (
        'version',
        'names',
        'project',
        'config_tree',
        'layers',
        'log',
        'model_wrappers',
        'on_import',
        'tensor_files',
    ),
    ('installed',),
    ('ops',),
    ('scans',),
    ('compat',),
    ('checkpoints',),
    ('models',),  # DefMamba loads its pretrained weights through checkpoints
    ('converters',),
    ('timm',),  # a file: within it `import timm` is the library
    ('datasets',),
    ('guards',),
    ('analysis',),
    ('visualization',),
    ('export',),
    ('engine', 'apis'),
    ('paper',),
    ('report',),
    ('app', 'quickstart'),
    ('doctor',),
    ('cli',),
    ('__main__',),
)
LEVELS = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
#: File names that may occur in several rooms, with the reason.
SHARED_NAMES = {'__init__.py': 'Python requires this name'}
#: Module names that library code must not import, with the reason.
FORBIDDEN = {
    'unittest': 'it replaces functions of the whole process; see paper.instances for one object',
    'matplotlib.pyplot': 'it starts a graphical backend and keeps every figure; see visualization.canvas.panels',
    'pylab': 'it imports pyplot',
}
FILES = sorted(path for path in PACKAGE.rglob('*.py'))


def room_of(name):
    """Return the room of a module, given its name below the package; '' for the package itself."""
    return name.partition('.')[0]


def imported_modules(tree, module, is_package):
    """Return (line, full name) of each module that a file imports, also within functions.

    Args:
        tree: the parsed file.
        module: the file's module as a list of names below the package; empty for the package itself.
        is_package: whether the file is an ``__init__.py``.
    """
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parent = module if is_package else module[:-1]
            base = ['mmdefmamba', *parent[: len(parent) - node.level + 1]] if node.level else []
            base = '.'.join([*base, *filter(None, [node.module])])
            # every name may be a module of that package
            names = [f'{base}.{alias.name}' for alias in node.names]
        else:
            continue
        found += [(node.lineno, name) for name in names]
    return found


def imports_of(path):
    """Return (line, name) of every import in a file of the package."""
    parts = list(path.relative_to(PACKAGE).with_suffix('').parts)
    is_package = parts[-1] == '__init__'
    return imported_modules(ast.parse(path.read_text()), parts[:-1] if is_package else parts, is_package)


def upward_imports(room, imports):
    """Return the imports that a room must not have: the package itself, a higher room, or another room of its level."""
    wrong = []
    for line, name in imports:
        package, _, inner = name.partition('.')
        if package != 'mmdefmamba':
            continue
        other = room_of(inner)
        if other not in LEVELS:
            wrong.append((line, name, 'the package itself, which is above all rooms'))
        elif other != room and LEVELS[other] >= LEVELS[room]:
            wrong.append((line, name, f'{other} is not below {room}'))
    return wrong


def test_every_room_has_a_place_in_the_order():
    rooms = {path.relative_to(PACKAGE).with_suffix('').parts[0] for path in FILES} - {'__init__'}
    assert rooms == LEVELS.keys()


@pytest.mark.parametrize('room', LEVELS)
def test_rooms_import_only_lower_rooms(room):
    wrong = []
    for path in FILES:
        parts = path.relative_to(PACKAGE).with_suffix('').parts
        if parts[0] == room:
            wrong += [(str(path.relative_to(PACKAGE)), *found) for found in upward_imports(room, imports_of(path))]
    assert wrong == []


def test_upward_imports_are_found_everywhere_in_a_file():
    source = """
from ..ops import merge
from . import trace
from .. import report
from ..apis.zoo import get_model as get
import mmdefmamba.visualization.canvas
from mmdefmamba import __version__
def draw():
    from ..engine import distributed
    import torch
"""
    imports = imported_modules(ast.parse(source), ['analysis', 'offsets'], False)
    assert [name for _, name in imports] == [
        'mmdefmamba.ops.merge',
        'mmdefmamba.analysis.trace',
        'mmdefmamba.report',
        'mmdefmamba.apis.zoo.get_model',
        'mmdefmamba.visualization.canvas',
        'mmdefmamba.__version__',
        'mmdefmamba.engine.distributed',
        'torch',
    ]
    assert [line for line, *_ in upward_imports('analysis', imports)] == [4, 5, 6, 7, 9]
    assert [name for _, name in imported_modules(ast.parse('from . import log, ops'), [], True)] == [
        'mmdefmamba.log',
        'mmdefmamba.ops',
    ]


def test_file_names_are_unique_across_rooms():
    rooms = defaultdict(set)
    for path in FILES:
        rooms[path.name].add(path.relative_to(PACKAGE).parts[0])
    assert {name: sorted(found) for name, found in rooms.items() if len(found) > 1 and name not in SHARED_NAMES} == {}


def test_library_code_replaces_no_functions_and_needs_no_graphical_backend():
    wrong = []
    for path in FILES:
        name = str(path.relative_to(PACKAGE))
        for line, module in imports_of(path):
            wrong += [(name, line, why) for bad, why in FORBIDDEN.items() if f'{module}.'.startswith(f'{bad}.')]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr == 'use' and getattr(node.value, 'id', '') == 'matplotlib':
                wrong.append((name, node.lineno, 'matplotlib.use() sets the backend of the whole process'))
    assert wrong == []
