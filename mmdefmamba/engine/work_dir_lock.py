"""One training per work dir: a second one would overwrite the checkpoints of the first.

The lock is the file ``.training.lock``. It names the process that holds it. A lock of the kernel (POSIX, which also
holds between the clients of NFS) is on it while that process lives. Some network file systems give no such locks, or
give them within one machine only. So the process also writes into the file every few seconds, and a lock of another
machine counts as long as somebody writes.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import threading
import time
from pathlib import Path

from mmengine.logging import print_log

from ..files import shown

NAME = '.training.lock'
#: Seconds from one sign of life to the next, and how long a second training waits for one.
BEAT, SILENCE = 5, 17
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
#: What is written to see whether there is room for the logs and the config.
_ROOM = 2**20
_held = set()


class WorkDirLock:
    """Hold the lock of a work dir, as a context manager. Another process that holds it is named in the error.

    Args:
        work_dir: folder of the training; it is made.
        beat, silence: seconds between two signs of life, and how long to wait for one of another machine.

    Raises:
        RuntimeError: another training has the work dir; gives its host, process id and start.
        OSError: the work dir cannot be written to, for example because the disk is full; names the file.
    """

    def __init__(self, work_dir, beat=BEAT, silence=SILENCE):
        self.work_dir, self._beat, self._silence = Path(work_dir), beat, silence
        self.path = self.work_dir.resolve() / NAME
        self._file, self._ended = None, threading.Event()

    def __enter__(self):
        with _naming(self.path):
            self.work_dir.mkdir(parents=True, exist_ok=True)
            self._file = self._open()
            try:
                _check_room(self.path)
                self._write(dict(_myself(), beat=0))
            except OSError:
                self._leave()
                raise
        _held.add(self.path)
        threading.Thread(target=self._live, daemon=True).start()
        return self

    def __exit__(self, *error):
        self._ended.set()
        self._leave()
        _held.discard(self.path)

    def _open(self):
        """Return the open file, locked."""
        deadline = time.monotonic() + self._silence
        while True:
            # not with mode 'a', in which Linux writes at the end, wherever it is told to write
            file = open(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666), 'r+')  # noqa: SIM115 (as long as the training runs)
            try:
                has_locks, mine = self._lock(file)
                holder = _read(file)
                if mine and not self._is_alive(file, holder, has_locks):
                    if not _is_at(file, self.path):  # the holder has just ended, and removed the file
                        file.close()
                        continue
                    return file
                # the process itself has ended, and a process that it started is about to end
                ending = holder and _is_here(holder) and not _lives(holder)
                if not ending or time.monotonic() > deadline:
                    raise RuntimeError(_taken(self.work_dir, holder))
            except BaseException:
                file.close()
                raise
            file.close()
            time.sleep(0.2)

    def _lock(self, file):
        """Return whether there are locks here, and whether this process has the one of this file now."""
        if self.path in _held:
            return True, False
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True, True
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return False, True
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return True, False
            raise

    def _is_alive(self, file, holder, has_locks):
        """Return whether the process that a lock names is alive, although the kernel would give us its lock."""
        if not holder:
            return False
        if _is_here(holder):
            return not has_locks and _lives(holder)
        # compare the clocks of the file server only
        os.utime(file.fileno())
        if os.fstat(file.fileno()).st_mtime - holder['seen'] > self._silence:
            return False
        print_log(
            f'{shown(self.path)} is of process {holder["pid"]} on {holder["host"]}. Waiting {self._silence:g} s for a '
            'sign of '
            'its life',
            'current',
            logging.WARNING,
        )
        deadline = time.monotonic() + self._silence
        while time.monotonic() < deadline:
            time.sleep(min(0.5, self._silence / 10))
            try:
                now = json.loads(self.path.read_text() or '{}') if self.path.exists() else {}
            except ValueError:  # it is being written
                return True
            if not now or now.get('beat') != holder['beat']:
                return bool(now)
        return False

    def _live(self):
        beat = 0
        while not self._ended.wait(self._beat):
            beat += 1
            # a disk that is full for a while does not end a training here: what is lost is only a sign of life
            with contextlib.suppress(OSError, ValueError):
                self._write(dict(_myself(), beat=beat))

    def _write(self, holder):
        text = json.dumps(holder).encode()
        os.pwrite(self._file.fileno(), text.ljust(512), 0)
        os.fsync(self._file.fileno())

    def _leave(self):
        file, self._file = self._file, None
        if file is not None:
            if _is_at(file, self.path):
                self.path.unlink()
            file.close()


def _myself():
    return dict(host=socket.gethostname(), pid=os.getpid(), boot=_boot(), started=_start_of(os.getpid()))


def _boot():
    """Return a text that is another one after a restart, and on another machine of the same name."""
    path = Path('/proc/sys/kernel/random/boot_id')
    return path.read_text().strip() if path.exists() else ''


def _start_of(pid):
    """Return when a process started, in ticks since the boot; None if there is no such process."""
    try:
        return int(Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def _is_here(holder):
    return (holder.get('host'), holder.get('boot')) == (socket.gethostname(), _boot())


def _lives(holder):
    """Return whether a process of this machine lives; a later process can have the same id."""
    return holder.get('started') is not None and _start_of(holder['pid']) == holder['started']


def _read(file):
    """Return what a lock says, with the time at which it was written; None for a new or damaged one."""
    file.seek(0)
    try:
        holder = json.loads(file.read())
        return dict(
            holder, seen=os.fstat(file.fileno()).st_mtime, pid=int(holder['pid']), host=str(holder['host']),
            beat=holder['beat'],
        )  # fmt: skip
    except (ValueError, TypeError, KeyError):
        return None


def _is_at(file, path):
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _taken(work_dir, holder):
    who = f'process {holder["pid"]} on {holder["host"]}' if holder else 'another process'
    return (
        f'a training is running in {shown(work_dir)}: {who}. Two trainings in one work dir would overwrite each '
        "other's "
        'checkpoints. Wait for it, end it, or choose another --work-dir'
    )


@contextlib.contextmanager
def _naming(path):
    """Name the file in errors of a work dir that cannot be written to."""
    try:
        yield
    except OSError as error:
        free = ''
        folder = next(parent for parent in path.parents if parent.exists())
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            room = os.statvfs(folder)
            free = f' ({room.f_bavail * room.f_frsize / 2**20:.2f} MiB are free). Make room there, or'
        else:
            free = ':'
        raise OSError(
            error.errno,
            f'{shown(error.filename or path)} could not be written before the training started: '
            f'{os.strerror(error.errno)}{free} choose another --work-dir',
        ) from error


def _check_room(path):
    """Write and remove a file as large as the logs of a short training."""
    room = path.with_name(f'.room.{socket.gethostname()}.{os.getpid()}.partial')
    try:
        with open(room, 'wb') as file:
            file.write(bytes(_ROOM))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = str(room)
        raise
    finally:
        room.unlink(missing_ok=True)
