"""Counters and a switch that the emulator and a bench share: a small file that both map into memory.

| word | of | meaning |
| --- | --- | --- |
| 0 | bench | 1: the link is to be down |
| 1 | emulator | 1: the link is down, by the switch or by its schedule |
| 2 to 8 | emulator | clinic to hub: offered, offered bytes, delivered, delivered bytes, lost, overflowed, cut |
| 9 to 15 | emulator | hub to clinic: the same |
| 16 | emulator | worst lateness of a delivery, microseconds: how far the machine could not keep the link's time |
| 17 | emulator | deliveries that were over LATE late |
| 18 | emulator | 1 once it moves packets |
| 19 | bench | 1 and the milliseconds of the profile's schedule that count as over: its outages run from now on |

Words are 64-bit and native; each is written whole, so that a reader may see two counters of different moments and
never half of one.
"""

import mmap
import os
from dataclasses import astuple, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.link.model import Counts

WORDS = 20
LATE = 0.005
"""Seconds after which a delivery is counted as late."""
_SWITCH, _IS_DOWN, _UP, _DOWN, _WORST, _LATE_COUNT, _READY, _BEGUN = 0, 1, 2, 9, 16, 17, 18, 19


@dataclass(frozen=True)
class Traffic:
    """One direction's counters at a moment; the names are those of `model.Counts`."""

    offered: int
    offered_bytes: int
    delivered: int
    delivered_bytes: int
    lost: int
    overflowed: int
    cut: int


class SharedCounters:
    """The file, mapped. Made by the bench before the emulator starts."""

    def __init__(self, path: Path) -> None:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(handle, WORDS * 8)
            self._map = mmap.mmap(handle, WORDS * 8)
        finally:
            os.close(handle)
        self._words = memoryview(self._map).cast("Q")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._words.release()
        self._map.close()

    # The bench's side.

    def switch(self, down: bool) -> None:
        """Cut the link, or let it come back."""
        self._words[_SWITCH] = int(down)

    def begin(self, phase: float) -> None:
        """The profile's outages run from now on, as if `phase` seconds of its schedule were over. What came before,
        such as starting servers, met none."""
        self._words[_BEGUN] = 1 + int(phase * 1000)

    @property
    def ready(self) -> bool:
        return bool(self._words[_READY])

    @property
    def is_down(self) -> bool:
        return bool(self._words[_IS_DOWN])

    @property
    def up(self) -> Traffic:
        """Clinic to hub."""
        return Traffic(*self._words[_UP : _UP + 7])

    @property
    def down(self) -> Traffic:
        """Hub to clinic."""
        return Traffic(*self._words[_DOWN : _DOWN + 7])

    @property
    def lateness(self) -> tuple[float, int]:
        """(worst, seconds; how many deliveries were over LATE late)."""
        return self._words[_WORST] / 1e6, self._words[_LATE_COUNT]

    # The emulator's side.

    @property
    def switched_down(self) -> bool:
        return bool(self._words[_SWITCH])

    @property
    def begun(self) -> float | None:
        """Seconds of the schedule that were over when it began; None: it has not begun."""
        word = self._words[_BEGUN]
        return (word - 1) / 1000 if word else None

    def tell_ready(self) -> None:
        self._words[_READY] = 1

    def tell_down(self, down: bool) -> None:
        self._words[_IS_DOWN] = int(down)

    def tell(self, up: Counts, down: Counts) -> None:
        for start, counts in ((_UP, up), (_DOWN, down)):
            for place, value in enumerate(astuple(counts)[:7]):
                self._words[start + place] = value

    def tell_late(self, seconds: float) -> None:
        if seconds * 1e6 > self._words[_WORST]:
            self._words[_WORST] = int(seconds * 1e6)
        if seconds > LATE:
            self._words[_LATE_COUNT] += 1
