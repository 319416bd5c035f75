"""An archive that goes away as a whole in the middle of a run: its readers wait for it, and no view fails of that."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from mura_trt.archives.listing import HeaderReader, Reference, Source
from mura_trt.errors import EnvironmentProblem

AWAY_SECONDS = 600.0  # in which a server restarts, and a disk is mounted again
LOOK_SECONDS = 1.0  # between two looks whether it is back

T = TypeVar("T")


@dataclass(frozen=True)
class AwaitedSource:
    """A source whose readers wait for it where it is away; it travels to workers as any does."""

    source: Source
    tells: bool
    """Whether what it says of its absence means anything: it is said of some that can be read."""

    @classmethod
    def of(cls, source: Source) -> AwaitedSource:
        """Of a source that is there now, for its views were just listed."""
        return cls(source, not source.absence())

    @property
    def root(self) -> str:
        """The folder or file."""
        return self.source.root

    @property
    def in_order(self) -> bool:
        """Whether it can only be read from its beginning on."""
        return self.source.in_order

    def open(self) -> AwaitedReader:
        """Waits where it is away; raises EnvironmentProblem in the end, and OSError."""
        return AwaitedReader(self)

    def absence(self) -> str:
        """Why nothing of it can be reached; empty also where that is not known."""
        return self.source.absence() if self.tells else ""


class AwaitedReader:
    """Reads as the source's own reader does, which it opens again for another try where something cannot be read.

    What fails then, too, while the archive is there, is the view's own failure. Where the archive is away, it waits for
    :data:`AWAY_SECONDS`.

    Attributes
    ----------
    away
        Why the archive cannot be reached, while it is waited for; else empty.
    threads
        How many may read at once.
    """

    def __init__(self, source: AwaitedSource) -> None:
        self._source = source
        self.away = ""
        self._looked_at = 0.0
        self._given_up = False
        self._reader = self._opened(time.monotonic() + AWAY_SECONDS)
        self.threads = self._reader.threads

    @property
    def moved_at(self) -> float:
        """When a read last got further, or the archive was last looked for: who waits for it does not hang."""
        return max(self._looked_at, self._reader.moved_at)

    def read(self, reference: Reference) -> bytes:
        """The bytes of one view.

        Raises
        ------
        OSError, Unreadable
            As the source's own reader.
        EnvironmentProblem
            The archive is away, and did not come back.
        """
        return self._tried(lambda reader: reader.read(reference))

    def head(self, reference: Reference, count: int) -> bytes:
        """Its first ``count`` bytes, or all where there are fewer; raises as ``read``."""
        return self._tried(lambda reader: reader.head(reference, count))

    def stamp(self, reference: Reference) -> bytes:
        """What changes when the view does; raises as ``read``."""
        return self._tried(lambda reader: reader.stamp(reference))

    def _tried(self, what: Callable[[HeaderReader], T]) -> T:
        try:
            return what(self._reader)
        except OSError:
            until = time.monotonic() + AWAY_SECONDS
        while True:
            reader = self._opened(until)
            try:
                return what(reader)
            except OSError:
                self._looked_at = time.monotonic()
                if not self._source.absence() or time.monotonic() > until:
                    raise

    def _opened(self, until: float) -> HeaderReader:
        """Opens the archive, for what was open before may be of no use any more; waits until then for it to be there.

        Several threads may do so at once: each has a reader that was opened after its own failure.
        """
        while True:
            self._looked_at = time.monotonic()
            problem = self._source.absence()
            if not problem:
                try:
                    self._reader = self._source.source.open()
                except OSError:
                    problem = self._source.absence()  # again, for it may have gone just now
                    if not problem:
                        raise
                else:
                    self.away = ""
                    return self._reader
            if self._given_up or time.monotonic() > until:
                self._given_up = True  # or each view that is still to be read would be waited for, too
                raise EnvironmentProblem(
                    f"{self._source.root}: the archive cannot be reached any more ({problem}); bring it back, then run"
                    " again with --resume"
                )
            self.away = problem
            time.sleep(LOOK_SECONDS)
