"""Reading MMEngine's checkpoints without running the code that is pickled in them.

Defect: MMEngine reads checkpoints with ``torch.load(weights_only=False)``, which runs whatever code a file brings. Its
earlier releases leave the choice to PyTorch. PyTorch's default since 2.6, ``weights_only=True``, refuses the
``HistoryBuffer``, ``getattr`` and NumPy values that MMEngine itself writes into every checkpoint.
Seen in: mmengine 0.11.0rc3 (runs pickles); mmengine 0.10.7 with torch >= 2.6 (refuses its own files).
Can go: when MMEngine loads with ``weights_only=True`` and an allow-list of its own.

Every scheme of ``CheckpointLoader`` ends in :func:`load_safely`, except ``pavi://``, which is refused: few people can
reach that service. PyTorch's promise for ``weights_only=True`` holds from torch 2.6 on (CVE-2025-32434). It covers code
in the pickle, not every way in which a malformed file can harm a process: still load no file of doubtful origin.
"""

import datetime
import logging
import mmap
import os
import os.path as osp
import pathlib
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.dist import barrier, is_main_process
from mmengine.fileio import get_local_path
from mmengine.logging import HistoryBuffer, print_log
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

from ..files import shorten, shown
from ..tensor_files import is_tensor_file, read_tensor_file
from .downloads import fetch
from .pickled import check_pickles

# First bytes of what torch.save wrote before its zip format.
LEGACY_MAGIC = b'\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19'
# What it wrote then: a mark, a version, the machine, the content, and the names of the tensors' data.
PICKLES_BEFORE_ZIP = 5
_MAX_RANGE = 1_000_000
# PyTorch allows a pickle to call this type with any number of bytes, and no checkpoint needs it.
_BYTEARRAY = re.compile(rb'c(__builtin__|builtins)\nbytearray\n')

_trusted = []


def apply(module):
    """Put the safe loaders in the place of MMEngine's own; loaders that other code has registered stay.

    Args:
        module: ``mmengine.runner.checkpoint``.

    Returns:
        Whether that changed something.
    """
    replaced = False
    schemes = module.CheckpointLoader  # not the one imported above: the module may have been reloaded since
    for prefix, loader in list(schemes._schemes.items()):
        if loader.__module__ == module.__name__ and loader.__name__ in _LOADERS:
            schemes.register_scheme(prefix, _LOADERS[loader.__name__], force=True)
            replaced = True
    if replaced:
        module.load_from_http = load_from_http  # torchvision:// and mmcls:// end there
    return replaced


class _OneCycle:
    """Stands for MMEngine's scheduler OneCycleParamScheduler in a pickle, which asks it for one of its functions."""


def _plain_globals():
    """Return what MMEngine's checkpoints contain, in the metainfo of a dataset for example: data that calls nothing."""
    rebuild_array, rebuild_scalar = np.zeros(1).__reduce__()[0], np.float64().__reduce__()[0]
    return [
        HistoryBuffer,
        (_known_attribute, 'builtins.getattr'),
        (_OneCycle, f'{OneCycleParamScheduler.__module__}.{OneCycleParamScheduler.__qualname__}'),
        (dict, f'{ConfigDict.__module__}.{ConfigDict.__qualname__}'),
        (_small(bytes), 'builtins.bytes'),  # the data of an empty array
        np.ndarray,
        np.dtype,
        *{type(np.dtype(code)) for code in '?SUMm' + np.typecodes['AllInteger'] + np.typecodes['AllFloat']},
        # NumPy 2 moved both; a file names the place of the NumPy that wrote it.
        *((rebuild_array, f'numpy.{core}.multiarray._reconstruct') for core in ('core', '_core')),
        *((rebuild_scalar, f'numpy.{core}.multiarray.scalar') for core in ('core', '_core')),
        *(bool, complex, dict, float, int, slice),
        *((_small(kind), f'builtins.{kind.__name__}') for kind in (frozenset, list, range, set, str, tuple)),
        *(datetime.date, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone),
        *(pathlib.PurePosixPath, pathlib.PureWindowsPath),
        # the module of these depends on the Python that wrote the file; a path is only a name here
        *(
            (pathlib.PurePosixPath if name == 'PosixPath' else pathlib.PureWindowsPath, f'{module}.{name}')
            for name in ('PosixPath', 'WindowsPath')
            for module in ('pathlib', 'pathlib._local')
        ),
    ]


def _small(kind):
    """Stand in for a type in a pickle: a few bytes of a pickle could otherwise ask for a list that fills the memory."""

    def call(*args):
        if kind is range and len(range(*args)) > _MAX_RANGE:
            raise pickle.UnpicklingError(f'it holds a range of {len(range(*args))} numbers')
        for arg in args:
            if isinstance(arg, (range, bytearray)) or (kind is bytes and not isinstance(arg, (bytes, str))):
                raise pickle.UnpicklingError(f'it calls {kind.__name__} with a {type(arg).__name__}')
            if kind is str and not isinstance(arg, (bytes, str)):
                raise pickle.UnpicklingError(f'it calls str with a {type(arg).__name__}')
        return kind(*args)

    return call


def _known_attribute(owner, name):
    """Stand in for ``getattr`` in a pickle: give the functions that MMEngine saves with its own objects.

    ``getattr`` itself must not be allowed: it reaches nearly any function, and HistoryBuffer calls what it is given.
    """
    if owner is HistoryBuffer and name in ('current', 'max', 'mean', 'min'):
        return getattr(HistoryBuffer, name)
    if owner is _OneCycle and name in ('_annealing_cos', '_annealing_linear'):
        return getattr(OneCycleParamScheduler, name)
    raise pickle.UnpicklingError('Unsupported global: GLOBAL getattr was not an allowed global by default.')


class trust_checkpoints:
    """Load these checkpoints with everything that is pickled in them. Their authors can then run code in this process.

    It holds from the call on for the whole process or, as a context manager, until the end of the block::

        with trust_checkpoints('legacy.pth'):
            load_checkpoint(model, 'legacy.pth')

    Args:
        files: paths, or URLs as they are passed to MMEngine.

    Raises:
        ValueError: no file was given.
    """

    def __init__(self, *files):
        if not files:
            raise ValueError('name the checkpoints to trust, e.g. trust_checkpoints("legacy.pth")')
        self._keys = [_key(file) for file in files]
        _trusted.extend(self._keys)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        while self._keys:
            _trusted.remove(self._keys.pop())


def load_safely(filename, map_location=None, *, source=None):
    """Read one checkpoint file; all schemes of MMEngine's ``CheckpointLoader`` end here.

    Args:
        filename: path of the file.
        map_location: as in :func:`torch.load`.
        source: how the user named the file, if not by its path (for example a URL); for messages and for trust.

    Returns:
        The saved object, usually a dict with ``meta`` and ``state_dict``.

    Raises:
        FileNotFoundError: there is no such file.
        pickle.UnpicklingError: the file contains more than tensors and plain data, and is not trusted.
        RuntimeError: the file is damaged, or is not a checkpoint.
        ImportError: it is a file of safetensors, and this package is not installed.
    """
    filename = osp.expanduser(filename)
    source = source or filename
    if not osp.isfile(filename):
        raise FileNotFoundError(f'{shown(filename)} does not exist')
    trusted = not {_key(source), _key(filename)}.isdisjoint(_trusted)
    if trusted:
        print_log(f'{shown(source)} is trusted: code in it will run', logger='current', level=logging.WARNING)
    if is_tensor_file(filename):
        return _load_tensor_file(filename, map_location, source)
    if not trusted:
        _refuse_claims(filename, source)
    try:
        # only inside: the rules for what other code loads stay as they are
        with torch.serialization.safe_globals(_plain_globals()):
            return torch.load(filename, map_location=map_location, weights_only=not trusted)
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise _explain(error, filename, source, trusted) from error


def _load_tensor_file(filename, map_location, source):
    try:
        return read_tensor_file(filename, map_location)
    except ImportError as error:
        raise ImportError(f'{shown(source)} was not loaded. {error}') from error
    except Exception as error:  # safetensors has an error class of its own
        raise RuntimeError(
            f'{shown(source)} cannot be read as a file of safetensors ({osp.getsize(filename)} bytes): '
            f'{shorten(error)}. Copy or download it again.'
        ) from error


def _refuse_claims(filename, source):
    """Refuse a file that would take more memory than it has bytes.

    PyTorch reserves memory for what the list of contents of a zip file claims.

    Raises:
        RuntimeError: a zip file claims more bytes than the file has; gives both sizes.
        pickle.UnpicklingError: the pickle asks for memory by itself.
    """
    claimed, size, pickles = 0, osp.getsize(filename), []
    try:
        with zipfile.ZipFile(filename) as file:
            claimed = sum(record.file_size for record in file.infolist())
            if claimed <= size:
                pickles = [file.read(name) for name in file.namelist() if name.endswith('data.pkl')]
    except Exception:  # no zip file, or a damaged one, in which Python's reader can raise nearly anything
        if size:
            with open(filename, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
                pickles = [b'c__builtin__\nbytearray\n'] * bool(_BYTEARRAY.search(whole))
    if any(map(_BYTEARRAY.search, pickles)):
        raise pickle.UnpicklingError(
            f'{shown(source)} was not loaded: it needs builtins.bytearray, which no model needs.'
        )
    try:
        for content in pickles:
            check_pickles(content)
        if size:
            # not the file itself: its read() takes as much memory as a damaged pickle asks for
            with open(filename, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
                check_pickles(whole, PICKLES_BEFORE_ZIP)
    except pickle.UnpicklingError as error:
        raise pickle.UnpicklingError(f'{shown(source)} was not loaded: {error}, which no model needs.') from error
    if claimed > size:
        raise RuntimeError(
            f'{shown(source)} cannot be read as a checkpoint: its records claim {claimed} bytes, but the file has '
            f'{size}. torch.save does not compress: save the checkpoint again with it.'
        )


def _explain(error, filename, source, trusted):
    """Return the error to raise instead of the one that :func:`torch.load` raised."""
    with open(filename, 'rb') as file:
        head = file.read(len(LEGACY_MAGIC))
    is_zip = head.startswith(b'PK\x03\x04')
    is_cut = is_zip and not _is_whole_zip(filename)
    is_torch = is_zip or head == LEGACY_MAGIC
    offender = re.search(r'GLOBAL (\S+)', str(error))
    if isinstance(error, pickle.UnpicklingError) and not trusted and (offender or (is_torch and not is_cut)):
        reason = str(error).rpartition('WeightsUnpickler error:')[2].partition('Check the documentation')[0].strip()
        need = f'it needs {shorten(offender[1], 200)}' if offender else f'its pickle is not plain ({shorten(reason)})'
        return pickle.UnpicklingError(
            f'{shown(source)} was not loaded: {need}. Only tensors and plain data are loaded, because anything else '
            f'can run code. If you trust the author of the file with this machine, load it inside `with '
            f'mmdefmamba.compat.trust_checkpoints({source!r}):`. Or convert it on a machine where you trust it: '
            "`torch.save({'state_dict': torch.load(FILE, weights_only=False)['state_dict']}, NEW_FILE)`."
        )
    if is_cut:
        hint = 'The end of the file is missing: copy or download it again.'
    elif is_torch:
        hint = 'It begins like a file of torch.save, but its content is damaged: copy or download it again.'
    else:
        hint = 'It does not begin like a file of torch.save.'
    return RuntimeError(
        f'{shown(source)} cannot be read as a checkpoint ({osp.getsize(filename)} bytes): {type(error).__name__}: '
        f'{shorten(error) or "end of file"}. {hint}'
    )


def _is_whole_zip(filename):
    try:
        return zipfile.is_zipfile(filename)
    except zipfile.BadZipFile:  # the list of contents is damaged so badly that zipfile cannot answer
        return False


def _key(name):
    name = os.fspath(name)
    return name if '://' in name else osp.realpath(osp.expanduser(name))


# The names matter: MMEngine's log line cuts the first ten letters, `load_from_`, off the name of a loader.


def load_from_local(filename, map_location=None):
    """Load a checkpoint from a path; see :func:`load_safely`."""
    return load_safely(filename, map_location)


def load_from_http(filename, map_location=None, model_dir=None, progress=True):
    """Load a checkpoint from a URL, see :func:`~mmdefmamba.compat.downloads.fetch` and :func:`load_safely`.

    Args:
        filename: the URL.
        map_location: as in :func:`torch.load`.
        model_dir: folder of the cache, PyTorch's own by default.
        progress: whether to say that a download begins.

    Raises:
        OSError: the download failed.
    """
    folder = model_dir or osp.join(torch.hub.get_dir(), 'checkpoints')
    try:
        if is_main_process():
            fetch(filename, folder, progress)
    finally:
        barrier()  # other ranks wait, then read what rank 0 fetched; on other machines they fetch the file themselves
    path = fetch(filename, folder, progress)
    try:
        return load_safely(path, map_location, source=filename)
    except RuntimeError:  # damaged, although it is complete as far as the server says: do not find it there next time
        Path(path).unlink(missing_ok=True)
        raise


def load_from_ceph(filename, map_location=None, backend='petrel'):
    """Load a checkpoint from ``s3://`` or ``petrel://``; see :func:`load_safely`."""
    with get_local_path(filename, backend_args={'backend': backend}) as path:
        return load_safely(path, map_location, source=filename)


def load_from_openmmlab(filename, map_location=None):
    """Load a checkpoint of OpenMMLab's model list by name; see :func:`load_safely`.

    Raises:
        KeyError: the list does not have this name.
    """
    # not above: its import calls `apply`, which is defined here
    from mmengine.runner.checkpoint import _get_mmengine_home, get_deprecated_model_names, get_external_models

    name = filename.split('://', 1)[1]
    name = get_deprecated_model_names().get(name, name)
    target = get_external_models()[name]
    if target.startswith(('http://', 'https://')):
        return load_from_http(target, map_location)
    return load_from_local(osp.join(_get_mmengine_home(), target), map_location)


def load_from_pavi(filename, map_location=None):
    """Refuse ``pavi://``: MMEngine's client for this service runs the pickle."""
    raise NotImplementedError(
        f'{shown(filename)} was not loaded: mmdefmamba does not read pavi:// checkpoints. Download the file and give '
        'its path.'
    )


_LOADERS = {
    loader.__name__: loader
    for loader in (load_from_local, load_from_http, load_from_ceph, load_from_openmmlab, load_from_pavi)
}
