"""What the rooms of the network import: ops, scans and models. Read from the source, imports in functions included."""

import ast
import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import mmdefmamba.models
import mmdefmamba.ops
import mmdefmamba.scans

ROOT = Path(mmdefmamba.__path__[0])
ROOMS = ('ops', 'scans', 'models')
MODULES = {
    room: [
        f'mmdefmamba.{room}',
        *(module.name for module in pkgutil.walk_packages([str(ROOT / room)], f'mmdefmamba.{room}.')),
    ]
    for room in ROOMS
}
#: room -> rooms and single modules of the package that it may import
LOWER = {
    'ops': ('ops',),
    'scans': ('layers', 'names', 'ops', 'scans'),
    'models': ('layers', 'names', 'ops', 'scans', 'checkpoints', 'models'),
}


def file_of(module):
    path = ROOT.parent.joinpath(*module.split('.'))
    return path / '__init__.py' if path.is_dir() else path.with_suffix('.py')


def is_module(name):
    return file_of(name).is_file()


def imports_of(module, top_level_only=False):
    """Names of the modules that a module imports, absolute. ``from . import x`` names x where x is a module."""
    file = file_of(module)
    tree = ast.parse(file.read_text('utf-8'))
    package = module if file.name == '__init__.py' else module.rpartition('.')[0]
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module
            if node.level:
                above = package.split('.')[: len(package.split('.')) - node.level + 1]
                base = '.'.join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f'{base}.{alias.name}'
                yield inner if base.startswith('mmdefmamba') and is_module(inner) else base


def foreign(names):
    """Those that are neither ours nor of the standard library, by their top level."""
    found = {name for name in names if name.split('.')[0] not in (*sys.stdlib_module_names, 'mmdefmamba')}
    return {name if name.startswith('mmengine') else name.split('.')[0] for name in found}


def test_the_parser_sees_imports_of_every_form():
    assert 'scipy.sparse' in set(imports_of('mmdefmamba.scans.spanning_tree')), 'in a function'
    assert 'mmdefmamba.ops.triton_scan.layout' in set(imports_of('mmdefmamba.ops.triton_scan.launch')), 'from . import'
    assert 'mmdefmamba.ops.tensors' in set(imports_of('mmdefmamba.ops.triton_scan.op')), 'from ..x import'
    assert foreign(['os.path', 'mmengine.model', 'torch.nn', 'mmdefmamba.ops']) == {'mmengine.model', 'torch'}


@pytest.mark.parametrize('module', MODULES['ops'])
def test_ops_import_torch_and_triton_alone(module):
    # mamba-ssm's extension is imported by name where its backend runs; the name is in a constant
    assert foreign(imports_of(module)) <= {'torch', 'triton'}


@pytest.mark.parametrize('module', MODULES['scans'] + MODULES['models'])
def test_scans_and_models_import_torch_numpy_and_two_modules_of_mmengine(module):
    at_import = foreign(imports_of(module, top_level_only=True))
    assert at_import <= {'torch', 'numpy', 'mmengine.registry', 'mmengine.model', 'mmengine.model.weight_init'}
    assert foreign(imports_of(module)) - at_import <= {'scipy'}, 'in functions'


# The package itself may import more: here it is a stand-in that imports nothing.
LOAD_ALONE = """
import importlib, json, sys, types
package = types.ModuleType('mmdefmamba')
package.__path__ = [sys.argv[1]]
sys.modules['mmdefmamba'] = package
importlib.import_module(sys.argv[2])
print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))
"""
OPENMMLAB = {'mmengine', 'mmcv', 'mmpretrain', 'mmdet', 'mmseg'}


@pytest.mark.parametrize(('room', 'loads'), [('ops', set()), ('scans', {'mmengine'}), ('models', {'mmengine'})])
def test_importing_a_room_loads_no_more_of_openmmlab_than_it_needs(room, loads):
    command = [sys.executable, '-c', LOAD_ALONE, str(ROOT), f'mmdefmamba.{room}']
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert 'torch' in loaded
    assert loaded & OPENMMLAB == loads
    assert loaded & {'cv2', 'matplotlib', 'scipy'} == set()


@pytest.mark.parametrize('module', [module for room in ROOMS for module in MODULES[room]])
def test_no_import_goes_to_a_higher_room(module):
    room = module.split('.')[1]
    ours = {name for name in imports_of(module) if name.split('.')[0] == 'mmdefmamba'}
    assert {name.split('.')[1] for name in ours} <= set(LOWER[room])


@pytest.mark.parametrize('room', ROOMS)
def test_imports_of_a_room_have_no_circle(room):
    """Imports in functions count as well. The import of its packages, which every module has, does not."""
    graph = {module: {name for name in imports_of(module) if name in MODULES[room]} for module in MODULES[room]}
    done = set()

    def visit(module, path):
        assert module not in path, ' imports '.join([*path[path.index(module) :], module])
        if module not in done:
            for name in sorted(graph[module]):
                visit(name, [*path, module])
            done.add(module)

    for module in graph:
        visit(module, [])


@pytest.mark.parametrize('module', [module for room in ROOMS for module in MODULES[room]])
def test_no_function_hides_a_module(module):
    """``import mmdefmamba.ops.x.y as m`` reads attributes, from package to package, and gives the module."""
    imported = importlib.import_module(module)
    found = mmdefmamba
    for name in module.split('.')[1:]:
        found = getattr(found, name)
    assert found is imported
    namespace = {}
    exec(f'import {module} as m', namespace)
    assert namespace['m'] is imported


def test_ops_export_the_choice_of_a_backend():
    from mmdefmamba.ops import BACKENDS, auto_backend, unavailable_reason, use_backend
    from mmdefmamba.ops.sequence_scan import interface

    assert (
        set(BACKENDS) == {'reference', 'blockwise', 'native', 'mamba_ssm', 'triton'} and BACKENDS is interface.BACKENDS
    )
    exported = (auto_backend, unavailable_reason, use_backend)
    assert exported == (interface.auto_backend, interface.unavailable_reason, interface.use_backend)


@pytest.mark.parametrize('room', ROOMS)
def test_all_names_what_a_room_exports(room):
    module = importlib.import_module(f'mmdefmamba.{room}')
    assert sorted(set(module.__all__)) == sorted(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)
