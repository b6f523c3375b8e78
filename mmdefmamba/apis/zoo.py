"""Models by name: the configs that model-index.yml lists, built and filled from a checkpoint."""

import copy
import fnmatch
import logging
import os
from pathlib import Path

import mmengine
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner.checkpoint import CheckpointLoader, load_state_dict

from ..checkpoints.fit import fit, state_dict_of
from ..config_tree import innermost_dataset
from ..files import existing_file
from ..guards.config_errors import explain_errors, read_config
from ..names import near_name

CLONE = Path(__file__).resolve().parents[2]
# The library that a config is for, and what its models do.
TASKS = {'mmpretrain': 'classification', 'mmdet': 'detection', 'mmseg': 'segmentation'}


def list_models(pattern='*', task=None):
    """The names that :func:`get_model` takes.

    Args:
        pattern: with wildcards, such as ``'defmamba_*_in1k'``.
        task: 'classification', 'detection' or 'segmentation'; None lists all.

    Returns:
        Names, sorted: those of the files in ``configs/`` without ``.py``.

    Raises:
        FileNotFoundError: the configs are not beside the package.
        ValueError: unknown task.
    """
    if task is not None and task not in TASKS.values():
        raise ValueError(f'task must be one of {list(TASKS.values())} or None, got {task!r}')
    configs = _configs()
    names = fnmatch.filter(configs, pattern)
    return sorted(name for name in names if task in (None, configs[name].relative_to(CLONE).parts[1]))


def get_model(name_or_config, checkpoint=None, device=None, strict=True):
    """Build a model and load a checkpoint into it.

    The model is in evaluation mode, and what mmpretrain's, mmdet's and mmseg's own functions for inference take. As
    after mmdet's ``init_detector``, its library's scope is MMEngine's default one from then on.

    Args:
        name_or_config: one of :func:`list_models`, a path of a config, or a Config.
        checkpoint: path or URL; None leaves the weights random, as the constructors draw them.
        device: where to put the model, as for ``torch.nn.Module.to``; None leaves it on the CPU.
        strict: refuse a checkpoint that lacks a parameter or has one in another shape. Without it such parameters keep
            their initial values, and a warning names them.

    Returns:
        The model, with the config as ``cfg``, and as ``dataset_meta`` a dict with ``classes`` and ``palette`` where
        checkpoint or config know them.

    Raises:
        FileNotFoundError: no such config or checkpoint, or a name while the configs are not beside the package.
        ValueError: unknown name, a config for none of the three libraries, or a checkpoint that does not fit.
        TypeError: a class of the config takes no such argument.
    """
    cfg = load_config(name_or_config)
    task = task_of(cfg)
    init_default_scope(cfg.default_scope)
    model_cfg = copy.deepcopy(cfg.model)
    if task == 'classification':
        model_cfg.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
    with explain_errors(cfg):
        model = MODELS.build(model_cfg)
    loaded = {}
    if checkpoint is None:
        print_log(f'{_name(cfg)}: no checkpoint, the weights are random', 'current', logging.WARNING)
    else:
        loaded = CheckpointLoader.load_checkpoint(os.fspath(checkpoint), map_location='cpu', logger='silent')
        _load(model, loaded, _name(cfg), checkpoint, strict)
    meta = _dataset_meta(cfg, loaded)
    model.cfg, model.dataset_meta = cfg, meta
    model._config, model._dataset_meta, model._metainfo = cfg, meta, None  # what mmpretrain's inferencers read
    return model.to(device).eval()


def load_config(name_or_config):
    """The Config of a name of :func:`list_models` or of a path; a copy of one that is a Config already.

    Raises:
        FileNotFoundError: no such file, or a name while the configs are not beside the package.
        ValueError: unknown name, or a config that cannot be read.
    """
    if isinstance(name_or_config, Config):
        return copy.deepcopy(name_or_config)
    name = os.fspath(name_or_config)
    if name.endswith('.py'):
        return read_config(existing_file(name, 'config'))
    configs = _configs()
    if name not in configs:
        hint = near_name(name, configs, otherwise=';', cutoff=0.5)
        raise ValueError(f'unknown model {name!r}{hint} mmdefmamba.list_models() lists all, or give the path of a .py')
    return read_config(configs[name])


def task_of(cfg):
    """What a Config's models do, by its ``default_scope``: 'classification', 'detection' or 'segmentation'.

    Raises:
        ValueError: a config for none of the three libraries.
    """
    scope = cfg.get('default_scope')
    if scope not in TASKS:
        raise ValueError(f'{_name(cfg)}: default_scope must be one of {list(TASKS)}, got {scope!r}')
    return TASKS[scope]


def _configs():
    """Paths of the zoo's configs by name."""
    index = CLONE / 'model-index.yml'
    if not index.is_file():
        raise FileNotFoundError(
            f'{index} not found: names of models are known in a clone that is installed with pip install -e . '
            'Give the path of a config instead.'
        )
    files = [mmengine.load(CLONE / name) for name in mmengine.load(index)['Import']]
    return {model['Name']: CLONE / model['Config'] for file in files for model in file['Models']}


def _name(cfg):
    return Path(cfg.filename).stem if cfg.filename else cfg.get('model', {}).get('type', 'this config')


def _load(model, loaded, name, checkpoint, strict):
    state = state_dict_of(loaded, checkpoint)
    verdict = fit(model, state)
    report = f'{checkpoint} fills {verdict.matched} of {verdict.total} parameters and buffers of {name}; {verdict}'
    if not verdict.matched or (strict and not verdict.complete):
        raise ValueError(
            f"{report}. Use the config that the checkpoint was made with; convert a file of the authors' code first "
            '(tools/model_converters/convert_released.py)'
            + ('; get_model(..., strict=False) takes what fits' if verdict.matched else '')
        )
    # MMEngine's: PyTorch's own stops at a parameter of another shape, with and without strict
    load_state_dict(model, state, strict=False, logger='silent')
    level = logging.INFO if verdict.complete and not verdict.unused else logging.WARNING
    print_log(report, 'current', level)


def _dataset_meta(cfg, loaded):
    """``classes`` and ``palette``: what the checkpoint was trained with, else what the config's test data have."""
    dataset = innermost_dataset((cfg.get('test_dataloader') or {}).get('dataset', {}))
    of_class = getattr(DATASETS.get(dataset.type), 'METAINFO', {}) if dataset else {}
    saved = loaded.get('meta', {}).get('dataset_meta') or {}
    meta = {
        key.lower(): value for part in (of_class, dataset.get('metainfo', {}), saved) for key, value in part.items()
    }
    meta = {key: meta[key] for key in ('classes', 'palette') if meta.get(key)}
    if len(meta.get('palette', ())) != len(meta.get('classes', ())):
        meta.pop('palette', None)  # of other classes
    return meta
