"""Configs with one misspelt key: an error names the key, or the rules of docs/robustness.md allow it.

``pytest tests/test_guards/test_fuzz_config.py --examples 10000`` tries more keys.
"""

import copy
import re

import pytest
from mmengine import registry
from mmengine.config import Config
from mmengine.registry import DATASETS, Registry, init_default_scope
from mmengine.runner import Runner

from mmdefmamba.cli.run_options import build_runner
from mmdefmamba.guards.config_errors import explain_errors, read_config
from mmdefmamba.guards.config_keys import check_keys, dicts_in

hypothesis = pytest.importorskip('hypothesis', reason='pip install hypothesis')
from hypothesis import strategies as st  # noqa: E402

LETTERS = 'abcdefghijklmnopqrstuvwxyz_'


def keys_of(config):
    """Return all keys of a config that are checked: (path of the dict that has the key, this dict, the key)."""
    return [(path, node, key) for path, node in dicts_in(config) for key in node if not is_free((*path, key))]


def misspelt(draw, word):
    """Return a word with one letter added, removed or replaced, or with two letters swapped."""
    at = draw(st.integers(0, len(word) - 1))
    letter = draw(st.sampled_from(LETTERS))
    kind = draw(st.sampled_from(['more', 'less', 'other', 'swapped']))
    if kind == 'more':
        return word[:at] + letter + word[at:]
    if kind == 'less':
        return word[:at] + word[at + 1 :]
    if kind == 'other':
        return word[:at] + letter + word[at + 1 :]
    return word[:at] + word[at : at + 2][::-1] + word[at + 2 :]


# Dicts whose keys may have any name: hooks, and settings that only a distributed run reads.
FREE = ('default_hooks', 'dist_cfg')


def is_free(path):
    return bool(set(path[:-1]) & set(FREE))


BUILT = (
    'custom_hooks',
    'data_preprocessor',
    'default_hooks',
    'default_scope',
    'env_cfg',
    'launcher',
    'model',
    'optim_wrapper',
    'param_scheduler',
    'randomness',
    'train_cfg',
    'train_dataloader',
    'work_dir',
)


def names_in(root):
    """Yield all names of a registry and of its children."""
    yield from root.module_dict
    for child in root.children.values():
        yield from names_in(child)


@pytest.fixture(scope='module', params=['classification', 'detection', 'segmentation'])
def config(request, tools, tmp_path_factory, tiny_class):
    data = tiny_class(request.param, tmp_path_factory.mktemp('fuzz'), tools)
    cfg = read_config(str(data.config))
    cfg.work_dir, cfg.launcher = str(data.work_dir), 'none'
    # nothing is saved or drawn; variables of the config are removed, because they have been read by now. In configs of
    # mmdet and mmseg, data_preprocessor is such a variable
    kept = set(BUILT) - (set() if request.param == 'classification' else {'data_preprocessor'})
    for name in set(cfg) - kept:
        del cfg._cfg_dict[name]
    return cfg.to_dict()


@pytest.fixture(scope='module')
def unshrunk(bounded):
    """Return settings with the same number of examples for the three tasks together.

    Hypothesis does not simplify a failing example, because it is a single key.
    """
    return hypothesis.settings(bounded, phases=(hypothesis.Phase.generate,), max_examples=bounded.max_examples // 3)


def build_all(cfg):
    """Build what a training builds, and take one optimizer step."""
    check_keys(cfg)
    with explain_errors(cfg):
        init_default_scope(cfg.get('default_scope', 'mmengine'))
        runner = build_runner(cfg)
        assert isinstance(runner, Runner)
        runner._train_loop = runner.build_train_loop(runner._train_loop)
        runner._init_model_weights()
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        runner.build_param_scheduler(runner.param_schedulers)
        runner.optim_wrapper.update_params(sum(weight.sum() for weight in runner.model.parameters()))
        DATASETS.build(cfg.train_dataloader.dataset)[0]
        runner.call_hook('before_train')


def test_misspelt_key_is_reported_or_allowed(unshrunk, config, forget_runs):
    @unshrunk
    @hypothesis.given(st.data())
    def check(data):
        mutated = copy.deepcopy(config)
        path, node, before = data.draw(st.sampled_from(keys_of(mutated)))
        key = misspelt(data.draw, before)
        hypothesis.assume(key and key not in node)
        # a key of custom_keys matches each parameter whose name contains it, so a part of a key is no mistake
        hypothesis.assume(path[-1:] != ('custom_keys',) or key not in before)
        node[key] = node.pop(before)
        forget_runs()
        try:
            build_all(Config(mutated))
        except Exception as error:
            # the message has the misspelt key, the key that is missing now, or the part of the config it belongs to
            told = re.split(r'\W+', f'{type(error).__name__} {error}')
            assert {key, before, *path} & set(told), f'{path}, {before} -> {key}: {error!r}'
        else:
            assert not path, f'{path}, {before} -> {key} was taken without a word'

    check()


def test_misspelt_type_is_reported(unshrunk, config, forget_runs):
    build_all(Config(copy.deepcopy(config)))  # this registers all classes
    registered = {name for root in vars(registry).values() if isinstance(root, Registry) for name in names_in(root)}

    @unshrunk
    @hypothesis.given(st.data())
    def check(data):
        mutated = copy.deepcopy(config)
        path, node, _ = data.draw(st.sampled_from([found for found in keys_of(mutated) if found[2] == 'type']))
        before = node['type']
        name = node['type'] = misspelt(data.draw, before)
        # a registered name, such as Adam for AdamW, is no mistake
        hypothesis.assume(name != before and name not in registered)
        forget_runs()
        with pytest.raises(Exception) as error:
            build_all(Config(mutated))
        assert name in str(error.value), f'{path} = {name}: {error.value!r}'

    check()
