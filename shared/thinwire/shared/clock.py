"""Time as a value that is passed in, so that tests and simulations own it."""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime:
        """Wall-clock time, aware, in UTC: for what people and the other end read."""
        ...

    def monotonic(self) -> float:
        """Seconds that never step back: for intervals."""
        ...


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()
