"""A GPU that is not there: streams that run behind the host in any order that CUDA allows, and who could know what.

Work that a stream is given is done later, whenever the schedule pleases; only events hold one stream back for another,
or the host for a stream. Memory is poisoned until it is written and once it is given back, so work that comes too early
or too late gives wrong numbers in some schedules. Beside that every access is held against vector clocks (Lamport;
Fidge 1988): two accesses to the same memory of which one writes must be ordered by streams, events and waiting, not by
luck, so a missing wait is found in every schedule.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mura_trt.contract import InputContract
from mura_trt.cuda_devices import GpuKind
from mura_trt.decode import BatchDecoder, Decoder
from mura_trt.host_decode import HostDecoder
from mura_trt.runtimes.base import DevicePixels, Piece
from mura_trt.runtimes.cuda import Device, Event, Stream
from mura_trt.runtimes.device import DeviceSession, Output
from mura_trt.runtimes.null import checksums

HOST = "host"
POISON = 0xA5
Clock = dict[str, int]


class Race(AssertionError):
    """Two accesses that nothing orders."""


@dataclass
class Block:
    """Memory that one allocation gave."""

    name: str
    bytes_: NDArray[np.uint8]
    written: tuple[str, int] = (HOST, 0)
    read: dict[str, int] = field(default_factory=dict)


@dataclass
class Work:
    """What a stream was given: something to do, or an event to wait for."""

    do: Callable[[], None]
    ready: Callable[[], bool] = lambda: True


class SimulatedStream:
    """A stream; ``clock`` is what its next work may take as done."""

    def __init__(self, gpu: SimulatedDevice, name: str, handle: int) -> None:
        self.gpu, self.name, self.handle = gpu, name, handle
        self.clock: Clock = {}
        self.queue: deque[Work] = deque()

    def give(self, do: Callable[[], None], reads: Iterable[Block] = (), writes: Iterable[Block] = ()) -> None:
        """Work of this stream, behind all that the host and the stream itself have done."""
        _merge(self.clock, self.gpu.clock)
        self.clock[self.name] = self.clock.get(self.name, 0) + 1
        for block in reads:
            self.gpu.accessed(block, self.name, self.clock, write=False)
        for block in writes:
            self.gpu.accessed(block, self.name, self.clock, write=True)
        self.queue.append(Work(do))
        self.gpu.proceed()

    def wait_for_event(self, event: Event) -> None:
        assert isinstance(event, SimulatedEvent)
        mark, clock = event.mark, event.clock
        assert mark, "an event was waited for that nobody recorded"
        _merge(self.clock, clock)
        self.queue.append(Work(lambda: None, lambda: event.reached >= mark))


class SimulatedEvent:
    """An event; ``mark`` counts its records and ``reached`` those that their streams have come to."""

    def __init__(self, gpu: SimulatedDevice) -> None:
        self.gpu = gpu
        self.mark = self.reached = 0
        self.clock: Clock = {}

    def record(self, stream: Stream) -> None:
        assert isinstance(stream, SimulatedStream)
        self.mark += 1
        mark = self.mark
        _merge(stream.clock, self.gpu.clock)
        self.clock = dict(stream.clock)

        def reach() -> None:
            self.reached = max(self.reached, mark)

        stream.queue.append(Work(reach))

    def synchronize(self) -> None:
        while self.reached < self.mark:
            assert self.gpu.step(), "the host waits for what will never come"
        _merge(self.gpu.clock, self.clock)


def _merge(clock: Clock, other: Clock) -> None:
    for name, tick in other.items():
        clock[name] = max(clock.get(name, 0), tick)


class Refused(Exception):
    """What the device says where it refuses, as PyCUDA's errors no RuntimeError."""


class Pinned(np.ndarray[Any, Any]):
    """Page-locked memory, that notes what the host reads and writes of it by index."""

    gpu: SimulatedDevice | None = None
    block: Block

    def __array_finalize__(self, origin: object) -> None:
        if isinstance(origin, Pinned) and origin.gpu is not None:
            self.gpu, self.block = origin.gpu, origin.block

    def __getitem__(self, at: Any) -> Any:
        self._accessed(write=False)
        return super().__getitem__(at)

    def __setitem__(self, at: Any, value: Any) -> None:
        self._accessed(write=True)
        super().__setitem__(at, value)

    def _accessed(self, write: bool) -> None:
        if self.gpu is not None:
            self.gpu.touched(self.block, write)


def _pinned(host: NDArray[Any]) -> Pinned:
    assert isinstance(host, Pinned), "a copy that the host would wait for"
    return host


class SimulatedDevice(Device):
    """The device of :mod:`mura_trt.runtimes.cuda` with nothing behind it."""

    def __init__(self, schedule: random.Random, eager: float = 0.3) -> None:
        self.ordinal, self.kind, self.error = 0, GpuKind("simulated", (0, 0)), Refused
        self.clock: Clock = {}
        self.blocks: dict[int, Block] = {}
        self.streams: list[SimulatedStream] = []
        self.closed = False
        self._schedule, self._eager = schedule, eager
        self._next = 1 << 20

    # --- what the product sees ---

    def stream(self) -> SimulatedStream:
        self.streams.append(SimulatedStream(self, f"stream {len(self.streams)}", 1000 + len(self.streams)))
        return self.streams[-1]

    def event(self) -> SimulatedEvent:
        return SimulatedEvent(self)

    def memory(self, nbytes: int) -> int:
        return self.allocated("memory", nbytes)

    def pinned(self, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
        bytes_ = np.full(int(np.prod(shape)) * np.dtype(dtype).itemsize, POISON, np.uint8)
        host = bytes_.view(dtype).reshape(shape).view(Pinned)
        host.gpu, host.block = self, Block("pinned", bytes_, (HOST, self._tick()))
        return host

    def upload(self, address: int, host: NDArray[Any], stream: Stream) -> None:
        (block, at), pinned = self.found(address), _pinned(host)
        origin = pinned.view(np.ndarray).reshape(-1).view(np.uint8)

        def do() -> None:
            block.bytes_[at : at + len(origin)] = origin

        _simulated(stream).give(do, reads=[pinned.block], writes=[block])

    def download(self, host: NDArray[Any], address: int, stream: Stream) -> None:
        (block, at), pinned = self.found(address), _pinned(host)
        target = pinned.view(np.ndarray).reshape(-1).view(np.uint8)

        def do() -> None:
            target[:] = block.bytes_[at : at + len(target)]

        _simulated(stream).give(do, reads=[block], writes=[pinned.block])

    def copy(self, to: int, address: int, nbytes: int, stream: Stream) -> None:
        (target, there), (origin, here) = self.found(to), self.found(address)

        def do() -> None:
            target.bytes_[there : there + nbytes] = origin.bytes_[here : here + nbytes]

        _simulated(stream).give(do, reads=[origin], writes=[target])

    def free_bytes(self) -> int:
        return 0

    def close(self) -> None:
        assert not any(stream.queue for stream in self.streams), "closed with work under way"
        self.closed = True

    # --- what moves it ---

    def allocated(self, name: str, nbytes: int) -> int:
        """The address of new memory, poisoned; the host knows that nobody uses it."""
        address, self._next = self._next, self._next + nbytes + 64
        self.blocks[address] = Block(name, np.full(nbytes, POISON, np.uint8), (HOST, self._tick()))
        return address

    def free(self, address: int) -> None:
        """Takes memory back, which is as good as writing to it."""
        block = self.blocks.pop(address)
        self.touched(block, write=True)
        block.bytes_[:] = POISON

    def touched(self, block: Block, write: bool) -> None:
        """Notes that the host reads or writes memory, just now."""
        self.accessed(block, HOST, self.clock | {HOST: self._tick()}, write)

    def found(self, address: int) -> tuple[Block, int]:
        """The memory that an address is in, and how far into it."""
        for start, block in self.blocks.items():
            if start <= address < start + len(block.bytes_):
                return block, address - start
        raise Race(f"address {address} is nobody's")

    def accessed(self, block: Block, who: str, clock: Clock, write: bool) -> None:
        """Notes an access; raises Race where an earlier one may still be going on."""
        others = {**block.read, block.written[0]: max(block.written[1], block.read.get(block.written[0], 0))}
        for other, tick in (others if write else dict([block.written])).items():
            if other != who and clock.get(other, 0) < tick:
                raise Race(f"{block.name}: {who} {'writes' if write else 'reads'} while {other} may still use it")
        if write:
            block.written, block.read = (who, clock.get(who, 0)), {}
        else:
            block.read[who] = clock.get(who, 0)

    def proceed(self) -> None:
        """Some of what may be done is."""
        while self._schedule.random() < self._eager and self.step():
            pass

    def step(self) -> bool:
        """One piece of work of a stream that has some and need not wait; False where there is none."""
        able = [stream for stream in self.streams if stream.queue and stream.queue[0].ready()]
        if able:
            self._schedule.choice(able).queue.popleft().do()
        return bool(able)

    def _tick(self) -> int:
        self.clock[HOST] = self.clock.get(HOST, 0) + 1
        return self.clock[HOST]


def _simulated(stream: Stream) -> SimulatedStream:
    assert isinstance(stream, SimulatedStream)
    return stream


class Owner:
    """Keeps a piece of the decoder's memory; with it, the memory goes back."""

    def __init__(self, gpu: SimulatedDevice, address: int, faults: list[Race]) -> None:
        self.gpu, self.address, self._faults = gpu, address, faults

    def __del__(self) -> None:
        try:
            self.gpu.free(self.address)
        except Race as race:  # which a destructor cannot raise
            self._faults.append(race)


class SimulatedDecoder(BatchDecoder[DevicePixels]):
    """DALI on the CPU, whose pixels come to the device's memory later, on a stream of the decoder's own.

    Attributes
    ----------
    faults
        What memory was given back too early.
    """

    def onto(self, gpu: SimulatedDevice, session: DeviceSession) -> SimulatedDecoder:
        """The same decoder for another device and session."""
        assert session.stream is not None
        self._onto, self._own = gpu, gpu.stream()
        self._theirs = next(stream for stream in gpu.streams if stream.handle == session.stream.handle)
        self.faults: list[Race] = []
        return self

    def _finish(self, files: list[NDArray[np.uint8]]) -> DevicePixels:
        pixels = np.array(self._taken().as_tensor())
        assert len(pixels) == len(files)
        return DevicePixels([self._there(pixels)])

    def _there(self, pixels: NDArray[np.uint8]) -> Piece:
        """Pixels on their way to the device's memory."""
        address = self._onto.allocated("decoded pixels", pixels.nbytes)
        block, _ = self._onto.found(address)

        def do() -> None:
            block.bytes_[:] = pixels.reshape(-1)

        self._own.give(do, writes=[block])
        ready = self._onto.event()
        ready.record(self._own)
        self._theirs.wait_for_event(ready)
        return Piece(address, len(pixels), Owner(self._onto, address, self.faults))

    def joined(self, parts: Sequence[DevicePixels | NDArray[np.uint8]]) -> DevicePixels:
        return DevicePixels.joined(parts)


class SplitDecoder(SimulatedDecoder):
    """Leaves a part of each batch in the host's memory, as where the host decodes some kinds of files by itself."""

    def _finish(self, files: list[NDArray[np.uint8]]) -> DevicePixels:
        pixels = np.array(self._taken().as_tensor())
        half = len(files) // 2
        return DevicePixels([*([pixels[:half]] if half else []), self._there(pixels[half:])])


class OnHost(Decoder):
    """DALI on the CPU, whose pixels the session must bring to the device itself."""

    faults: Sequence[Race] = ()

    def onto(self, _gpu: SimulatedDevice, _session: DeviceSession) -> OnHost:
        """The same decoder, as it knows of no device."""
        return self


class BothWays(HostDecoder):
    """The product's own: PNG files by C on the host, and the others by the decoder that has the device."""

    def __init__(self, size: tuple[int, int], threads: int, batch: int) -> None:
        self._simulated = SimulatedDecoder(size, threads, batch)
        super().__init__(self._simulated, size, threads, batch)

    @property
    def faults(self) -> Sequence[Race]:
        return self._simulated.faults

    def onto(self, gpu: SimulatedDevice, session: DeviceSession) -> BothWays:
        """The same decoder for another device and session."""
        self._simulated.onto(gpu, session)
        return self


class SimulatedSession(DeviceSession):
    """Checksums on the simulated device, as the ``null`` runtime's on the host."""

    name = "simulated"

    def __init__(self, contract: InputContract, batch: int, gpu: SimulatedDevice, depth: int) -> None:
        self.depth = depth
        self._simulation = gpu
        super().__init__(contract, batch, gpu)

    def _launch(self, image: int, outputs: dict[str, Output], stream: Stream) -> None:
        block, at = self._simulation.found(image)
        homes = {name: self._simulation.found(output.address) for name, output in outputs.items()}
        shape = (self.batch, *self._shape)

        def do() -> None:
            pixels = block.bytes_[at : at + int(np.prod(shape))].reshape(shape)
            for name, tensor in checksums(pixels, self._contract.map_shape)._asdict().items():
                home, start = homes[name]
                home.bytes_[start : start + tensor.nbytes] = tensor.reshape(-1).view(np.uint8)

        _simulated(stream).give(do, reads=[block], writes=[home for home, _ in homes.values()])
