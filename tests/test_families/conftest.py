"""What the tests of families share: running a config by its name, and the list of what is expected of it."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import mmdefmamba  # noqa: F401  before the libraries' models

HERE = Path(__file__).parent


def _load(name):
    """Import a file beside this one: with pytest's import mode, test files are no package."""
    spec = importlib.util.spec_from_file_location(f'families_{name}', HERE / f'{name}.py')
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='session')
def families():
    """Return ``run(library, name)``, which trains a child config for a step, and the list ``expected``."""
    import mmdet.models
    import mmdet.utils
    import mmpretrain.models
    import mmpretrain.utils
    import mmseg.models
    import mmseg.utils

    for library in (mmdet, mmpretrain, mmseg):
        library.utils.register_all_modules(init_default_scope=False)
    children, steps = _load('children'), _load('steps')

    def run(library, name):
        cfg = children.child(library, name)
        model, found = steps.step(library, cfg, children.size_for(name))
        remark = next((entry for entry in expected[library].get('remarks', ()) if entry['config'] == name), {})
        unread = remark.get('unread', ())
        faults = [] if cfg['type'] in steps.TRACKERS_ON_DETECTIONS else steps.faults_of(model, unread)
        if faults:
            raise AssertionError('; '.join(faults))
        return found

    expected = yaml.safe_load((HERE / 'families.yml').read_text())
    return SimpleNamespace(run=run, expected=expected, config_folder=children.config_folder)
