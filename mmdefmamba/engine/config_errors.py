"""Mistakes in a config, named together with what was meant.

A top-level key that nobody reads is no error to MMEngine: ``optim_wraper = dict(...)`` trains with the optimizer of the
base config, for days. A class that is not registered and an argument that a class does not take are errors, but without
their place in the config and without the near name.
"""

import contextlib
import difflib
import importlib.util
import inspect
import re
import textwrap
import traceback
from pathlib import Path

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import MODELS, OPTIMIZERS, Registry
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner, TestLoop, ValLoop
from torch.utils.data import DataLoader

from ..names import near_name

# Read by Config itself, by the tools, by MMEngine beside its Runner's arguments, and by all three libraries.
_READ_BESIDE_THE_RUNNER = {
    '_base_',
    '_delete_',
    'activation_checkpointing',
    'auto_scale_lr',
    'compile',
    'custom_imports',
    'efficient_conv_bn_eval',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'runner_type',
    'strategy',
    'sync_bn',
    'tta_model',
    'tta_pipeline',
}
_SCOPES = ('mmengine', 'mmpretrain', 'mmdet', 'mmseg')
# From here on two names are one with a slip of the finger: optim_wraper, train_dataloaders.
_NEAR = 0.9
# MMEngine calls these itself, not through a registry.
_CALLED_BY_NAME = {
    f'{called.__name__}.__init__': called
    for called in (DataLoader, EpochBasedTrainLoop, IterBasedTrainLoop, ValLoop, TestLoop)
} | {'Runner.set_randomness': Runner.set_randomness}
# Keys that hold a number wherever they stand: 'three' for max_epochs fails deep inside, and without the key.
_NUMBERS = {
    'batch_size',
    'drop_path_rate',
    'in_channels',
    'interval',
    'lr',
    'max_epochs',
    'max_iters',
    'max_keep_ckpts',
    'num_classes',
    'num_workers',
    'seed',
    'val_begin',
    'val_interval',
    'weight_decay',
}
# What MMEngine's own constructor of optimizers looks up in paramwise_cfg, and of a parameter in its custom_keys; what
# else is in these stands for nothing, or for a setting of the optimizer's.
_PARAMWISE = {
    'bias_decay_mult',
    'bias_lr_mult',
    'bypass_duplicate',
    'custom_keys',
    'dcn_offset_lr_mult',
    'dwconv_decay_mult',
    'flat_decay_mult',
    'norm_decay_mult',
}
_OF_A_PARAMETER = ('lr_mult', 'decay_mult')
# What mmdet and mmengine look up in a data set's filter_cfg.
_FILTERS = ('filter_empty_gt', 'min_size')


def _known():
    return set(inspect.signature(Runner.__init__).parameters) - {'self', 'cfg'} | _READ_BESIDE_THE_RUNNER


def read_config(path):
    """Read a config file; as MMEngine's ``Config.fromfile``, with errors that name the file.

    Args:
        path: of a .py, .json or .yaml file. It is a program and is run: read none that you do not trust.

    Raises:
        FileNotFoundError: it, or one that it is based on, does not exist.
        ValueError: the file, or one that it is based on, cannot be read; names the innermost.
    """
    try:
        return Config.fromfile(path)
    except Exception as error:  # a config is a program: it can raise anything
        reading = [tb for tb in _frames(error) if tb.tb_frame.f_code is Config._file2dict.__code__]
        file = str(reading[0].tb_frame.f_locals['filename']) if reading else str(path)
        based = f' (which {path} is based on)' if Path(file).resolve() != Path(path).resolve() else ''
        line = next((f', line {tb.tb_lineno}' for tb in _frames(error) if tb.tb_frame.f_code.co_filename == file), '')
        if isinstance(error, RecursionError):
            raise ValueError(
                f'config {file}{based} is based on itself, at once or by others: see its _base_'
            ) from error
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(f'config {file}{based} cannot be read{line}: {type(error).__name__}: {error}') from error


def check_keys(cfg):
    """Refuse what is sure to be a slip.

    That is a top-level key that is nearly a known one, or one further down of which no class would complain, or none
    that says where. Other unknown keys pass: a config's own variables are keys too.

    Args:
        cfg: an MMEngine Config.

    Raises:
        ValueError: names the key and what was meant.
    """
    known = _known()
    for key in cfg:
        hint = near_name(key, known, cutoff=_NEAR)
        if key not in known and hint:
            raise ValueError(f'config key {key!r} is read by nobody{hint}')
    for path, node in dicts_in(cfg.to_dict()):
        for key, value in node.items():
            if key in _NUMBERS and isinstance(value, str):
                raise ValueError(f'{".".join([*path, key])} must be a number, got {value!r}')
        if isinstance(node.get('paramwise_cfg'), dict):
            _check_paramwise(node, '.'.join([*path, 'paramwise_cfg']))
        if isinstance(node.get('filter_cfg'), dict):
            _check_looked_up('.'.join([*path, 'filter_cfg']), node['filter_cfg'], _FILTERS)
    hooks = cfg.get('default_hooks') or {}
    for name, hook in hooks.items():
        if isinstance(hook, dict) and 'type' not in hook:
            raise ValueError(f'default_hooks.{name} has no type{near_name(name, set(hooks) - {name})}')
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = cfg.get(name)
        if isinstance(loader, dict) and 'dataset' not in loader:
            raise ValueError(f'{name} has no dataset{near_name("dataset", loader)}')
    scope = cfg.get('default_scope')
    if scope is not None and importlib.util.find_spec(scope) is None:
        hint = near_name(scope, _SCOPES, otherwise=f'; one of {", ".join(_SCOPES)}')
        raise ValueError(f'default_scope {scope!r} is no package that is installed{hint}')


def _check_looked_up(place, options, known, cutoff=0.7):
    for key in options:
        hint = near_name(key, known, cutoff=cutoff)
        if key not in known and hint:
            raise ValueError(f'{place}.{key} is read by nobody{hint}')


def _check_paramwise(wrapper, place):
    if str(wrapper.get('constructor', '')).split('.')[-1] not in ('', 'None', 'DefaultOptimWrapperConstructor'):
        return
    _check_looked_up(place, wrapper['paramwise_cfg'], _PARAMWISE, cutoff=0)
    custom = wrapper['paramwise_cfg'].get('custom_keys')
    settings = {place: wrapper['paramwise_cfg']}
    for name, options in custom.items() if isinstance(custom, dict) else ():
        if isinstance(options, dict):
            settings[f'{place}.custom_keys.{name}'] = options
            _check_looked_up(f'{place}.custom_keys.{name}', options, _OF_A_PARAMETER)
    optimizer = wrapper.get('optimizer')
    if not isinstance(optimizer, dict):
        return
    # the learning rate of a parameter with an entry in custom_keys is computed whatever the entry says
    for setting, scales in (('weight_decay', ('decay_mult',)), ('lr', ('lr_mult', 'custom_keys'))):
        scaled = [
            f'{where}.{key}'
            for where, options in settings.items()
            for key, value in options.items()
            if key.endswith(scales) and value != {}
        ]
        if scaled and optimizer.get(setting) is None:
            owner = place.removesuffix('paramwise_cfg') + 'optimizer'
            raise ValueError(f'{scaled[0]} scales {setting}, which {owner} does not set, only {sorted(optimizer)}')


def check_options(options):
    """Refuse ``--cfg-options`` without effect.

    By then the variables of a config have gone into its other keys: ``max_epochs=3`` changes ``max_epochs`` and nothing
    that was made of it.

    Args:
        options: dict of dotted keys.

    Raises:
        ValueError: names the key and the nearest one with an effect.
    """
    known = _known()
    for option in options:
        key = option.split('.')[0]
        if key not in known:
            raise ValueError(
                f'--cfg-options {option}: {key!r} is read by nobody{near_name(key, known, ".")} If it is a variable of '
                'the config, change it there, or change here the keys that it went into (train_cfg.max_epochs, say)'
            )


@contextlib.contextmanager
def explain_errors(cfg):
    """Inside the block, say where in the config or the data an error comes from, and what was meant.

    Args:
        cfg: the config that is built or run inside.

    Raises:
        ValueError: a type that is not registered; names its place in the config and the near name. A data set that is
            empty, or whose annotations cannot be read; names its files.
        TypeError: an argument that a class does not take; names its place and the near one, or all that there are.
        FileNotFoundError: a data set whose files are not there; names it.
    """
    try:
        yield
    except Exception as error:
        explained = _explain_type(error, cfg) or _explain_argument(error, cfg)
        explained = explained or _explain_dataset(error) or _explain_bare(error)
        if explained is None:
            raise
        raise explained from error


def _explain_type(error, cfg):
    message = str(error.args[0]) if isinstance(error, (KeyError, TypeError)) and error.args else ''
    match = re.match(r'(\S+) is not in the .* registry', message)
    registries = [registry for registry in _locals(error, 'registry') if isinstance(registry, Registry)]
    layers = [*_locals(error, 'layer_type'), *_locals(error, 'padding_type')]
    if message == 'None is not a callable object':  # MMEngine looks for the optimizer's class in a way of its own
        name, registry = cfg.optim_wrapper.optimizer.type, OPTIMIZERS
    elif message == "'module' object is not callable" and registries:  # a type that is the name of a Python module
        name, registry = _locals(error, 'obj_type')[-1], registries[-1]
    elif match and registries:
        name, registry = match[1], registries[-1]
    elif message.startswith('Cannot find None in registry') and layers:  # mmcv's: norm_cfg, conv_cfg, padding
        name, registry = layers[-1], MODELS
    else:
        return None
    kind, names = registry.name, set()
    while registry is not None:
        names |= set(registry.module_dict)
        registry = registry.parent
    hint = near_name(name.split('.')[-1], names, otherwise='.')
    return ValueError(
        f'{_place(cfg, lambda node: node.get("type") == name, "type")}{name!r} is no registered {kind}{hint} '
        'A class of your own has to be imported first, in custom_imports of the config'
    )


def _explain_argument(error, cfg):
    match = re.search(r"(?:(\w+\.\w+)\(\) got an )?unexpected keyword argument '(\w+)'", str(error))
    if match is None or not isinstance(error, TypeError):
        return None
    # MMEngine's releases word the error differently; the class is a local of its innermost build
    built = [_CALLED_BY_NAME[match[1]]] if match[1] in _CALLED_BY_NAME else _locals(error, 'obj_cls')
    if not built:
        return None
    argument, cls = match[2], built[-1]
    takes = [
        parameter.name
        for parameter in inspect.signature(cls).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    near = difflib.get_close_matches(argument, takes, n=1)
    hint = f'Did you mean {near[0]!r}?' if near else f'It takes: {", ".join(takes)}.'

    def is_it(node):
        kind = str(node.get('type', cls.__name__)).split('.')[-1]
        return argument in node and kind == cls.__name__

    return TypeError(f'{_place(cfg, is_it, argument)}{cls.__name__} takes no argument {argument!r}. {hint}')


def _explain_dataset(error):
    for tb in _frames(error):
        dataset, call = tb.tb_frame.f_locals.get('self'), tb.tb_frame.f_code.co_name
        if isinstance(dataset, BaseDataset) and call in ('load_data_list', '_serialize_data'):
            break
    else:
        return None
    files = ', '.join([f'ann_file {dataset.ann_file!r}', f'data_prefix {dataset.data_prefix}'])
    if call == '_serialize_data':
        return ValueError(f'{type(dataset).__name__} holds no image: {files}')
    kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
    return kind(f'{type(dataset).__name__} could not be read, {files}: {type(error).__name__}: {error}')


def _explain_bare(error):
    """Of an assertion without a word, and of None where something else belongs: what was built, and from what."""
    missing = isinstance(error, TypeError) and str(error).startswith("'NoneType' object")
    if not missing and (not isinstance(error, AssertionError) or str(error)):
        return None
    for local in (tb.tb_frame.f_locals for tb in _frames(error)):
        if 'obj_cls' in local and 'args' in local:  # MMEngine builds from a config here
            failed = ': '.join(filter(None, [traceback.extract_tb(error.__traceback__)[-1].line, str(error)]))
            given = textwrap.shorten(', '.join(f'{key}={value!r}' for key, value in local['args'].items()), 500)
            return ValueError(f'{local["obj_cls"].__name__} cannot be built: {failed}. Given: {given}')
    return None


def _frames(error):
    """The traceback of an error and of those that it was raised for, from the innermost call outwards."""
    tracebacks, tb = [], error.__traceback__
    while tb is not None:
        tracebacks.append(tb)
        tb = tb.tb_next
    return reversed(tracebacks)


def _locals(error, name):
    """The values of a local variable in the calls that an error came through, those that are not None."""
    values = [tb.tb_frame.f_locals.get(name) for tb in reversed([*_frames(error)])]
    return [value for value in values if value is not None]


def dicts_in(node, path=()):
    """All dicts in a nest of dicts and lists, each with its path, as names."""
    if isinstance(node, dict):
        yield path, node
        children = node.items()
    elif isinstance(node, (list, tuple)):
        children = enumerate(node)
    else:
        return
    for name, child in children:
        yield from dicts_in(child, (*path, str(name)))


def _place(cfg, is_it, key):
    """Where in a config a dict is, as the option that changes it: ``model.backbone.type: ``; '' where there is none."""
    paths = ('.'.join([*path, key]) + ': ' for path, node in dicts_in(cfg.to_dict()) if is_it(node))
    return next(paths, '')
