"""Errors of a config that is read, built or run, with their place in the config and a similar name that exists.

MMEngine raises an error for a class that is not registered and for an argument that a class does not take, but without
these two. It raises no error for keys that no component reads: see :mod:`.config_keys`.

The explanations read local variables of MMEngine's functions from the traceback. tests/test_upstream.py
fails where a release renames them.
"""

import contextlib
import importlib
import importlib.util
import inspect
import re
import textwrap
import traceback
from pathlib import Path

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import MODELS, OPTIMIZERS, Registry
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop, Runner, TestLoop, ValLoop
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from ..checkpoints.fit import some
from ..config_tree import dicts_in
from ..files import shown
from ..installed import explain_missing
from ..names import nearest, unknown_name
from .config_keys import scope_hint

# MMEngine calls these itself, not through a registry.
_CALLED_BY_NAME = {
    f'{called.__name__}.__init__': called
    for called in (DataLoader, EpochBasedTrainLoop, IterBasedTrainLoop, ValLoop, TestLoop)
} | {'Runner.set_randomness': Runner.set_randomness}
_SCORING = (ValLoop, TestLoop)


def read_config(path):
    """Read a config file as MMEngine's ``Config.fromfile`` does, with errors that name the file.

    Args:
        path: of a .py, .json or .yaml file. A config is a program, and is run: do not read one that you do not trust.

    Raises:
        FileNotFoundError: the file, or one of its bases, does not exist.
        ValueError: the file, or one of its bases, cannot be read; names that file.
    """
    try:
        return Config.fromfile(path)
    except Exception as error:  # a config is a program: it can raise anything
        reading = [tb for tb in _frames(error) if tb.tb_frame.f_code is Config._file2dict.__code__]
        file = str(reading[0].tb_frame.f_locals['filename']) if reading else str(path)
        based = f' (a base of {shown(path)})' if Path(file).resolve() != Path(path).resolve() else ''
        line = next((f', line {tb.tb_lineno}' for tb in _frames(error) if tb.tb_frame.f_code.co_filename == file), '')
        if missing := explain_missing(error):
            raise ValueError(f'config {shown(file)}{based} cannot be read{line}: {missing}') from error
        if isinstance(error, RecursionError):
            raise ValueError(
                f'config {shown(file)}{based} is its own base, directly or through other files: check its _base_'
            ) from error
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        if kind is FileNotFoundError and based:
            based = f'{based[:-1]}; paths in _base_ start from the folder of the config that has them)'
        raise kind(f'config {shown(file)}{based} cannot be read{line}: {type(error).__name__}: {error}') from error


@contextlib.contextmanager
def explain_errors(cfg):
    """Explain errors that are raised inside the block: where they come from in the config or in the data.

    Args:
        cfg: the config that is built or run inside.

    Raises:
        ValueError: a type is not registered (names its place in the config and a similar name); a dataset is empty, or
            its annotations cannot be read (names its files); the images of a batch have different sizes (gives them);
            parameters get no gradient in distributed training (names them).
        TypeError: a class does not take an argument (names its place and a similar argument, or all arguments).
        FileNotFoundError: the files of a dataset do not exist (names the dataset).
        ModuleNotFoundError: a library is not installed (gives the command that installs it).
    """
    try:
        yield
    except Exception as error:
        explained = _explain_type(error, cfg) or _explain_argument(error, cfg)
        explained = explained or _explain_dataset(error) or _explain_batch(error) or _explain_bare(error)
        explained = explained or _explain_unreached(error) or _explain_missing(error)
        if explained is None:
            raise
        raise explained from error


def _explain_type(error, cfg):
    message = str(error.args[0]) if isinstance(error, (KeyError, TypeError)) and error.args else ''
    match = re.match(r'(\S+) is not in the .* registry', message)
    registries = [registry for registry in _locals(error, 'registry') if isinstance(registry, Registry)]
    layers = [*_locals(error, 'layer_type'), *_locals(error, 'padding_type')]
    if message == 'None is not a callable object':  # MMEngine's error for an unknown optimizer
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
    scope = scope_hint(cfg.get('default_scope')) or _import_error(cfg.get('default_scope'))
    problem = f'{_place(cfg, lambda node: node.get("type") == name, "type")}{name!r} is not a registered {kind}'
    remedy = 'Import a class of your own in custom_imports of the config' + (f'. Note: {scope}' if scope else '')
    return ValueError(unknown_name(problem, name.split('.')[-1], names, remedy))


def _import_error(scope):
    """Return why the library of a ``default_scope`` cannot be imported, or ''. MMEngine goes on without its classes."""
    try:
        if isinstance(scope, str) and importlib.util.find_spec(scope.partition('.')[0]) is not None:
            importlib.import_module(scope.partition('.')[0])
    except ImportError as error:
        return f'{scope} cannot be imported ({explain_missing(error) or f"{type(error).__name__}: {error}"})'
    return ''


def _explain_argument(error, cfg):
    match = re.search(r"(?:(\w+\.\w+)\(\) got an )?unexpected keyword argument '(\w+)'", str(error))
    if match is None or not isinstance(error, TypeError):
        return None
    # releases of MMEngine word the error differently; the class is a local variable of its innermost build
    built = [_CALLED_BY_NAME[match[1]]] if match[1] in _CALLED_BY_NAME else _locals(error, 'obj_cls')
    if not built:
        return None
    argument, cls = match[2], built[-1]
    takes = [
        parameter.name
        for parameter in inspect.signature(cls).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    near = nearest(argument, takes)
    hint = f'Did you mean {near!r}?' if near else f'It takes: {", ".join(takes)}.'

    def is_it(node):
        kind = str(node.get('type', cls.__name__)).split('.')[-1]
        return argument in node and kind == cls.__name__

    return TypeError(f'{_place(cfg, is_it, argument)}{cls.__name__} does not take the argument {argument!r}. {hint}')


def _explain_dataset(error):
    for tb in _frames(error):
        dataset, call = tb.tb_frame.f_locals.get('self'), tb.tb_frame.f_code.co_name
        if isinstance(dataset, BaseDataset) and call in ('load_data_list', '_serialize_data'):
            break
    else:
        return None
    files = ', '.join([f'ann_file {dataset.ann_file!r}', f'data_prefix {shown(dataset.data_prefix)}'])
    if call == '_serialize_data':
        return ValueError(f'{type(dataset).__name__} has no images: {files}')
    kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
    return kind(f'{type(dataset).__name__} could not be read, {files}: {type(error).__name__}: {error}')


def _explain_batch(error):
    """Explain that images of different sizes cannot become one batch. A data worker hands on the error as a text."""
    sizes = re.search(r'equal size, but got \[([\d, ]+)\] at entry 0 and \[([\d, ]+)\] at entry (\d+)', str(error))
    if not isinstance(error, RuntimeError) or sizes is None:
        return None
    loops = [loop for loop in (tb.tb_frame.f_locals.get('self') for tb in _frames(error)) if isinstance(loop, BaseLoop)]
    split = next(
        ('val' if isinstance(loop, ValLoop) else 'test' for loop in loops if isinstance(loop, _SCORING)), 'train'
    )
    first, second = (sizes[i].replace(', ', ' x ') for i in (1, 2))
    crop = 'RandomResizedCrop or RandomCrop' if split == 'train' else 'Resize and CenterCrop'
    return ValueError(
        f'the images of a batch have different sizes: image 0 has {first}, image {sizes[3]} has {second} (channels x '
        f'height x width). Let the pipeline of {split}_dataloader.dataset end in one size, for example by {crop}, or '
        f'set {split}_dataloader.batch_size=1'
    )


def _explain_bare(error):
    """Explain an assertion without a text, and None in the place of an object: name what was built, and from what."""
    missing = isinstance(error, TypeError) and str(error).startswith("'NoneType' object")
    if not missing and (not isinstance(error, AssertionError) or str(error)):
        return None
    for local in (tb.tb_frame.f_locals for tb in _frames(error)):
        if 'obj_cls' in local and 'args' in local:  # a frame of MMEngine's build_from_cfg
            failed = ': '.join(filter(None, [traceback.extract_tb(error.__traceback__)[-1].line, str(error)]))
            given = textwrap.shorten(', '.join(f'{key}={value!r}' for key, value in local['args'].items()), 500)
            return ValueError(f'{local["obj_cls"].__name__} cannot be built: {failed}. Given: {given}')
    return None


def _explain_unreached(error):
    """Explain the refusal of DistributedDataParallel when parameters got no gradient; it gives their numbers alone."""
    message = str(error)
    if not (isinstance(error, RuntimeError) and message.startswith('Expected to have finished reduction')):
        return None
    wrapped = [model for model in _locals(error, 'self') if isinstance(model, DistributedDataParallel)]
    numbers = re.search(r'did not receive grad for rank \d+: ([\d ]+)', message)
    names = []
    if wrapped and numbers:
        trained = [name for name, parameter in wrapped[-1].module.named_parameters() if parameter.requires_grad]
        names = [trained[int(number)] for number in numbers[1].split()]
    found = f'{len(names)} parameters, {some(names)},' if names else 'some parameters'
    return ValueError(
        f'{found} got no gradient in the last iteration, and DistributedDataParallel waits for all of them. If they '
        'belong to the backbone, no head reads its maps: leave these stages out of model.backbone.out_indices and of '
        'model.neck.in_channels, and set model.neck.start_level=0. If the network asks for a map that it never '
        'reads, as NAS-FCOS and BiSeNetV1 do, or if the parameters belong to something else, set '
        'find_unused_parameters=True at the top of the config, which makes each iteration slower'
    )


def _explain_missing(error):
    missing = explain_missing(error)
    return ModuleNotFoundError(missing, name=error.name) if missing else None


def _frames(error):
    """Return the traceback objects of an error, from the innermost call outwards."""
    tracebacks, tb = [], error.__traceback__
    while tb is not None:
        tracebacks.append(tb)
        tb = tb.tb_next
    return reversed(tracebacks)


def _locals(error, name):
    """Return the values of a local variable in the calls that an error came through, except None."""
    values = [tb.tb_frame.f_locals.get(name) for tb in reversed([*_frames(error)])]
    return [value for value in values if value is not None]


def _place(cfg, is_it, key):
    """Return the place of a dict in a config as the option that changes it, ``model.backbone.type: ``, or ''."""
    paths = ('.'.join([*path, key]) + ': ' for path, node in dicts_in(cfg.to_dict()) if is_it(node))
    return next(paths, '')
