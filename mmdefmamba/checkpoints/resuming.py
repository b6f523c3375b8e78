"""What a run is resumed from: its last checkpoint that is whole.

MMEngine resumes from the last checkpoint that a run named, even if that file is damaged.
"""

import logging
import pickle
import re
import zipfile
import zlib
from pathlib import Path

import torch
from mmengine.logging import print_log
from mmengine.runner import find_latest_checkpoint

from ..compat.safe_loading import LEGACY_MAGIC, load_safely
from ..files import shorten, shown


def resume_if_possible(cfg):
    """Have a training continue from its last whole checkpoint, see :func:`find_resumable_checkpoint`.

    Args:
        cfg: an MMEngine Config with ``work_dir``; ``resume`` is set, and ``load_from`` where there is one to resume
            from. Otherwise ``load_from`` keeps its own meaning.

    Raises:
        RuntimeError: there are checkpoints, and all of them are damaged.
    """
    last = find_resumable_checkpoint(cfg.work_dir)
    cfg.resume = last is not None
    if cfg.resume:
        cfg.load_from = last


def find_resumable_checkpoint(work_dir):
    """Return the last whole checkpoint of a run.

    The checksums of each candidate are verified, which reads the file once. A damaged one is skipped with a warning.

    Args:
        work_dir: folder of the run.

    Returns:
        Path of the checkpoint as a string; None if the run has not saved a checkpoint yet.

    Raises:
        RuntimeError: there are checkpoints, and all of them are damaged. A new start would overwrite them.
    """
    named = _named_checkpoint(work_dir)
    folders = {Path(work_dir)} | ({Path(named).parent} if named else set())
    saved = {path for folder in folders if folder.is_dir() for path in folder.iterdir() if _step(path) is not None}
    candidates = sorted(saved, key=_step, reverse=True)
    if named and Path(named).exists():
        # the run itself named this one as its last; an older run in the same folder may have left a higher number
        candidates = [Path(named)] + [path for path in candidates if path != Path(named) and _before(path, named)]
    for path in candidates:
        damage = _damage(path)
        if damage is None:
            return str(path)
        print_log(
            f'{shown(path)} is damaged ({damage}). Looking for the checkpoint before it', 'current', logging.WARNING
        )
    if candidates:
        raise RuntimeError(
            f'cannot resume: all checkpoints in {shown(work_dir)} are damaged: '
            f'{shown(", ".join(path.name for path in candidates))}. '
            'Move them away to start over'
        )
    return None


def fingerprint(path):
    """Return a checksum of what a checkpoint holds, as a text.

    A file of ``torch.save`` has a checksum of each of its records; these are read, and the records are not.

    Args:
        path: of a file, or of a folder as DeepSpeed saves it.

    Raises:
        OSError: it cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        parts = [
            (str(file.relative_to(path)), file.stat().st_size) for file in sorted(path.rglob('*')) if file.is_file()
        ]
        return f'{zlib.crc32(repr(parts).encode()):08x}'
    with open(path, 'rb') as file:
        if file.read(2) == b'PK':
            try:
                with zipfile.ZipFile(file) as content:
                    # the first part of a name is that of the file when it was saved
                    records = [
                        (info.filename.partition('/')[2], info.CRC, info.file_size) for info in content.infolist()
                    ]
                return f'{zlib.crc32(repr(sorted(records)).encode()):08x}'
            except zipfile.BadZipFile:  # whoever loads it says so
                pass
        file.seek(0)
        digest = 0
        while block := file.read(2**20):
            digest = zlib.crc32(block, digest)
    return f'{digest:08x}'


def _named_checkpoint(work_dir):
    """Return the checkpoint that a run named as its last one, or None where the note is damaged or names no file."""
    try:
        named = find_latest_checkpoint(str(work_dir))
        if not named:
            return None
        exists = Path(named).is_file() or _is_saved_folder(Path(named))
        inside = Path(named).resolve().is_relative_to(Path(work_dir).resolve())
    except (OSError, ValueError) as error:  # a note that is a folder, not a text, or too long for a name
        return _warn(f'{shown(work_dir)}: its last_checkpoint cannot be read ({shorten(error)})')
    if not exists:
        return _warn(
            f'{shown(work_dir)}: its last_checkpoint names {shorten(named)}, which is no file that exists. Looking for '
            'the last checkpoint in the work dir'
        )
    if not inside:  # as after the work dir was copied: the first one may have been trained for longer
        _warn(
            f'{shown(work_dir)}: its last_checkpoint names {shown(named)}, which is outside of the work dir. To resume '
            'from the last checkpoint in the work dir, remove last_checkpoint'
        )
    return named


def _warn(text):
    print_log(text, 'current', logging.WARNING)


def _is_saved_folder(path):
    """Return whether a path is a checkpoint of several files, as DeepSpeed saves it."""
    return path.is_dir() and _step(path) is not None and any(path.iterdir())


def _step(path):
    """Return the place of a checkpoint in its training, by its name, or None. Interrupted epochs follow whole ones."""
    match = re.fullmatch(r'(?:interrupted_)?(?:epoch|iter)_(\d+)(?:_iter_(\d+))?\.pth', path.name)
    return match and (int(match[1]), int(match[2] or 0))


def _before(path, named):
    return _step(Path(named)) is None or _step(path) < _step(Path(named))


def _damage(path):
    """Return what is wrong with a checkpoint file, or None. Folders, as DeepSpeed saves them, are not looked into."""
    if path.is_dir():
        return None if any(path.iterdir()) else 'an empty folder'
    if path.exists() and not path.is_file():  # reading from a pipe or a device would not end
        return 'it is no regular file'
    try:
        with open(path, 'rb') as file:
            if file.read(len(LEGACY_MAGIC)) == LEGACY_MAGIC:
                return _legacy_damage(path)
        if not zipfile.is_zipfile(path):
            return f'its {path.stat().st_size} bytes are not a whole file of torch.save'
        with zipfile.ZipFile(path) as file:
            # PyTorch finds the records in its own way, and does not check them. Python knows the checksums, so it
            # compares them with what PyTorch reads.
            reader = torch._C.PyTorchFileReader(str(path))
            for record in file.infolist():
                file.open(record).close()  # raises where the list of contents has another name than the record
                # PyTorch takes a record that seems compressed, or a folder, and returns memory that it has not filled.
                plain = record.compress_type == zipfile.ZIP_STORED and record.external_attr == 0
                if not plain or zlib.crc32(reader.get_record(record.filename.partition('/')[2])) != record.CRC:
                    return f'the checksum of {shown(record.filename)} is wrong'
    except Exception as error:  # a damaged list of contents can raise nearly anything, and Pythons differ in it
        return str(error) or type(error).__name__
    return None


def _legacy_damage(path):
    """Return what is wrong with a file in the format that torch.save had before it wrote zip files, or None.

    It has no checksums: loading shows whether it is whole.
    """
    try:
        load_safely(path, torch.device('cpu'))
    except pickle.UnpicklingError:  # refused, because it needs trust: not damaged
        return None
    except RuntimeError as error:
        return str(error)
    return None
