"""The three libraries can be imported after the package, also with releases of transformers newer than mmpretrain."""

import sys
from types import SimpleNamespace

import pytest

from mmdefmamba.compat import multimodal


def install_transformers(folder, version, modeling_utils):
    """Write a stand-in for transformers, with the metadata that mmpretrain reads."""
    package, metadata = folder / 'transformers', folder / f'transformers-{version}.dist-info'
    package.mkdir(parents=True)
    metadata.mkdir()
    (package / '__init__.py').write_text(f'__version__ = {version!r}\n')
    (package / 'modeling_utils.py').write_text(modeling_utils)
    (metadata / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: transformers\nVersion: {version}\n')


# As in transformers 5: removed names occur in docstrings, and one is imported inside a function only.
NEW = '''
from .generation import CompileConfig, GenerationConfig

class PreTrainedModel:
    """No longer a GenerationMixin; apply_chunking_to_forward is gone."""

    def can_generate(self):
        from .generation import GenerationMixin
'''
OLD = """
from .generation import GenerationConfig, GenerationMixin
from .pytorch_utils import (
    apply_chunking_to_forward,
    find_pruneable_heads_and_indices,
)
try:
    from .pytorch_utils import prune_linear_layer
except ImportError:
    prune_linear_layer = None

class PreTrainedModel:
    pass
"""


def test_mmpretrain_can_be_imported_with_new_transformers(run_python, tmp_path):
    pytest.importorskip('pycocotools')  # without it, mmpretrain never offers its multimodal models
    install_transformers(tmp_path, '5.0.0', NEW)
    code = (
        'import logging, sys; logging.basicConfig(level=logging.INFO, stream=sys.stdout); '
        'import mmdefmamba, mmpretrain.models; '
        'print(mmpretrain.utils.dependency.WITH_MULTIMODAL, "BlipCaption" in mmpretrain.registry.MODELS.module_dict)'
    )
    output, _ = run_python(code, tmp_path)
    assert 'multimodal models of mmpretrain are switched off' in output
    assert '(transformers has no GenerationMixin, apply_chunking' in output
    assert output.splitlines()[-1] == 'False True'


def test_all_three_libraries_can_be_imported_without_warnings(run_python):
    _, warnings = run_python('import mmdefmamba, mmpretrain.models, mmdet.models, mmseg.models')
    assert 'UserWarning' not in warnings and 'mmcv._ext' not in warnings


@pytest.mark.parametrize(
    ('modeling_utils', 'missing'),
    [
        (OLD, []),
        (
            NEW,
            ['GenerationMixin', 'apply_chunking_to_forward', 'find_pruneable_heads_and_indices', 'prune_linear_layer'],
        ),
        ('', sorted(multimodal._NEEDED)),
    ],
)
def test_missing_transformers_names_are_found_without_importing_it(modeling_utils, missing, tmp_path, monkeypatch):
    install_transformers(tmp_path, '4.49.0', 'raise AssertionError("must not be imported")\n' + modeling_utils)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'transformers', raising=False)
    assert multimodal._missing() == missing


def test_multimodal_models_are_disabled_if_transformers_lacks_names(tmp_path, monkeypatch):
    install_transformers(tmp_path, '5.0.0', NEW)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'transformers', raising=False)
    dependency = SimpleNamespace(WITH_MULTIMODAL=True)
    assert multimodal.apply(dependency).startswith('transformers has no GenerationMixin, apply_chunking')
    assert dependency.WITH_MULTIMODAL is False
    assert 'transformers' not in sys.modules
    assert multimodal.apply(dependency) is False


def test_multimodal_models_stay_enabled_if_transformers_has_all_names(tmp_path, monkeypatch):
    install_transformers(tmp_path, '4.49.0', OLD)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'transformers', raising=False)
    dependency = SimpleNamespace(WITH_MULTIMODAL=True)
    assert multimodal.apply(dependency) is False
    assert dependency.WITH_MULTIMODAL is True
