"""torchrun, as tools/dist_*.sh start it: signals reach the training, and nothing outlives a launcher that was killed.

torchrun ends at SIGUSR1 and leaves its processes behind. It gives them half a minute after SIGTERM, and reports each
exit status but 0 as a failure. This program starts torchrun, hands signals to the processes of the training, and ends
as they end. It needs neither PyTorch nor MMEngine itself.
"""

import contextlib
import ctypes
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ..files import say, shown

#: The same as in mmdefmamba.engine.interruption, which imports PyTorch.
INTERRUPTED, NOTE, LAUNCHER = 75, 'MMDEFMAMBA_INTERRUPTED_NOTE', 'MMDEFMAMBA_LAUNCHER_PID'
FORWARDED = (signal.SIGTERM, signal.SIGUSR1)
#: Seconds within which all machines and all processes have to appear.
START_TIMEOUT = 'MMDEFMAMBA_START_TIMEOUT'
_PR_SET_PDEATHSIG = 1


def main(argv=None):
    """Run torchrun with the given options; return the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if importlib.util.find_spec('torch') is None:
        sys.exit(
            f'error: {shown(sys.executable)} has no PyTorch. Activate the environment that has it (of a clone: '
            '. .venv/bin/activate), or name its interpreter: PYTHON=.venv/bin/python'
        )
    check_address(os.environ)
    timeout = int(os.environ.get(START_TIMEOUT, 300))
    with tempfile.TemporaryDirectory(prefix='mmdefmamba_') as folder:
        note = Path(folder, 'interrupted')
        command = [sys.executable, '-m', 'torch.distributed.run', f'--rdzv_conf=timeout={timeout}', *argv]
        environment = {
            **os.environ,
            NOTE: str(note),
            LAUNCHER: str(os.getpid()),
            # torchrun leaves SIGTERM to this program, which waits as long as the checkpoint takes. Releases without the
            # option end the processes half a minute after a SIGTERM that they get themselves.
            'PET_SIGNALS_TO_HANDLE': os.environ.get('PET_SIGNALS_TO_HANDLE', 'SIGINT,SIGQUIT'),
        }
        received = []
        for number in FORWARDED:
            signal.signal(number, lambda number, frame: received.append(number))
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup ignores it; else a terminal that is closed saves
            signal.signal(signal.SIGHUP, lambda *args: received.append(signal.SIGTERM))
        child = subprocess.Popen(command, env=environment, preexec_fn=_prepare)
        signal.signal(signal.SIGINT, lambda *args: _send(child.pid, signal.SIGINT))
        status = _wait(child, received, timeout)
        return INTERRUPTED if note.exists() else status if status >= 0 else 128 - status


def check_address(environment):
    """Refuse a loopback address as that of the first of several machines.

    Args:
        environment: with NNODES, NODE_RANK and MASTER_ADDR, as tools/dist_*.sh read them.

    Raises:
        SystemExit: the address is missing, or names the machine itself to another one.
    """
    nodes, node = int(environment.get('NNODES') or 1), int(environment.get('NODE_RANK') or 0)
    if nodes < 2:
        return
    name = environment.get('MASTER_ADDR')
    if not name:
        sys.exit(
            f'error: NNODES={nodes} needs MASTER_ADDR, an address of the first machine (NODE_RANK=0) that the others '
            'reach; its default, 127.0.0.1, is each machine itself'
        )
    try:
        address = socket.gethostbyname(name)
    except OSError as error:
        sys.exit(
            f'error: MASTER_ADDR={name} is not known on {socket.gethostname()}: {error.strerror}. Use an IP address'
        )
    if address.startswith('127.') and name != address and node > 0:
        sys.exit(
            f'error: MASTER_ADDR={name} is {address} on {socket.gethostname()}, this machine itself (see /etc/hosts). '
            'Use the IP address of the first machine'
        )


def _prepare():
    """In the child: end with this program, and leave the signals to the processes of the training."""
    for number in (*FORWARDED, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # inherited; the training takes them over
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _wait(child, received, timeout):
    """Wait for torchrun, and hand signals to its children; return its status."""
    started, told, has_processes, waiting = time.monotonic(), 0, False, []
    while child.poll() is None:
        waiting, received[:] = waiting + received, []
        if waiting or not has_processes:
            processes = _children(child.pid)
            has_processes = has_processes or bool(processes)
            if processes:
                for process in processes:
                    for number in waiting:
                        _send(process, number)
                waiting = []
            elif waiting and not has_processes:  # nothing has been started: nothing is lost
                child.kill()
                child.wait()
                return INTERRUPTED
        seconds = time.monotonic() - started
        if not has_processes and seconds > told + 30:
            told += 30
            say(
                f'{socket.gethostname()}: waiting for the other machines for {seconds:.0f} s, at most {timeout} s',
                file=sys.stderr,
            )
        time.sleep(0.1)
    return child.returncode


def _children(pid):
    """Return the ids of the children of a process, on Linux."""
    try:
        return [
            int(child) for path in Path(f'/proc/{pid}/task').glob('*/children') for child in path.read_text().split()
        ]
    except OSError:  # it has ended
        return []


def _send(process, number):
    with contextlib.suppress(ProcessLookupError):  # it has ended
        os.kill(process, number)


if __name__ == '__main__':
    sys.exit(main())
