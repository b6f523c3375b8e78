"""Memory of an emulated GPU. Each byte knows whether it exists, whether it was written, and who used it last."""

import numpy as np

from .faults import Fault

NOBODY, MANY = -1, -2
#: Relative difference of float32 sums that differ in the order of roundings only, with some cancellation
ALIKE = 1e-2


class Order:
    """Which lanes have met at a barrier: the clock ticks at each barrier.

    Two accesses of different lanes are ordered if both lanes met at a barrier between them. Lanes of different programs
    never meet.
    """

    def __init__(self, programs, warps):
        self.warps, self.lanes_of_program = warps, 32 * warps
        self.clock = 1
        self.program_met = np.zeros(programs, np.int64)
        self.warp_met = np.zeros(programs * warps, np.int64)

    def meet(self, programs):
        self.clock += 1
        self.program_met[programs] = self.clock
        self.warp_met.reshape(-1, self.warps)[programs] = self.clock

    def meet_in_warps(self, warps):
        self.clock += 1
        self.warp_met[warps] = self.clock


class Memory:
    """An address space.

    Args:
        name: 'global' or 'shared', for messages.
        size: in bytes.
        order: an :class:`Order`.
        address: of its first byte.
        part: bytes of each program, if programs have parts of their own, as in shared memory.
    """

    def __init__(self, name, size, order, address=0, part=None):
        self.name, self.order, self.address, self.part = name, order, address, part
        self.data = np.zeros(size, np.uint8)
        self.exists = np.zeros(size, bool)
        self.written = np.zeros(size, bool)
        self.stored = np.zeros(size, bool)  # by this launch
        self.writer = np.full(size, NOBODY, np.int32)
        self.write_time = np.zeros(size, np.int64)
        # The lane, warp and program that read a byte since the last barrier; MANY if there were several
        self.readers = [np.full(size, NOBODY, np.int32) for _ in range(3)]
        self.read_time = np.zeros(size, np.int64)
        self.rounding = 0.0  # largest relative difference between lanes that write one sum to one place
        self.segments = []  # (first index, end, name)

    def _identity(self, lanes):
        return lanes, lanes // 32, lanes // self.order.lanes_of_program

    def _places(self, lanes, addresses, size, verb):
        """Return the indices of the bytes, (lanes, size), after checking that they exist and are aligned."""
        if (addresses % size).any():
            i = int(np.flatnonzero(addresses % size)[0])
            raise Fault(f'{self._who(lanes[i])} {verb} {size} bytes at {self._where(addresses[i])}: misaligned')
        first = addresses - self.address
        end = self.part or len(self.data)
        outside = (first < 0) | (first + size > end)
        if self.part:
            first = first + self._identity(lanes)[2] * self.part
        places = np.where(outside, 0, first)[:, None] + np.arange(size)
        outside |= ~self.exists[places].all(1)
        if outside.any():
            i = int(np.flatnonzero(outside)[0])
            raise Fault(
                f'{self._who(lanes[i])} {verb} {size} bytes at {self._where(addresses[i])}: outside of every tensor '
                f'({int(outside.sum())} lanes)'
            )
        return places

    def _who(self, lane):
        return f'lane {lane % self.order.lanes_of_program} of program {lane // self.order.lanes_of_program}'

    def _where(self, address):
        index = int(address) - self.address
        if not self.segments:
            return f'byte {index} of {self.name} memory'
        begin, end, name = min(self.segments, key=lambda s: max(s[0] - index, index - s[1] + 1))
        if begin <= index < end:
            return f'byte {index - begin} of {name} ({end - begin} bytes)'
        side = f'{begin - index} before' if index < begin else f'{index - end} after the end of'
        return f'byte {side} {name}'

    def _unordered(self, lanes, others, times):
        """Return where the access of lane ``others`` at ``times`` and one of ``lanes`` now have no order."""
        lane, warp, program = (x[:, None] for x in self._identity(lanes))
        _, other_warp, other_program = self._identity(others)
        met = np.where(other_warp == warp, self.order.warp_met[warp], self.order.program_met[program])
        return (others >= 0) & (others != lane) & ((other_program != program) | (times >= met))

    def load(self, lanes, addresses, size, verb='reads'):
        """Return the bytes, (lanes, size)."""
        places = self._places(lanes, addresses, size, verb)
        unwritten = ~self.written[places].all(1)
        if unwritten.any():
            i = int(np.flatnonzero(unwritten)[0])
            raise Fault(f'{self._who(lanes[i])} {verb} {self._where(addresses[i])}: it was never written')
        writers = self.writer[places]
        race = self._unordered(lanes, writers, self.write_time[places]).any(1)
        if race.any():
            i = int(np.flatnonzero(race)[0])
            raise Fault(
                f'race: {self._who(lanes[i])} {verb} {self._where(addresses[i])}, which {self._who(writers[i].max())} '
                'wrote without a barrier in between'
            )
        self._note_readers(lanes, places)
        return self.data[places]

    def _note_readers(self, lanes, places):
        _, warp, program = mine = [np.broadcast_to(x[:, None], places.shape) for x in self._identity(lanes)]
        _, old_warp, old_program = old = [readers[places] for readers in self.readers]
        times = self.read_time[places]
        over = (old_program == NOBODY) | (old_program == program) & (times < self.order.program_met[program])
        over |= (old_warp == warp) & (times < self.order.warp_met[warp])
        for readers, now, before in zip(self.readers, mine, old, strict=True):
            readers[places] = np.where(over | (before == now), now, MANY)
            shared = (readers[places] != now) & (readers[places] != MANY)  # several lanes read it in one instruction
            readers[places[shared]] = MANY
        self.read_time[places] = self.order.clock

    def _differ(self, written, raw):
        """Return where lanes write different values in one instruction, beyond rounding; note the largest rounding.

        A sum over lanes of products may be fused in another order in each lane: a * b + (c * d of the other lane).
        """
        size = raw.shape[1]
        if size == 1:
            return np.ones(len(raw), bool)
        kind = np.uint16 if size == 2 else np.float32
        a, b = (np.ascontiguousarray(x).view(kind).astype(np.float64) for x in (written, raw))
        if size == 2:  # of a half precision type: neighbours
            return (np.abs(a - b) > 1).any(1)
        largest = np.maximum(np.abs(a), np.abs(b))
        relative = np.abs(a - b) / np.where(largest == 0, 1, largest)
        alike = (relative < ALIKE) | (a == b) | (np.isnan(a) & np.isnan(b))
        self.rounding = max(self.rounding, float(relative[alike & np.isfinite(relative)].max(initial=0)))
        return ~alike.all(1)

    def store(self, lanes, addresses, raw):
        """Write ``raw``, (lanes, bytes)."""
        places = self._places(lanes, addresses, raw.shape[1], 'writes')
        lane, warp, program = (x[:, None] for x in self._identity(lanes))
        read_lane, read_warp, read_program = (readers[places] for readers in self.readers)
        times = self.read_time[places]
        met = np.where(read_warp == warp, self.order.warp_met[warp], self.order.program_met[program])
        race = (read_lane != NOBODY) & (read_lane != lane) & ((read_program != program) | (times >= met))
        race = race.any(1)
        if race.any():
            i = int(np.flatnonzero(race)[0])
            raise Fault(
                f'race: {self._who(lanes[i])} writes {self._where(addresses[i])}, which another lane read without a '
                'barrier in between'
            )
        # Several lanes may write one value to one place: Triton's layouts repeat elements.
        other = self._unordered(lanes, self.writer[places], self.write_time[places])
        clash = (other & (self.data[places] != raw)).any(1)
        self.data[places] = raw
        last = self.data[places]
        together = (last != raw).any(1)
        if self.part and together.any():
            together &= self._differ(last, raw)
        clash |= together
        if clash.any():
            i = int(np.flatnonzero(clash)[0])
            raise Fault(
                f'race: {self._who(lanes[i])} and another lane write different values to {self._where(addresses[i])}'
            )
        self.written[places] = self.stored[places] = True
        self.writer[places] = lane
        self.write_time[places] = self.order.clock
