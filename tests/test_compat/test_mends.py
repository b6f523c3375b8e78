"""Mends: what importing the package changes, when it does so, and how to leave it out."""

import functools
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmdefmamba import compat
from mmdefmamba.compat import data_workers, find_loader, fork_configs, logged_metrics, thin_images, yaml_files
from mmdefmamba.compat.marks import replace

LIBRARIES = ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'cv2', 'torchvision', 'matplotlib')


@pytest.fixture(scope='module')
def run(run_python):
    """Return ``run(code, **environment)``: the lines that a fresh interpreter prints to stdout and to stderr."""

    def run(code, *folders, **environment):
        return tuple(text.splitlines() for text in run_python(code, *folders, **environment))

    return run


LOADED = "import sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"


@pytest.mark.parametrize(
    ('imported', 'needed', 'not_needed'),
    [
        ('mmdefmamba', [], [*LIBRARIES, 'torch', 'numpy']),
        ('mmdefmamba.compat', [], [*LIBRARIES, 'torch', 'numpy']),
        ('mmdefmamba.ops', ['torch'], LIBRARIES),
        ('mmdefmamba.models', ['torch', 'mmengine'], [name for name in LIBRARIES if name != 'mmengine']),
    ],
)
def test_import_loads_only_what_it_needs(run, imported, needed, not_needed):
    (names,), printed = run(f'import {imported}; {LOADED}')
    names = set(names.split())
    assert names >= set(needed)
    assert not names & set(not_needed)
    if imported != 'mmdefmamba.models':
        assert [line for line in printed if 'data_workers' not in line] == []


def test_importing_the_models_does_not_load_the_runner(run):
    (count,), _ = run("import mmdefmamba.models, sys; print(sum(name.startswith('mmengine') for name in sys.modules))")
    assert int(count) < 150
    (found,), _ = run("import mmdefmamba.models, sys; print('mmengine.runner' in sys.modules)")
    assert found == 'False'


def test_each_room_can_be_imported_first(run):
    """Each room is imported in its own process, forked from one that has imported only what MMEngine imports."""
    code = """
import os, pkgutil, sys, torch._dynamo, torch.distributed.fsdp, numpy, cv2, rich.console, sympy, yaml, mmdefmamba
assert not any(name.startswith('mmengine') for name in sys.modules)
names = [m.name for m in pkgutil.iter_modules(mmdefmamba.__path__) if m.name != 'app']
for name in names:
    child = os.fork()
    if not child:
        __import__(f'mmdefmamba.{name}')
        import mmengine.runner
        from mmengine.registry import DATASETS, HOOKS, MODELS
        found = [MODELS.get('DefMamba'), DATASETS.get('Digits'), HOOKS.get('GuardsHook'), HOOKS.get('StepSeedHook')]
        os._exit(None in found)
    if os.waitpid(child, 0)[1]:
        sys.exit(f'{name} cannot be imported first')
print(len(names))
"""
    (count,), _ = run(code)
    assert int(count) > 15


def test_classes_are_registered_in_any_import_order(run):
    build = "from mmengine.registry import MODELS; print(type(MODELS.build(dict(type='DefMamba'))).__name__)"
    hooks = 'from mmengine.registry import DATASETS, HOOKS; import mmengine.runner; '
    hooks += "print('Digits' in DATASETS.module_dict, 'GuardsHook' in HOOKS.module_dict)"
    assert run(f'import mmdefmamba; {build}; {hooks}')[0] == ['DefMamba', 'True True']
    for first in ('import mmengine, mmdefmamba', 'import mmdet, mmdefmamba'):
        assert run(f'{first}; {build}')[0] == ['DefMamba']


def test_each_mend_waits_for_its_library_and_reports_itself_once(run):
    printed, logged = run(
        'import mmdefmamba; before = mmdefmamba.compat.status(); import mmdet.models; '
        'after = mmdefmamba.compat.status(); import mmseg.models; '
        'print(*(f"{name} {before[name].state} {after[name].state}" for name in before), sep="\\n")'
    )
    states = {name: (before, after) for name, before, after in (line.split(maxsplit=2) for line in printed)}
    assert states.keys() == compat.MENDS.keys()
    assert {before for before, _ in states.values()} == {'waiting'}
    applied = {'data_workers', 'logged_metrics', 'safe_loading', 'thin_images', 'yaml_files'}
    assert applied <= {name for name, (_, after) in states.items() if after == 'applied'}
    for name, (_, after) in states.items():
        lines = [line for line in logged if f'mend {name}: {compat.MENDS[name].what}' in line]
        assert len(lines) == (after == 'applied'), name


def test_pictures_of_images_whose_names_are_not_valid_utf8_are_written(run, tmp_path):
    code = f"""
import os
import mmcv, mmdefmamba, numpy as np
from mmengine.visualization import Visualizer
picture, folder = np.full((4, 6, 3), 7, np.uint8), {str(tmp_path)!r}
visualizer = Visualizer(name='one', save_dir=folder, vis_backends=[dict(type='LocalVisBackend')])
visualizer.add_image('val_a\\udcff.png', picture, 3)  # mmseg's hook
mmcv.imwrite(picture, folder + '/b.\\udcfe')  # mmdet's hook: the extension is that of the image
mmcv.imwrite(picture, folder + '/c\\udcfd.png')
for root, _, names in os.walk(os.fsencode(folder)):
    for name in names:
        if name.endswith(b'png'):
            print(name, np.unique(mmcv.imread(os.path.join(os.fsdecode(root), os.fsdecode(name)))))
"""
    printed = [line for line in run(code)[0] if line.startswith('b')]
    expected = {rb'val_a\udcff.png_3.png', rb'b.\udcfe.png', b'c\xfd.png'}
    assert sorted(printed) == sorted(f'{name} [7]' for name in expected)


def test_mends_are_applied_to_libraries_that_were_imported_before(run):
    code = 'import mmdet.datasets, mmdefmamba; print(mmdefmamba.compat.status()["thin_images"].state)'
    # compat is imported first, because mmdet needs the operators
    # the last line: the fork of mmdet prints others
    assert run(f'import mmdefmamba.compat; {code}')[0][-1] == 'applied'
    code = 'import mmcv.image.geometric as g; before = g._scale_size; import mmdefmamba; print(before is g._scale_size)'
    assert run(code)[0] == ['False']


SHOW = 'import mmdefmamba, mmengine.runner; print(*(s.state for s in mmdefmamba.compat.status().values()))'


def test_all_mends_can_be_left_out(run):
    (states,), logged = run(SHOW, MMDEFMAMBA_COMPAT='off')
    assert set(states.replace('left out', 'left_out').split()) == {'left_out'}
    assert logged == []
    code = 'import torch.utils.data._utils.worker as w; before = w._worker_loop; import mmdefmamba; '
    code += 'import mmengine.runner; from mmengine.runner.checkpoint import CheckpointLoader as C; '
    code += 'print(before is w._worker_loop, C._schemes[""].__module__)'
    assert run(code, MMDEFMAMBA_COMPAT='off')[0] == ['True mmengine.runner.checkpoint']


def test_single_mends_can_be_left_out(run):
    code = 'import mmdefmamba, mmengine.runner; s = mmdefmamba.compat.status(); '
    code += 'print(s["yaml_files"].state, s["safe_loading"].state, s["logged_metrics"].state, sep=", ")'
    assert run(code, MMDEFMAMBA_COMPAT=' yaml_files, logged_metrics')[0] == ['left out, applied, left out']
    assert run(code, MMDEFMAMBA_COMPAT='on')[0] == ['applied, applied, applied']


@pytest.mark.parametrize('value', ['yaml_file', 'off,yaml_files', 'none'])
def test_unknown_name_of_a_mend_is_an_error(value):
    with pytest.raises(ValueError, match=rf"MMDEFMAMBA_COMPAT='{value}': there is no mend .*data_workers, find_loader"):
        compat._left_out(value)
    with pytest.raises(ValueError, match="did you mean 'yaml_files'"):
        compat._left_out('yaml_file')


def test_other_ranks_and_quiet_loggers_print_no_lines(run):
    assert run('import mmdefmamba, mmengine.runner', RANK='1')[1] == []
    quiet = "import logging; logging.getLogger('mmdefmamba').setLevel('WARNING'); import mmdefmamba, mmengine.runner"
    assert run(quiet)[1] == []


def test_mend_lines_go_once_to_the_users_handlers(run):
    code = 'import logging, sys; logging.basicConfig(level="INFO", stream=sys.stdout, format="mine %(message)s"); '
    printed, logged = run(code + 'import mmdefmamba, mmengine.runner')
    assert sum('mine mend yaml_files' in line for line in printed) == 1
    assert not any('mend yaml_files' in line for line in logged)


def test_package_log_lines_reach_the_log_of_the_run(run, tmp_path):
    code = f"""
import logging, mmdefmamba, mmengine.runner
from mmengine.logging import MMLogger
MMLogger.get_instance('run', logger_name='run', log_file={str(tmp_path / 'log.txt')!r})
logging.getLogger('mmdefmamba').info('a choice')
"""
    run(code)
    assert 'a choice' in (tmp_path / 'log.txt').read_text()


# ---- marks


@pytest.mark.parametrize(
    ('mend', 'name', 'value'),
    [
        (thin_images, '_scale_size', lambda size, scale: (0, 7)),
        (logged_metrics, 'dump', lambda *args: None),
        (yaml_files, 'Loader', type('Loader', (), {})),
    ],
)
def test_mend_is_applied_exactly_once_despite_decorators(mend, name, value):
    decorated = value
    if not isinstance(value, type):

        @functools.wraps(value)
        def decorated(*args):
            return value(*args)

    owner = SimpleNamespace(**{name: decorated})  # another package has decorated it, so it has __wrapped__
    assert mend.apply(owner) is True
    mended = getattr(owner, name)
    assert mended is not decorated
    assert mend.apply(owner) is False and getattr(owner, name) is mended
    if not isinstance(value, type):  # another package decorates it after the mend
        owner = SimpleNamespace(**{name: functools.wraps(mended)(lambda *args: mended(*args))})
        assert mend.apply(owner) is False
    if mend is thin_images:
        assert mended((4, 4), 1) == (1, 7)


def test_mend_and_guard_can_wrap_the_same_function():
    owner = SimpleNamespace(function=lambda: 'a')
    for mark in ('one', 'two', 'one'):
        replace(owner, 'function', lambda old, mark=mark: functools.wraps(old)(lambda: f'{old()}{mark}'), mark)
    assert owner.function() == 'aonetwo'


# ---- Python 3.14


ASK = """
import importlib, pkgutil, sys
if hasattr(pkgutil, 'find_loader'):
    del pkgutil.find_loader  # as in Python 3.14
sys.path.insert(0, {folder!r})
{first}
from mmengine.utils.dl_utils import mmcv_full_available
{second}
from mmcv.utils.ext_loader import check_ops_exist
from mmengine.optim.optimizer import default_constructor
print(mmcv_full_available(), default_constructor.mmcv_full_available(), check_ops_exist())
print(hasattr(pkgutil, 'find_loader'))
"""


@pytest.mark.parametrize('order', [('import mmdefmamba', ''), ('', 'import mmdefmamba')])
def test_operators_are_found_without_find_loader_in_every_order_of_imports(run, order, tmp_path):
    """Whoever imported the functions by name before the mend gets the mended answer, too."""
    printed, _ = run(ASK.format(first=order[0], second=order[1], folder=str(tmp_path)))
    assert printed == ['True True True', 'False']  # the stand-in for the operators has a loader


def test_find_loader_tells_whether_a_module_has_a_loader(monkeypatch):
    import json
    import pkgutil

    assert find_loader.find_loader('json') is json.__loader__
    assert find_loader.find_loader('no_such_module') is None
    with pytest.raises(ImportError, match=r"cannot find the spec of 'no_such_package\.module'"):
        find_loader.find_loader('no_such_package.module')
    monkeypatch.setattr(pkgutil, 'find_loader', lambda name: None, raising=False)
    assert find_loader.apply(SimpleNamespace(pkgutil=pkgutil)) is False
    monkeypatch.delattr(pkgutil, 'find_loader')
    assert find_loader.apply(SimpleNamespace()) is False  # the module does not use pkgutil, as that of onedl-mmengine
    module = SimpleNamespace(pkgutil=pkgutil)
    assert find_loader.apply(module) is True and find_loader.apply(module) is False
    assert module.pkgutil.find_loader is find_loader.find_loader
    assert module.pkgutil.walk_packages is pkgutil.walk_packages


# ---- forks


def test_configs_of_a_fork_are_found_by_its_import_name():
    """json stands for the module of a fork, numpy for a package that is installed."""
    names = dict(json='no-such-distribution', mmdet='mmdet', torch='numpy', no_such_module='no-such-distribution')
    assert fork_configs.apply(SimpleNamespace(MODULE2PACKAGE=names)) == 'json'
    assert names == dict(json='json', mmdet='mmdet', torch='numpy', no_such_module='no-such-distribution')
    assert fork_configs.apply(SimpleNamespace(MODULE2PACKAGE=names)) is False


# ---- data workers


def set_up():
    os.environ['SET_UP'] = 'yes'


@pytest.mark.parametrize('method', ['fork', 'spawn', 'forkserver'])
def test_mends_are_active_in_data_workers(run, method, tmp_path):
    """The dataset is in a module that does not import this package, so nothing but the mend imports it in a worker."""
    (tmp_path / 'dataset_of_others.py').write_text(
        'class Dataset:\n'
        '    def __len__(self):\n        return 2\n'
        '    def __getitem__(self, index):\n'
        '        import sys, mmcv.image.geometric as g\n'
        "        return g._scale_size((1, 4096), 0.01)[0], 'mmdefmamba' in sys.modules\n"
    )
    code = (
        'import mmdefmamba, dataset_of_others\n'
        'from torch.utils.data import DataLoader\n'
        'loader = DataLoader(dataset_of_others.Dataset(), num_workers=1, batch_size=None, '
        f'multiprocessing_context={method!r})\n'
        'print([(int(a), bool(b)) for a, b in loader])\n'
    )
    printed, errors = run(code, tmp_path)
    assert printed == ['[(1, True), (1, True)]'], errors


def test_data_workers_call_registered_setup_functions(monkeypatch):
    monkeypatch.setattr(data_workers, '_setups', {})
    data_workers.set_up_workers('a', set_up)
    data_workers.set_up_workers('b', set_up)
    data_workers.set_up_workers('b', None)
    from torch.utils.data._utils import worker

    restore, (setups,) = worker._worker_loop.__reduce__()
    assert setups == (set_up,)
    monkeypatch.setenv('SET_UP', 'no')
    assert restore(setups) is worker._worker_loop
    assert os.environ['SET_UP'] == 'yes'


def test_two_threads_can_import_at_the_same_time(run):
    """With the finder of another package, which imports parents, both waited for each other for ever."""
    code = """
import threading, mmdefmamba
def load(name):
    __import__(name)
threads = [threading.Thread(target=load, args=(name,)) for name in ('mmengine', 'mmengine.runner', 'mmengine.dataset')]
for thread in threads: thread.start()
for thread in threads: thread.join(120)
print(any(thread.is_alive() for thread in threads))
import os, sys
sys.stdout.flush()
os._exit(0)
"""
    assert run(code)[0] == ['False']


def test_mends_are_applied_again_after_a_reload(run):
    code = 'import mmdefmamba, importlib, mmengine.runner.checkpoint as c; importlib.reload(c); '
    code += 'print(c.CheckpointLoader._schemes[""].__module__, c.__loader__.__class__.__name__)'
    assert run(code)[0] == ['mmdefmamba.compat.safe_loading SourceFileLoader']


def test_copies_of_a_mended_function_are_mended(run):
    code = '{}; from mmcv.transforms import processing; {}; print(processing._scale_size((1, 4096), 0.01))'
    assert run(code.format('import mmdefmamba', 'pass'))[0] == ['(1, 41)']
    assert run(code.format('import mmcv.transforms', 'import mmdefmamba'))[0] == ['(1, 41)']


def test_released_files_load_after_the_import_of_the_package_alone(run):
    file = Path(__file__).parents[1] / 'data/released/checkpoint.pth'
    code = 'import mmdefmamba; from mmengine.runner import CheckpointLoader as C; '
    code += f'print(len(C.load_checkpoint("released://{file}")["state_dict"]))'
    assert int(run(code)[0][-1]) > 100
    assert run('import mmdefmamba; print(mmdefmamba.converters.__name__)')[0] == ['mmdefmamba.converters']
