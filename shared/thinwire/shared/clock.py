"""The clock as a parameter, so that tests and simulations can control it."""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime:
        """Wall-clock time, aware, in UTC: for people and the other end."""
        ...

    def monotonic(self) -> float:
        """Seconds that never step back: for intervals."""
        ...


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()
