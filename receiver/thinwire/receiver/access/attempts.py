"""A limit on failed sign-ins: after a few failures a pause, which doubles with each further one."""

import threading
from collections import OrderedDict
from dataclasses import dataclass

from thinwire.shared.clock import Clock

FREE = 5
"""Failures without a pause."""
FIRST_PAUSE = 10.0
LONGEST_PAUSE = 900.0
"""Seconds. A pause instead of a lock: failures of other people cannot exclude a reader permanently."""
FORGOTTEN_AFTER = 3600.0
_MOST_KNOWN = 10_000


@dataclass
class _Tried:
    failures: int
    last: float


class Attempts:
    """Counted by account and by address, in memory. Safe from any thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tried: OrderedDict[str, _Tried] = OrderedDict()
        self._lock = threading.Lock()

    def wait(self, *keys: str) -> float:
        """Seconds until the next attempt is allowed; 0: now."""
        with self._lock:
            return max((self._wait(key) for key in keys), default=0.0)

    def failed(self, *keys: str) -> None:
        now = self._clock.monotonic()
        with self._lock:
            for key in keys:
                before = self._tried.pop(key, None)
                stale = before is None or now - before.last > FORGOTTEN_AFTER
                self._tried[key] = _Tried(1 if stale or before is None else before.failures + 1, now)
            while len(self._tried) > _MOST_KNOWN:
                self._tried.popitem(last=False)

    def succeeded(self, key: str) -> None:
        with self._lock:
            self._tried.pop(key, None)

    def _wait(self, key: str) -> float:
        tried = self._tried.get(key)
        if tried is None or tried.failures < FREE:
            return 0.0
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(20, tried.failures - FREE))
        return max(0.0, tried.last + pause - self._clock.monotonic())
