"""The lanes of a launch run in step: one numpy array per register, with one number per lane.

Each lane belongs to a warp of 32 and to a program (a block of threads). Where lanes branch to different places, those
at the smallest place in the code run until they meet the others. So programs of different lengths run together, too.
"""

import numpy as np

from . import control
from .faults import Fault
from .memory import Memory, Order
from .operands import UNSIGNED

#: What a register holds that was never written: NaN as a float, no address as an integer
POISON = 0xFFFFA5A5FFFFA5A5
MAX_STEPS = 10**6
POISONS = {1: np.bool_(False), **{width: kind(POISON & ((1 << width) - 1)) for width, kind in UNSIGNED.items()}}


class Copies:
    """Copies from global to shared memory that lanes have started and not waited for, in groups."""

    def __init__(self, lanes):
        self.lanes = lanes
        self.groups = np.zeros(lanes.count, int)  # that each lane has completed
        self.started = []  # (lanes, group of each, addresses, bytes)

    def start(self, addresses, raw):
        active = self.lanes.active_lanes
        self.started.append((active, self.groups[active], addresses, raw))

    def commit(self):
        self.groups[self.lanes.active] += 1

    def wait(self, left):
        """Let all copies of the active lanes arrive but those of the last ``left`` groups."""
        still = []
        for lanes, group, addresses, raw in self.started:
            here = self.lanes.active[lanes] & (group < self.groups[lanes] - left)
            if here.any():
                self.lanes.memory['shared'].store(lanes[here], addresses[here], raw[here])
            if not here.all():
                still.append((lanes[~here], group[~here], addresses[~here], raw[~here]))
        self.started = still


class Lanes:
    """All lanes of a launch.

    Args:
        program: the :class:`.parser.Program`.
        grid: numbers of programs (x, y, z).
        warps: of each program.
        memory: function of an :class:`.memory.Order` that returns global memory.
        parameters: bytes of the parameters.
        shared_bytes: of shared memory per program.
    """

    def __init__(self, program, grid, warps, memory, parameters, shared_bytes):
        self.program, self.grid, self.threads = program, grid, 32 * warps
        programs = grid[0] * grid[1] * grid[2]
        self.count = programs * self.threads
        self.order = Order(programs, warps)
        self.memory = {'global': memory(self.order), 'shared': self._shared(programs, shared_bytes)}
        self.parameters = np.frombuffer(parameters, np.uint8)
        number = np.arange(self.count, dtype=np.uint32)
        self.thread = number % np.uint32(self.threads)
        self.zero = np.zeros(self.count, np.uint32)
        block = number // np.uint32(self.threads)
        x, y, z = (np.uint32(size) for size in grid)
        self.program_xyz = (block % x, block // x % y, block // x // y % z)
        self.registers = {}
        self.alive = np.ones(self.count, bool)
        self.steps = 0
        self.copies = Copies(self)
        self._select(self.alive)

    def _shared(self, programs, size):
        memory = Memory('shared', programs * size, self.order, part=size)
        memory.exists[:] = True
        return memory

    def _select(self, active):
        """Let the next instructions act on the lanes of ``active``."""
        self.active = active
        self.active_lanes = np.flatnonzero(active)
        self.all_active = len(self.active_lanes) == self.count

    def register(self, name):
        found = self.registers.get(name)
        if found is None:
            found = self.registers[name] = np.full(self.count, POISONS[self.program.width(name)])
        return found

    def put(self, name, value):
        """Write a register of the active lanes."""
        if name == '_':
            return
        if value.ndim == 0:
            value = np.full(self.count, value)
        self.registers[name] = value if self.all_active else np.where(self.active, value, self.register(name))

    def put_active(self, name, values):
        """Write a register, given one value per active lane."""
        if self.all_active:
            self.registers[name] = values
        else:
            self.registers[name] = self.register(name).copy()
            self.registers[name][self.active_lanes] = values

    def check_whole_warps(self):
        if not self.all_active:
            warps = self.active.reshape(-1, 32)
            if (warps.any(1) & ~warps.all(1)).any():
                raise Fault('only a part of a warp takes part')

    def check_members(self, members):
        """Check that the lanes of a warp that take part are those that the instruction names."""
        members = self.spread(members).reshape(-1, 32)
        there = (self.active.reshape(-1, 32).astype(np.uint64) << np.arange(32, dtype=np.uint64)).sum(1)
        wrong = self.active.reshape(-1, 32) & (members != there.astype(np.uint32)[:, None])
        if wrong.any():
            raise Fault('the lanes that take part are not those that the instruction names')

    def spread(self, value):
        """Return one number per lane."""
        return np.full(self.count, value) if value.ndim == 0 else value

    def run(self):
        """Run all lanes to their end.

        Raises:
            Fault: what a GPU would not forgive, with the instruction.
        """
        ready = {0: self.alive.copy()}
        waiting = []  # (place after the barrier, lanes, whether it is a barrier of the program rather than of a warp)
        with np.errstate(all='ignore'):
            while ready:
                place = min(ready)
                self._run_from(place, ready.pop(place), ready, waiting)
                self._release(ready, waiting)
        if waiting:
            raise Fault(f'{self.program.name}: lanes wait at a barrier that other lanes of their program never reach')

    def _run_from(self, place, lanes, ready, waiting):
        self._select(lanes)
        code = self.program.code
        while True:
            if place in ready:
                lanes = lanes | ready.pop(place)
                self._select(lanes)
            instruction = code[place]
            self.steps += 1
            if self.steps > MAX_STEPS:
                raise Fault(f'{self.program.name}: more than {MAX_STEPS} instructions')
            place += 1
            chosen = lanes
            if instruction.guard:
                guard = self.register(instruction.guard)
                chosen = lanes & (~guard if instruction.guard_negated else guard)
            action = instruction.action
            if not isinstance(action, control.Flow):
                if instruction.guard is None:
                    self._execute(instruction)
                elif chosen.any():
                    self._select(chosen)
                    self._execute(instruction)
                    self._select(lanes)
                continue
            rest = lanes & ~chosen
            if action.ends:
                self.alive &= ~chosen
            elif action.target is not None:
                self._add(ready, action.target, chosen)
            else:
                waiting.append((place, chosen, action.whole_program))
            self._add(ready, place, rest)
            return

    @staticmethod
    def _add(ready, place, lanes):
        if lanes.any():
            ready[place] = ready[place] | lanes if place in ready else lanes

    def _execute(self, instruction):
        try:
            instruction.action(self)
        except Fault as fault:
            raise type(fault)(
                f'{self.program.name}, {instruction.source} (line {instruction.line} of the PTX), '
                f'{instruction.text!r}: {fault}'
            ) from None

    def _release(self, ready, waiting):
        """Let lanes go on whose whole warp or program waits, or has ended."""
        if not waiting:
            return
        still = []
        for whole_program, size in ((True, self.threads), (False, 32)):
            here = [(place, lanes) for place, lanes, whole in waiting if whole == whole_program]
            there = ~self.alive
            for _, lanes in here:
                there = there | lanes
            complete = np.repeat(there.reshape(-1, size).all(1), size)
            met = np.unique(np.flatnonzero(complete & self.alive) // size)
            (self.order.meet if whole_program else self.order.meet_in_warps)(met)
            for place, lanes in here:
                self._add(ready, place, lanes & complete)
                if (lanes & ~complete).any():
                    still.append((place, lanes & ~complete, whole_program))
        waiting[:] = still
