"""The stand-in for mmcv's compiled operators: where it is, and what it says about operators that it does not have."""

import ast
import importlib
import importlib.machinery
import inspect
import sys
from pathlib import Path
from types import SimpleNamespace

import mmcv
import pytest
import torch

from mmdefmamba import compat
from mmdefmamba.compat import mmcv_ops

# The mend installs the stand-in when mmcv is imported, which has happened by now.
HAS_STAND_IN = isinstance(sys.modules.get('mmcv._ext'), mmcv_ops._StandIn)
needs_stand_in = pytest.mark.skipif(not HAS_STAND_IN, reason='mmcv has its own compiled operators here')


@needs_stand_in
@pytest.mark.parametrize(
    ('name', 'remedy'),
    [
        ('nms_rotated', r'A compiler can build it: `CFLAGS=-g0 FORCE_CUDA=0 MMCV_WITH_OPS=1.*mmcv==2\.1\.0` .*< 82'),
        (
            'prroi_pool_forward',
            r'for tensors on a GPU only\. There, .*FORCE_CUDA=1 MMCV_WITH_OPS=1.*mmcv==2\.1\.0` .*< 82',
        ),
    ],
)
def test_missing_operator_error_names_operator_and_a_remedy_that_exists(name, remedy):
    """mmcv's build for the CPU has rotated suppression of boxes, and no PrRoIPool."""
    with pytest.raises(NotImplementedError, match=rf"'{name}' is not available.*{remedy}"):
        getattr(sys.modules['mmcv._ext'], name)(torch.zeros(1))


#: Modules of mmcv.ops that mmdet, mmseg or mmpretrain import from, and that call compiled operators.
CALLED = (
    'carafe',
    'deform_conv',
    'deform_roi_pool',
    'focal_loss',
    'masked_conv',
    'modulated_deform_conv',
    'multi_scale_deform_attn',
    'nms',
    'psa_mask',
    'roi_align',
    'roi_pool',
)


@needs_stand_in
@pytest.mark.parametrize('module', CALLED)
def test_stand_in_takes_the_arguments_that_mmcv_gives(module):
    """Each call of an operator in mmcv binds to the parameters of ours: the same number, and the same names."""
    source = Path(importlib.import_module(f'mmcv.ops.{module}').__file__).read_text()
    calls = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith('ext_module.')
    ]
    served = 0
    for call in calls:
        function = mmcv_ops.OPERATORS.get(call.func.attr)
        if any(isinstance(arg, ast.Starred) for arg in call.args):
            continue
        if function is None:
            assert call.func.attr in ('nms_rotated', 'nms_quadri')
            continue
        inspect.signature(function).bind(*call.args, **{keyword.arg: keyword.value for keyword in call.keywords})
        served += 1
    assert served


@needs_stand_in
def test_stand_in_behaves_as_a_module():
    from mmcv.utils import collect_env
    from mmcv.utils.ext_loader import check_ops_exist
    from mmengine.utils.dl_utils import mmcv_full_available

    module = sys.modules['mmcv._ext']
    assert module.__spec__.name == module.__name__ == 'mmcv._ext'
    assert not hasattr(module, '__path__') and not hasattr(module, '__file__') and not hasattr(module, '_repr_html_')
    assert mmcv_full_available() and check_ops_exist()
    assert collect_env()['MMCV Compiler'] == 'n/a'


@needs_stand_in
def test_applying_mends_again_changes_nothing(caplog):
    before = dict(vars(sys.modules['mmcv._ext']))
    with caplog.at_level('INFO', 'mmdefmamba'):
        compat.apply()
    assert mmcv_ops.apply(mmcv) is False
    assert caplog.messages == []
    assert vars(sys.modules['mmcv._ext']) == before


@pytest.mark.parametrize('compiled', [True, False])
def test_only_mmcv_without_compiled_extension_is_mended(compiled, tmp_path, monkeypatch):
    package = tmp_path / 'mmcv'
    package.mkdir()
    if compiled:
        (package / f'_ext{importlib.machinery.EXTENSION_SUFFIXES[0]}').touch()
    monkeypatch.setitem(sys.modules, 'mmcv._ext', None)  # the end of the test restores what was there
    del sys.modules['mmcv._ext']
    assert mmcv_ops.apply(SimpleNamespace(__path__=[str(package)])) is not compiled
    assert ('mmcv._ext' in sys.modules) is not compiled
