"""The stand-in for mamba-ssm: only when asked for, only where it is needed, and gone without a trace."""

import importlib.metadata
import importlib.util
import logging
import sys
import textwrap

import pytest
import torch

from mmdefmamba.compat import mamba_stand_in, provide_mamba_ssm
from mmdefmamba.ops import mamba_interface, selective_scan_fn
from mmdefmamba.ops.sequence_scan import mamba_ssm as backend

INTERFACE = 'mamba_ssm.ops.selective_scan_interface'
# Packages as somebody could have installed them.
OLD = 'def selective_scan_fn(*args, **kwargs):\n    raise ImportError("selective_scan_cuda is not available")\n'
WORKS = """
from mmdefmamba.ops.mamba_interface import selective_scan_ref
def selective_scan_fn(*args, **kwargs):
    return selective_scan_ref(*args, **kwargs)
"""


@pytest.fixture(autouse=True)
def clean():
    before = dict(sys.modules), list(sys.meta_path), list(sys.path)
    assert not mamba_stand_in._mamba_modules()
    yield
    handle = mamba_stand_in._provided
    if handle is not None:
        handle.remove()
    mamba_stand_in._take_out(mamba_stand_in._mamba_modules())
    sys.path[:] = before[2]
    assert sys.meta_path == before[1]


@pytest.fixture
def lines():
    records, logger = [], logging.getLogger('mmdefmamba.compat')
    handler = logging.Handler()
    handler.emit = lambda record: records.append((record.levelname, record.getMessage()))
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


@pytest.fixture
def package(tmp_path):
    """Return ``write(interface, root='')``, which writes a package mamba_ssm with a module mamba_simple."""

    def write(interface, root='from mamba_ssm.modules.mamba_simple import Mamba\n'):
        for name, text in {
            '__init__': root,
            'ops/__init__': '',
            'ops/selective_scan_interface': interface,
            'modules/__init__': '',
            'modules/mamba_simple': f'from {INTERFACE} import selective_scan_fn\nclass Mamba:\n    pass\n',
        }.items():
            path = tmp_path / f'mamba_ssm/{name}.py'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        sys.path.insert(0, str(tmp_path))
        importlib.invalidate_caches()

    return write


def mamba_modules():
    return mamba_stand_in._mamba_modules()


def test_where_mamba_ssm_is_missing_its_functions_are_ours_until_they_are_removed(lines):
    before, finders = dict(sys.modules), list(sys.meta_path)
    handle = provide_mamba_ssm()
    import mamba_ssm
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn as given

    assert given is selective_scan_fn and mamba_ssm.ops.selective_scan_interface.selective_scan_fn is given
    assert handle.active and handle.reason == 'mamba-ssm is not installed'
    assert lines == [('INFO', f'mamba_ssm: mmdefmamba provides {INTERFACE} (mamba-ssm is not installed)')]
    for name in mamba_stand_in.FUNCTIONS:
        assert getattr(sys.modules[INTERFACE], name) is getattr(mamba_interface, name)
    handle.remove()
    handle.remove()
    assert sys.modules == before and sys.meta_path == finders and not handle.active
    with pytest.raises(ModuleNotFoundError, match="No module named 'mamba_ssm'"):
        importlib.import_module(INTERFACE)


def test_importing_the_package_provides_nothing(run_python):
    out, _ = run_python(
        'import sys, mmdefmamba, mmdefmamba.compat.mamba_stand_in, mmdefmamba.ops\n'
        'print([name for name in sys.modules if name.startswith("mamba_ssm")])'
    )
    assert out.strip() == '[]'


def test_the_end_of_a_block_removes_it_also_after_an_error():
    before = dict(sys.modules)
    with pytest.raises(KeyError), provide_mamba_ssm() as handle:
        assert handle.active and INTERFACE in sys.modules
        raise KeyError
    assert sys.modules == before


def test_a_second_call_changes_nothing_and_its_removal_neither():
    first = provide_mamba_ssm()
    module = sys.modules[INTERFACE]
    second = provide_mamba_ssm()
    assert not second.active and 'already' in second.reason
    second.remove()
    assert sys.modules[INTERFACE] is module
    first.remove()
    assert mamba_modules() == {}


@pytest.mark.parametrize(
    'statement',
    [
        'from mamba_ssm import Mamba',
        'from mamba_ssm.modules.mamba_simple import Mamba',
        'import mamba_ssm.ops.triton.layer_norm',
        'from mamba_ssm.ops import triton',
    ],
)
def test_what_the_stand_in_lacks_is_a_clear_import_error(statement):
    with (
        provide_mamba_ssm(),
        pytest.raises(ImportError, match='stand-in of mmdefmamba has mamba_ssm'),
    ):
        exec(statement, {})


def test_an_unknown_function_is_an_import_error_that_names_our_file():
    with provide_mamba_ssm(), pytest.raises(ImportError, match=r"'arcee_mamba_inner_fn'.*mamba_stand_in\.py"):
        exec(f'from {INTERFACE} import arcee_mamba_inner_fn', {})


def test_other_libraries_see_no_installed_distribution_and_no_attribute_that_is_not_there():
    with provide_mamba_ssm():
        assert importlib.util.find_spec('mamba_ssm') is not None  # would raise without a spec
        with pytest.raises(importlib.metadata.PackageNotFoundError):
            importlib.metadata.version('mamba_ssm')
        assert not hasattr(sys.modules['mamba_ssm'], '__version__') and not hasattr(sys.modules['mamba_ssm'], 'Mamba')


def test_our_own_backend_mamba_ssm_does_not_take_the_stand_in_for_a_kernel():
    with provide_mamba_ssm():
        assert importlib.util.find_spec(backend.EXTENSION) is None and not backend.INSTALLED
        u = torch.ones(1, 2, 3)
        y = sys.modules[INTERFACE].selective_scan_fn(u, u, -torch.ones(2, 1), u[:, :1], u[:, :1])
    # a constant drive of 1, decaying by 1 / e
    expected = [1, 1 + torch.tensor(-1.0).exp(), 1 + torch.tensor(-1.0).exp() + torch.tensor(-2.0).exp()]
    torch.testing.assert_close(y[0, 0], torch.tensor(expected))


def test_a_package_that_works_is_left_alone(package, lines):
    package(WORKS)
    handle = provide_mamba_ssm()
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn as given

    assert given is not selective_scan_fn and not handle.active
    assert lines == [('INFO', 'mamba_ssm: the installed package works on this machine, no stand-in is needed')]


def test_a_package_with_wrong_numbers_does_not_work(package):
    package('def selective_scan_fn(u, *args):\n    return u * 0\n')
    handle = provide_mamba_ssm()
    assert handle.active and 'it gives [0.0, 0.0] instead of [1.0, 1.36' in handle.reason


@pytest.mark.parametrize('interface', [OLD, 'import selective_scan_cuda\n'], ids=['raises when called', 'at import'])
def test_a_package_without_its_kernel_keeps_its_other_modules_which_call_ours(interface, package, lines):
    package(interface)
    handle = provide_mamba_ssm()
    from mamba_ssm import Mamba
    from mamba_ssm.modules import mamba_simple

    assert handle.active and 'selective_scan_cuda' in handle.reason
    assert mamba_simple.selective_scan_fn is selective_scan_fn and mamba_simple.Mamba is Mamba
    assert len(lines) == 1 and lines[0][1].count('selective_scan_cuda') == 1
    handle.remove()
    if interface is OLD:
        assert importlib.import_module(INTERFACE).selective_scan_fn is not selective_scan_fn
    else:
        assert mamba_modules() == {}


def test_a_package_that_cannot_be_imported_as_a_whole_gives_what_can_be(package, lines):
    package('import selective_scan_cuda\n', root='import a_library_that_is_missing\n')
    handle = provide_mamba_ssm()
    assert importlib.import_module('mamba_ssm.modules.mamba_simple').selective_scan_fn is selective_scan_fn
    assert handle.active and 'cannot be imported as a whole: ModuleNotFoundError' in lines[0][1]
    handle.remove()
    assert mamba_modules() == {}


def test_modules_that_hold_the_old_function_are_named_and_sys_modules_comes_back(package, lines, monkeypatch):
    package(OLD)
    old = importlib.import_module('mamba_ssm.ops.selective_scan_interface')
    before = mamba_modules()
    user = type(sys)('a_module_of_the_user')
    user.scan = old.selective_scan_fn
    monkeypatch.setitem(sys.modules, user.__name__, user)
    with provide_mamba_ssm():
        assert sys.modules[INTERFACE].selective_scan_fn is selective_scan_fn
    level, text = lines[-1]
    assert level == 'WARNING' and text.startswith('mamba_ssm: a_module_of_the_user imported functions')
    after = mamba_modules()
    assert after == before and all(after[name] is before[name] for name in before)
    assert sys.modules['mamba_ssm'].ops.selective_scan_interface is old


def test_a_module_that_somebody_else_put_there_without_a_spec(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mamba_ssm', type(sys)('mamba_ssm'))
    before = mamba_modules()
    with provide_mamba_ssm() as handle:
        assert handle.active and sys.modules[INTERFACE].selective_scan_fn is selective_scan_fn
    assert mamba_modules() == before
