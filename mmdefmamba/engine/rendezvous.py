"""How the processes of a distributed run find each other, before they exchange tensors.

PyTorch waits for processes that do not come without a word, up to half an hour. Here each process first says through
PyTorch's TCPStore who it is and what it is about to do, the log says who is missing, and a process that fails later
tells the others why.
"""

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from datetime import timedelta

from torch.distributed import PrefixStore, TCPStore

from ..files import say

START_TIMEOUT = 'MMDEFMAMBA_START_TIMEOUT'
_SAY_EVERY = 15


class Rendezvous:
    """The place where the processes of a run meet.

    Args:
        launcher: ``'pytorch'`` (torchrun), ``'slurm'`` or ``'mpi'`` (Open MPI), whose environment variables say who
            this process is.
        timeout: seconds within which all processes must appear; by default ``MMDEFMAMBA_START_TIMEOUT``, or 300.

    Raises:
        TimeoutError: the address does not answer in time.
        ValueError: ``mpi`` without MASTER_ADDR.
    """

    def __init__(self, launcher, timeout=None):
        if launcher == 'slurm':
            _take_from_slurm(os.environ)
        elif launcher == 'mpi':
            _take_from_mpi(os.environ)
        self.rank, self.world_size = int(os.environ['RANK']), int(os.environ['WORLD_SIZE'])
        self.address, self.port = os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT'])
        self.timeout = float(timeout or os.environ.get(START_TIMEOUT, 300))
        self._begin, self._said = time.monotonic(), 0
        self.store, self._watch = self._connect(), None

    def call_roll(self, record):
        """Tell all processes what this one is about to do, and return what each of them said, in the order of ranks.

        Args:
            record: a dict that JSON can hold. ``host`` and ``pid`` are added.

        Raises:
            TimeoutError: processes are missing; names them and those that are here.
        """
        record = dict(record, host=socket.gethostname(), pid=os.getpid())
        self.store.set(f'here/{self.rank}', json.dumps(record))
        missing = set(range(self.world_size))
        while missing:
            missing -= {rank for rank in missing if self.store.check([f'here/{rank}'])}
            if missing and not self._wait(f'{_ranks(missing)} of {self.world_size} have not started'):
                here = [self._record(rank) for rank in range(self.world_size) if rank not in missing]
                raise TimeoutError(
                    f'{_ranks(missing)} of {self.world_size} did not start within {self.timeout:g} s; '
                    f'started: {", ".join(sorted({one["host"] for one in here}))}. Look at the logs of the machines '
                    f'that are missing. {START_TIMEOUT} sets another limit, in seconds'
                )
        return [self._record(rank) for rank in range(self.world_size)]

    def leave_together(self, seconds=10):
        """Wait until all processes have read what was said; the store ends with the process that holds it."""
        deadline = time.monotonic() + seconds
        with contextlib.suppress(RuntimeError):  # the process that holds the store has ended: it has seen all others
            self.store.add('read', 1)
            while self.store.add('read', 0) < self.world_size and time.monotonic() < deadline:
                time.sleep(0.05)

    def watch(self):
        """End this process when another one says that it has failed, until :meth:`stop_watching`."""
        self._watch = threading.Event()
        threading.Thread(target=self._look, args=(self._watch,), daemon=True).start()

    def stop_watching(self):
        if self._watch is not None:
            self._watch.set()

    def fail(self, error):
        """Tell the other processes that this one has failed."""
        self.stop_watching()
        message = ' '.join(f'{type(error).__name__}: {error}'.split())[:2000]
        with contextlib.suppress(RuntimeError):  # the process that holds the store has ended
            self.store.set('failed', f'rank {self.rank} on {socket.gethostname()}: {message}')
            self.leave_together(5)  # those that notice

    def connected(self):
        """Note that this process is connected to all others; see :meth:`connecting`."""
        self._connecting.set()
        self.store.set(f'connected/{self.rank}', '')

    def connecting(self):
        """Begin to connect to the other processes; a process that cannot ends when the time is over."""
        self._connecting = threading.Event()
        threading.Thread(target=self._look_at_clock, args=(self._connecting,), daemon=True).start()

    def _look_at_clock(self, done):
        if done.wait(max(self._begin + self.timeout - time.monotonic(), 1)):
            return
        _end(
            f'rank {self.rank} on {socket.gethostname()} could not connect to all processes within {self.timeout:g} s, '
            f'although all have started. GLOO_SOCKET_IFNAME={os.environ.get("GLOO_SOCKET_IFNAME")}, NCCL_SOCKET_IFNAME='
            f'{os.environ.get("NCCL_SOCKET_IFNAME")}: set them to the network interface by which the machines reach '
            'each other (ip -brief address), and see that no firewall is between them'
        )

    def _look(self, ended):
        store = self._new_store(timeout=10)
        while not ended.wait(1):
            try:
                if store.check(['failed']):
                    message = store.get('failed').decode()
                    store.add('read', 1)
                    _end(f'rank {self.rank} on {socket.gethostname()} ends, because another process failed. {message}')
            except RuntimeError:  # the process that held the store has ended
                return

    def _connect(self):
        while True:
            try:
                return self._new_store(timeout=min(_SAY_EVERY, self.timeout))
            except (RuntimeError, ValueError) as error:
                if 'EADDRINUSE' in str(error):
                    raise
                if not self._wait(f'{self.address}:{self.port} does not answer'):
                    raise TimeoutError(
                        f'rank {self.rank} on {socket.gethostname()}: {self.address}:{self.port} did not answer within '
                        f'{self.timeout:g} s. Has the first machine started? Is this its address, and the port open? '
                        f'{START_TIMEOUT} sets another limit, in seconds'
                    ) from error

    def _new_store(self, timeout):
        holds = self.rank == 0 and os.environ.get('TORCHELASTIC_USE_AGENT_STORE') != 'True'
        store = TCPStore(
            self.address,
            self.port,
            self.world_size,
            holds,
            timeout=timedelta(seconds=timeout),
            wait_for_workers=False,
            multi_tenant=True,
        )
        # torchrun keeps its store when it starts the processes again
        return PrefixStore(f'mmdefmamba/{os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)}', store)

    def _record(self, rank):
        return json.loads(self.store.get(f'here/{rank}'))

    def _wait(self, what):
        """Wait a moment and return True, or return False if the time is over. Says what it waits for."""
        seconds = time.monotonic() - self._begin
        if seconds > self.timeout:
            return False
        if seconds > self._said + _SAY_EVERY:
            self._said = seconds
            _say(f'rank {self.rank} waits for {seconds:.0f} s, at most {self.timeout:g} s: {what}')
        time.sleep(0.1)
        return True


def use_reachable_interface(address):
    """Have gloo use the network interface by which this machine reaches an address, if it would use the loopback one.

    gloo listens on the address of the machine's own name, which many installations map to 127.0.0.1 or 127.0.1.1.
    Processes on other machines cannot reach that. ``GLOO_SOCKET_IFNAME`` is left alone where it is set.

    Args:
        address: of the first machine, which is not a loopback address.

    Returns:
        A line for the log that says what was done, or None.

    Raises:
        ValueError: the first machine has a loopback address here.
    """
    if 'GLOO_SOCKET_IFNAME' in os.environ:
        return None
    host = socket.gethostname()
    try:
        own = socket.gethostbyname(host)
    except OSError:
        own = '127.0.0.1'  # gloo takes the loopback interface then
    if not own.startswith('127.'):
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
        route.connect((address, 9))  # sends nothing
        reached = route.getsockname()[0]
    interface = None if reached.startswith('127.') else _interface_of(reached)
    if interface is None:
        raise ValueError(
            f'{host} has the address {own}, its loopback address, which other machines cannot reach, and its way to '
            f'MASTER_ADDR={address} starts at {reached}. Set MASTER_ADDR to an address that all machines reach, and '
            'GLOO_SOCKET_IFNAME to the network interface that has it (ip -brief address)'
        )
    os.environ['GLOO_SOCKET_IFNAME'] = interface
    return f'{host} is {own} in its own eyes (/etc/hosts); gloo uses the interface {interface} ({reached}) instead'


def _interface_of(address):
    """Return the name of the network interface that has an IPv4 address, or None."""
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            try:
                # SIOCGIFADDR; the address is in the bytes 20 to 24 of the answer
                answer = fcntl.ioctl(asking.fileno(), 0x8915, struct.pack('256s', name.encode()[:15]))
            except OSError:  # it has no address
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None


def _take_from_slurm(environment):
    """Set the variables of torchrun from those of Slurm, as MMEngine does."""
    environment['RANK'], environment['WORLD_SIZE'] = environment['SLURM_PROCID'], environment['SLURM_NTASKS']
    if 'SLURM_LOCALID' in environment:
        environment['LOCAL_RANK'] = environment['SLURM_LOCALID']
    environment.setdefault('MASTER_PORT', '29500')
    if 'MASTER_ADDR' not in environment:
        hosts = subprocess.check_output(['scontrol', 'show', 'hostname', environment['SLURM_NODELIST']], text=True)
        environment['MASTER_ADDR'] = hosts.split()[0]


def _take_from_mpi(environment):
    """Set the variables of torchrun from those of Open MPI, as MMEngine does."""
    if 'MASTER_ADDR' not in environment:
        raise ValueError('--launcher mpi needs MASTER_ADDR, an address of the first machine: mpirun -x MASTER_ADDR=...')
    for name, of_mpi in (('RANK', 'RANK'), ('WORLD_SIZE', 'SIZE'), ('LOCAL_RANK', 'LOCAL_RANK')):
        environment[name] = environment[f'OMPI_COMM_WORLD_{of_mpi}']
    environment.setdefault('MASTER_PORT', '29500')


def _ranks(ranks):
    numbers = ', '.join(map(str, sorted(ranks)[:10])) + (f' and {len(ranks) - 10} more' if len(ranks) > 10 else '')
    return f'rank {numbers}' if len(ranks) == 1 else f'ranks {numbers}'


def _say(message):
    say(*message.split('\n'), file=sys.stderr)


def _end(message):
    """End this process, whose main thread waits in PyTorch for processes that do not come."""
    _say(f'error: {message}')
    os._exit(1)
