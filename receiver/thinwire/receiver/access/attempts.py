"""A limit on failed sign-ins: after a few failures a pause, which doubles with each further one.

Failures are counted by account and address together, by address, and by account. The last does not count for an
address from which the account's holder has signed in, and none of them for a browser that has: such a browser has a
count of its own (OWASP, Slow Down Online Guessing Attacks with Device Cookies). So whoever guesses elsewhere delays no
reader.
"""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network

from thinwire.shared.clock import Clock

FREE = 5
"""Failures without a pause: of one account from one address, or in one known browser."""
FREE_IN_ALL = 20
"""The same of one address with any accounts, and of one account from any addresses."""
FIRST_PAUSE = 10.0
LONGEST_PAUSE = 900.0
"""Seconds. A pause instead of a lock: it ends without an administrator."""
FORGOTTEN_AFTER = 3600.0
_MOST_KNOWN = 10_000


@dataclass
class _Tried:
    failures: int
    last: float


class Attempts:
    """Counted in memory. Safe from any thread. account: None for a one-time link, which counts by address alone: it is
    too long to be guessed, and whoever tries others must not keep its holder out. device: a browser in which this
    account has signed in before; None for any other."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tried: OrderedDict[Hashable, _Tried] = OrderedDict()
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._lock = threading.Lock()

    def wait(self, account: str | None, address: str, device: str | None = None) -> float:
        """Seconds until the next attempt is allowed; 0: now."""
        with self._lock:
            return max(self._wait(key, free) for key, free in self._keys(account, address, device))

    def failed(self, account: str | None, address: str, device: str | None = None) -> None:
        now = self._clock.monotonic()
        with self._lock:
            for key, _ in self._keys(account, address, device):
                before = self._tried.pop(key, None)
                stale = before is None or now - before.last > FORGOTTEN_AFTER
                self._tried[key] = _Tried(1 if stale or before is None else before.failures + 1, now)
            while len(self._tried) > _MOST_KNOWN:
                self._tried.popitem(last=False)

    def succeeded(self, account: str, address: str, device: str | None = None) -> None:
        pair = account, network_of(address)
        with self._lock:
            self._tried.pop(pair, None)
            self._tried.pop(("device", account, device), None)
            self._known[pair] = None
            self._known.move_to_end(pair)
            while len(self._known) > _MOST_KNOWN:
                self._known.popitem(last=False)

    def _keys(self, account: str | None, address: str, device: str | None) -> list[tuple[Hashable, int]]:
        """The counts of an attempt, and the failures that each has free."""
        if device is not None:
            return [(("device", account, device), FREE)]
        if account is None:
            return [(("address", network_of(address)), FREE_IN_ALL)]
        pair = account, network_of(address)
        keys: list[tuple[Hashable, int]] = [(pair, FREE), (("address", pair[1]), FREE_IN_ALL)]
        return keys if pair in self._known else [*keys, (("account", account), FREE_IN_ALL)]

    def _wait(self, key: Hashable, free: int) -> float:
        tried = self._tried.get(key)
        if tried is None or tried.failures < free:
            return 0.0
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(20, tried.failures - free))
        return max(0.0, tried.last + pause - self._clock.monotonic())


def network_of(address: str) -> str:
    """An address as it is counted: of IPv6 the network of 64 bits, which is one customer's."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    return str(ip_network((found, 64), strict=False)) if isinstance(found, IPv6Address) else str(found)
