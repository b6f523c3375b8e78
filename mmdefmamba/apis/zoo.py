"""Models by name: building the configs of model-index.yml and loading checkpoints into them."""

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

from ..checkpoints.fit import fit, not_finite, some, state_dict_of
from ..config_tree import innermost_dataset, library_of, type_name
from ..files import existing_file, shown
from ..guards.class_count import head_counts
from ..guards.class_names import has_free_classes
from ..guards.config_errors import explain_errors, read_config
from ..names import unknown_name
from ..project import project_folder

# The formats of configs.
SUFFIXES = ('.py', '.json', '.yaml', '.yml')
# The task of each library.
TASKS = {'mmpretrain': 'classification', 'mmdet': 'detection', 'mmseg': 'segmentation'}


def list_models(pattern='*', task=None):
    """Return the names that :func:`get_model` accepts.

    Args:
        pattern: a pattern with wildcards, such as ``'defmamba_*_in1k'``.
        task: 'classification', 'detection' or 'segmentation'; None lists all tasks.

    Returns:
        A sorted list of names: the names of the files in ``configs/``, without ``.py``.

    Raises:
        ValueError: the task is unknown.
    """
    if task is not None and task not in TASKS.values():
        raise ValueError(f'task must be one of {list(TASKS.values())} or None, got {task!r}')
    configs = _configs()
    names = fnmatch.filter(configs, pattern)
    return sorted(name for name in names if task in (None, _task_folder(configs[name])))


def get_model(name_or_config, checkpoint=None, device=None, strict=True):
    """Build a model and load a checkpoint into it.

    The model is in evaluation mode. The inference functions of mmpretrain, mmdet and mmseg accept it, also beside
    models of the other libraries in the same process. As after mmdet's ``init_detector``, the scope of its library is
    then MMEngine's default scope.

    Args:
        name_or_config: a name from :func:`list_models`, a path of a config, ``'mmdefmamba::classification/...'``, or a
            Config.
        checkpoint: path or URL of the checkpoint; None keeps the random initial weights.
        device: device of the model, as for ``torch.nn.Module.to``; None keeps it on the CPU.
        strict: whether to refuse a checkpoint in which a parameter is missing or has another shape. With False such
            parameters keep their initial values, and a warning lists them.

    Returns:
        The model. Its ``cfg`` is the config. Its ``dataset_meta`` is a dict with ``classes`` and ``palette``, if the
        checkpoint or the config has them.

    Raises:
        FileNotFoundError: the config or the checkpoint does not exist.
        ValueError: the name is unknown, the config belongs to none of the three libraries, or the checkpoint does not
            fit.
        TypeError: a class of the config does not accept an argument.
    """
    cfg = load_config(name_or_config)
    task = task_of(cfg)
    cfg.default_scope = library_of(cfg)  # a config in pure Python style has none
    init_default_scope(cfg.default_scope)
    model_cfg = copy.deepcopy(cfg.model)
    if task == 'classification':
        model_cfg.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
    with explain_errors(cfg):
        model = MODELS.build(model_cfg)
    loaded = {}
    if checkpoint is None:
        print_log(f'{_name(cfg)}: there is no checkpoint, the weights are random', 'current', logging.WARNING)
    else:
        loaded = CheckpointLoader.load_checkpoint(os.fspath(checkpoint), map_location='cpu', logger='silent')
        _load(model, loaded, _name(cfg), checkpoint, strict)
    meta = _dataset_meta(cfg, model, loaded, checkpoint)
    model.cfg, model.dataset_meta = cfg, meta
    model._config, model._dataset_meta, model._metainfo = (
        cfg,
        meta,
        None,
    )  # the names that mmpretrain's inferencers read
    return model.to(device).eval()


def load_config(name_or_config):
    """Read the Config of a name or path, see :func:`find_config`. A Config is copied.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the name is unknown, or the config cannot be read.
    """
    if isinstance(name_or_config, Config):
        return copy.deepcopy(name_or_config)
    return read_config(find_config(name_or_config))


def find_config(name):
    """Return the Path of a config.

    Args:
        name: a name from :func:`list_models`, the path of a file, or the name of a package with the path in its
            configs: ``'mmdefmamba::classification/defmamba_t_in1k.py'``, ``'mmdet::...'``.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: no model has this name, or no package with configs does.
    """
    name = os.fspath(name)
    if '::' in name:
        return _config_of_package(name)
    if Path(name).suffix in SUFFIXES:
        return _config_file(name)
    configs = _configs()
    if name not in configs:
        remedy = 'mmdefmamba.list_models() lists all names. The path of a .py config is accepted as well'
        raise ValueError(unknown_name(f'unknown model {name!r}', name, configs, remedy, cutoff=0.5))
    return configs[name]


def task_of(cfg):
    """Return the task of a Config: 'classification', 'detection' or 'segmentation'.

    Its library says it, see :func:`~mmdefmamba.config_tree.library_of`.

    Raises:
        ValueError: the config belongs to none of the three libraries.
    """
    library = library_of(cfg)
    if library is None:
        raise ValueError(
            f'{_name(cfg)}: default_scope must be one of {list(TASKS)}, got {cfg.get("default_scope")!r}. A model '
            'whose type is a class of one of these libraries needs no default_scope'
        )
    return TASKS[library]


def model_metadata(name):
    """Return what the metafile says of a model, ``{'Training Data': ...}``; empty for an unknown name."""
    return next((entry['Metadata'] for entry in _entries() if entry['Name'] == name), {})


def _entries():
    """Return the entries of the zoo's models in the metafiles, a list of dicts."""
    folder = project_folder()
    files = [mmengine.load(folder / name) for name in mmengine.load(folder / 'model-index.yml')['Import']]
    return [entry for file in files for entry in file['Models']]


def _configs():
    """Return the paths of the zoo's configs by name."""
    return {entry['Name']: project_folder() / entry['Config'] for entry in _entries()}


def _task_folder(path):
    return path.relative_to(project_folder() / 'configs').parts[0]


def _config_file(name):
    try:
        return existing_file(name, 'config')
    except FileNotFoundError as error:
        ours = Path(name)
        if ours.parts[0] != 'configs' or not (project_folder() / ours).is_file():
            raise
        # a command of the documentation, which begins in a clone
        remedy = f'mmdefmamba::{ours.relative_to("configs").as_posix()} is the config of this name in the package'
        raise FileNotFoundError(f'{error}. {remedy}') from None


def _config_of_package(name):
    package, _, file = name.partition('::')
    if package == 'mmdefmamba':
        folder = project_folder() / 'configs'
        path = folder / file
        if not path.is_file():
            known = [found.relative_to(folder).as_posix() for found in folder.rglob('*.py')]
            remedy = f'The configs are in {shown(folder)}'
            raise FileNotFoundError(unknown_name(f'config {shown(name)} does not exist', file, known, remedy))
        return path
    try:
        return Path(Config._get_cfg_path(name, '')[0])
    except (AssertionError, ModuleNotFoundError, FileNotFoundError) as error:  # an assertion: an unknown package
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(f'config {shown(name)} cannot be found: {error}') from error


def _name(cfg):
    return Path(cfg.filename).stem if cfg.filename else type_name(cfg.get('model') or {}, 'this config')


def _load(model, loaded, name, checkpoint, strict):
    state = state_dict_of(loaded, checkpoint)
    checkpoint = shown(checkpoint)
    verdict = fit(model, state)
    report = f'{verdict.matched} of {verdict.total} parameters and buffers of {name}; {verdict}'
    if not verdict.matched or (strict and not verdict.complete):
        raise ValueError(
            f'{shown(checkpoint)} does not fit: it fills {report}. Use the config that the checkpoint was made with; '
            "convert a file of the authors' code first (mmdefmamba convert-released)"
            + ('; get_model(..., strict=False) takes what fits' if verdict.matched else '')
        )
    # MMEngine's: PyTorch's own stops at a parameter of another shape, with and without strict
    load_state_dict(model, state, strict=False, logger='silent')
    level = logging.INFO if verdict.complete and not verdict.unused else logging.WARNING
    print_log(f'{shown(checkpoint)} fills {report}', 'current', level)
    if broken := not_finite(model, state):
        names = some(f'{name} ({count})' for name, count in broken.items())
        print_log(
            f'{shown(checkpoint)} holds {sum(broken.values())} NaN or infinite values in {len(broken)} parameters, '
            'such as '
            f'{names}. Its training diverged, and its predictions mean nothing: use an earlier checkpoint',
            'current',
            logging.WARNING,
        )


def _dataset_meta(cfg, model, loaded, checkpoint):
    """Return ``classes`` and ``palette`` from the checkpoint, or else from the test dataset of the config."""
    dataset = innermost_dataset((cfg.get('test_dataloader') or {}).get('dataset', {}))
    of_class = {}
    if dataset:
        # the library's own registry: the root one does not have mmdet's and mmseg's datasets
        with DATASETS.switch_scope_and_registry(library_of(cfg)) as registry:
            kind = registry.get(dataset.type) if isinstance(dataset.type, str) else dataset.type
        of_class = getattr(kind, 'METAINFO', {})
    saved = loaded.get('meta') if isinstance(loaded, dict) else None
    saved = (saved.get('dataset_meta') if isinstance(saved, dict) else None) or {}
    meta = {
        key.lower(): value for part in (of_class, dataset.get('metainfo', {}), saved) for key, value in part.items()
    }
    _compare_outputs(model, meta, saved, checkpoint)
    meta = {key: meta[key] for key in ('classes', 'palette') if meta.get(key) is not None and len(meta[key])}
    if 'classes' in meta:
        meta['classes'] = tuple(map(str, meta['classes']))  # numbers, too, can be names
    if len(meta.get('palette', ())) != len(meta.get('classes', ())):
        meta.pop('palette', None)  # this palette belongs to other classes
    return meta


def _compare_outputs(model, meta, saved, checkpoint):
    """Refuse names of classes in a checkpoint that are not as many as a head's classes; drop those of a config.

    A config without ``metainfo`` has the names of its type of dataset, such as the 80 of COCO, for any head.
    """
    names = meta.get('classes')
    if names is None or isinstance(names, str) or not len(names) or has_free_classes(model):
        return
    # a panoptic model has heads for all classes, for the things and for the stuff
    counts = {len(meta[key]) for key in ('classes', 'thing_classes', 'stuff_classes') if meta.get(key) is not None}
    other = {name: count for name, count in head_counts(model).items() if count not in counts}
    if not other:
        return
    heads = ', '.join(f'{name} has {count}' for name, count in other.items())
    if any(key.lower() == 'classes' for key in saved):
        raise ValueError(
            f'{shown(checkpoint)} is refused: its meta.dataset_meta names {len(names)} classes, but in the model '
            f'{heads}. Use the config and the names that the checkpoint was made with'
        )
    print_log(
        f'the test data of the config name {len(names)} classes, but in the model {heads}: the classes have numbers '
        'for names. Set metainfo.classes of the test dataset to name them',
        'current',
        logging.WARNING,
    )
    del meta['classes']
