"""Checkpoints that an interruption, a full disk or a damaged file cannot take away.

MMEngine writes a checkpoint into its final place, after it has removed the oldest one: killed in between, a run that
keeps one checkpoint has none. It resumes from the last one it named, whole or not.
"""

import logging
import os
import re
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path

import torch
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import find_latest_checkpoint


class AtomicLocalBackend(LocalBackend):
    """MMEngine's local files, written aside and moved into place whole: what was there before stays until then."""

    def put(self, obj, filepath):
        """Write bytes to a file.

        Raises:
            OSError: they cannot be written, the disk is full say; nothing has changed then.
        """
        filepath = Path(filepath)
        filepath.parent.mkdir(parents=True, exist_ok=True)
        # a fixed name: what a killed process left is overwritten, not collected
        partial = filepath.with_name(f'.{filepath.name}.partial')
        try:
            with open(partial, 'wb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())  # else a crash of the machine can leave an empty file under the final name
            os.replace(partial, filepath)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise OSError(
                error.errno,
                f'{filepath} ({len(obj) / 2**20:.1f} MiB) could not be written: {error.strerror}. What was saved '
                'before is whole; make room and go on with --resume',
            ) from error

    def put_text(self, obj, filepath, encoding='utf-8'):
        """Write text to a file; as :meth:`put`."""
        self.put(obj.encode(encoding), filepath)


register_backend('atomic', AtomicLocalBackend)


class _RemoveLater:
    """A storage backend that notes what is to be removed."""

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
    """MMEngine's CheckpointHook that removes an old checkpoint only when the new one stands whole on the disk.

    Args:
        *args, **kwargs: as for MMEngine's CheckpointHook. Local files are written by :class:`AtomicLocalBackend`
            unless ``backend_args`` or ``file_client_args`` name another.
    """

    def __init__(self, *args, backend_args=None, file_client_args=None, **kwargs):
        if backend_args is None and file_client_args is None and '://' not in str(kwargs.get('out_dir')):
            backend_args = {'backend': 'atomic'}
        super().__init__(*args, backend_args=backend_args, file_client_args=file_client_args, **kwargs)

    def _save_checkpoint_with_step(self, runner, step, meta):
        with self._removing_afterwards():
            super()._save_checkpoint_with_step(runner, step, meta)

    def _save_best_checkpoint(self, runner, metrics):
        with self._removing_afterwards():
            super()._save_best_checkpoint(runner, metrics)

    @contextmanager
    def _removing_afterwards(self):
        backend = self.file_backend
        self.file_backend = later = _RemoveLater(backend)
        try:
            yield
        finally:
            self.file_backend = backend
        # A resumed run can save under a name that it was about to remove.
        current = {self.last_ckpt, getattr(self, 'best_ckpt_path', None)}
        current.update(getattr(self, 'best_ckpt_path_dict', {}).values())
        for remove, path in later.removals:
            if path not in current:
                remove(path)


def resume_if_possible(cfg):
    """Have a training go on from its last whole checkpoint, see :func:`find_resumable_checkpoint`.

    Args:
        cfg: an MMEngine Config with ``work_dir``; ``resume`` is set, and ``load_from`` where there is one to resume
            from. Where there is none, ``load_from`` keeps its own meaning.

    Raises:
        RuntimeError: there are checkpoints and all are damaged.
    """
    last = find_resumable_checkpoint(cfg.work_dir)
    cfg.resume = last is not None
    if cfg.resume:
        cfg.load_from = last


def find_resumable_checkpoint(work_dir):
    """The last whole checkpoint of a run, to resume from.

    Every candidate's checksums are verified, which reads the file once. Damaged ones are skipped with a warning.

    Args:
        work_dir: folder of the run.

    Returns:
        Path of the checkpoint as a string, or None where the run has saved none yet.

    Raises:
        RuntimeError: there are checkpoints and all are damaged; starting over would overwrite them.
    """
    named = find_latest_checkpoint(str(work_dir))
    folders = {Path(work_dir)} | ({Path(named).parent} if named else set())
    saved = {path for folder in folders if folder.is_dir() for path in folder.iterdir() if _step(path) is not None}
    candidates = sorted(saved, key=_step, reverse=True)
    if named and Path(named).exists():
        # what the run itself called its last: by number an older run's file in the same folder could win
        candidates = [Path(named)] + [path for path in candidates if path != Path(named) and _before(path, named)]
    for path in candidates:
        damage = _damage(path)
        if damage is None:
            return str(path)
        print_log(f'{path} is damaged ({damage}): looking for the one before', 'current', logging.WARNING)
    if candidates:
        raise RuntimeError(
            f'no checkpoint in {work_dir} can be resumed from, all are damaged: '
            f'{", ".join(path.name for path in candidates)}. Move them away to start over.'
        )
    return None


def _step(path):
    match = re.fullmatch(r'(?:epoch|iter)_(\d+)\.pth', path.name)
    return match and int(match[1])


def _before(path, named):
    return _step(Path(named)) is None or _step(path) < _step(Path(named))


def _damage(path):
    """What is wrong with a checkpoint file, or None. Folders, as DeepSpeed saves them, are taken as they are."""
    if path.is_dir():
        return None
    try:
        if not zipfile.is_zipfile(path):
            return f'{path.stat().st_size} bytes that are no whole file of torch.save'
        with zipfile.ZipFile(path) as file:
            # PyTorch finds the records in its own way, and does not check them. Python knows the checksums, so it
            # compares them with what PyTorch reads.
            reader = torch._C.PyTorchFileReader(str(path))
            for record in file.infolist():
                file.open(record).close()  # raises where the list of contents has another name than the record
                # PyTorch takes a record that seems compressed, or a folder, and returns memory that it has not filled.
                plain = record.compress_type == zipfile.ZIP_STORED and record.external_attr == 0
                if not plain or zlib.crc32(reader.get_record(record.filename.partition('/')[2])) != record.CRC:
                    return f'checksum of {record.filename}'
    except Exception as error:  # a damaged list of contents can raise nearly anything, and Pythons differ in it
        return str(error) or type(error).__name__
    return None
