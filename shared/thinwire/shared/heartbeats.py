"""Heartbeats: whether the loops of a process still move. A loop beats at every turn; one that has not beaten for its
time has stopped, as in a deadlock or a call that never returns."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass

from thinwire.shared.clock import Clock, SystemClock

EVERY = 5.0
"""Seconds between two beats of an event loop."""
STILL = 60.0
"""Seconds after which an event loop without a beat has stopped."""


@dataclass
class _Loop:
    most: float
    beaten: float


class Heartbeats:
    """Safe from any thread."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._loops: dict[str, _Loop] = {}

    def begin(self, name: str, most: float) -> Callable[[], None]:
        """A loop starts; the returned function is to be called at every turn. most: seconds between two calls."""
        loop = _Loop(most, self._clock.monotonic())
        with self._lock:
            self._loops[name] = loop

        def beat() -> None:
            loop.beaten = self._clock.monotonic()

        return beat

    def end(self, name: str) -> None:
        """A loop has ended, as it was told to."""
        with self._lock:
            self._loops.pop(name, None)

    def ages(self) -> dict[str, float]:
        """Seconds since the last beat of each loop."""
        now = self._clock.monotonic()
        with self._lock:
            return {name: now - loop.beaten for name, loop in sorted(self._loops.items())}

    def stopped(self) -> list[str]:
        """The loops that do not move any more."""
        ages = self.ages()
        with self._lock:
            return [name for name, loop in sorted(self._loops.items()) if ages.get(name, 0.0) > loop.most]


async def beat(heartbeats: Heartbeats, name: str) -> None:
    """Beat for the event loop in which this runs, until cancelled."""
    once = heartbeats.begin(name, STILL)
    try:
        while True:
            once()
            await asyncio.sleep(EVERY)
    finally:
        heartbeats.end(name)
