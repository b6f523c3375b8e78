"""Saving checkpoints so that an interruption or a full disk loses nothing.

MMEngine writes a checkpoint into its final place after it has removed the oldest one. A run that keeps one checkpoint
and is killed in between has no checkpoint at all.
"""

import os
import re
import socket
from contextlib import contextmanager
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS

from ..files import shown, unfinished_file

_PARTIAL = re.compile(r'\..+\.([^/]+)\.(\d+)\.partial')


def remove_partial_files(folder):
    """Remove what processes of this machine that were killed left half written in a folder."""
    for path in Path(folder).glob('.*.partial'):
        match = _PARTIAL.fullmatch(path.name)
        if match and match[1].endswith(socket.gethostname()) and not Path('/proc', match[2]).exists():
            path.unlink(missing_ok=True)


class AtomicLocalBackend(LocalBackend):
    """MMEngine's local files, written beside their place and then moved there; the old file stays until then."""

    def put(self, obj, filepath):
        """Write bytes to a file.

        Raises:
            OSError: they cannot be written, for example because the disk is full. The old file is unchanged then.
        """
        filepath = Path(filepath)
        filepath.parent.mkdir(parents=True, exist_ok=True)
        try:
            with unfinished_file(filepath) as partial:
                with open(partial, 'wb') as file:
                    file.write(obj)
                    file.flush()
                    # without this a crash of the machine can leave an empty file under the final name
                    os.fsync(file.fileno())
                os.replace(partial, filepath)
        except OSError as error:
            raise OSError(
                error.errno,
                f'{shown(filepath)} ({len(obj) / 2**20:.1f} MiB) could not be written: {error.strerror}. '
                'Checkpoints that were saved before are whole. Make room and continue with --resume',
            ) from error

    def put_text(self, obj, filepath, encoding='utf-8'):
        """Write text to a file; as :meth:`put`."""
        self.put(obj.encode(encoding), filepath)


register_backend('atomic', AtomicLocalBackend)


class _RemoveLater:
    """A storage backend that collects removals instead of carrying them out."""

    def __init__(self, backend):
        self._backend = backend
        self.removals = []

    def __getattr__(self, name):
        return getattr(self._backend, name)

    def remove(self, path):
        self.removals.append((self._backend.remove, path))

    def rmtree(self, path):
        self.removals.append((self._backend.rmtree, path))


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """MMEngine's CheckpointHook, which here removes an old checkpoint only after the new one is whole on the disk.

    Args:
        *args, **kwargs: as for MMEngine's CheckpointHook. Local files are written by :class:`AtomicLocalBackend`
            unless ``backend_args`` or ``file_client_args`` name another.
    """

    def __init__(self, *args, backend_args=None, file_client_args=None, **kwargs):
        if backend_args is None and file_client_args is None and '://' not in str(kwargs.get('out_dir')):
            backend_args = {'backend': 'atomic'}
        super().__init__(*args, backend_args=backend_args, file_client_args=file_client_args, **kwargs)

    def before_train(self, runner):
        super().before_train(runner)
        if is_main_process() and Path(self.out_dir).is_dir():
            remove_partial_files(self.out_dir)

    def _save_checkpoint_with_step(self, runner, step, meta):
        with self._removing_afterwards():
            super()._save_checkpoint_with_step(runner, step, meta)

    def _save_best_checkpoint(self, runner, metrics):
        with self._removing_afterwards():
            super()._save_best_checkpoint(runner, metrics)

    @contextmanager
    def _removing_afterwards(self):
        backend = getattr(self, 'file_backend', None)
        if backend is None:  # a validation without a training saves nothing
            yield
            return
        self.file_backend = later = _RemoveLater(backend)
        try:
            yield
        finally:
            self.file_backend = backend
        # a resumed run can save under a name that it was about to remove
        current = {self.last_ckpt, getattr(self, 'best_ckpt_path', None)}
        current.update(getattr(self, 'best_ckpt_path_dict', {}).values())
        for remove, path in later.removals:
            if path not in current:
                remove(path)
