"""Time that a test owns."""

from datetime import UTC, datetime, timedelta

START = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


class FakeClock:
    """Stands still until `advance`."""

    def __init__(self, start: datetime = START) -> None:
        self._start = start
        self._seconds = 0.0

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._seconds)

    def monotonic(self) -> float:
        return self._seconds

    def advance(self, seconds: float) -> None:
        self._seconds += seconds
