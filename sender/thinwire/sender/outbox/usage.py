"""Bytes on the link by month, for the data budget. Format: docs/outbox-format.md.

`outbox/usage.json` has the count of each month plus an allowance. It is written before the count exceeds it, and
exactly at the end of a session. After a power cut the count is at most ALLOWANCE bytes too high, never too low.
"""

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

from thinwire.shared.errors import DiskFull
from thinwire.shared.storage.durable import Disk

log = logging.getLogger(__name__)

VERSION = 1
FILE = "usage.json"
ALLOWANCE = 256 << 10
"""Bytes that are counted without writing the file."""
_MONTHS = 13
"""Months in the file."""


@dataclass
class Usage:
    """folder: DATA/outbox. Only the process with `own_link` writes; others may read."""

    folder: Path
    disk: Disk
    _months: dict[str, list[int]] = field(default_factory=dict)
    _written: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._months = read_usage(self.folder)
        self._written = {month: list(ways) for month, ways in self._months.items()}

    def used(self, month: str) -> int:
        """Bytes of a month, both ways."""
        return sum(self._months.get(month, (0, 0)))

    def add(self, month: str, up: int, down: int) -> None:
        """Count bytes; the file has at least the count when this returns."""
        ways = self._months.setdefault(month, [0, 0])
        ways[0] += up
        ways[1] += down
        if sum(ways) > sum(self._written.get(month, (0, 0))):
            self._write({**self._months, month: [ways[0] + ALLOWANCE, ways[1]]})

    def write_exact(self) -> None:
        """Write the exact count at the end of a session."""
        if self._months != self._written:
            self._write(self._months)

    def _write(self, months: dict[str, list[int]]) -> None:
        newest = {month: list(months[month]) for month in sorted(months)[-_MONTHS:]}
        facts = {"version": VERSION, "months": {m: {"up": u, "down": d} for m, (u, d) in newest.items()}}
        try:
            self.disk.write(self.folder / FILE, json.dumps(facts, indent=1).encode(), "usage")
        except DiskFull:
            log.error("the disk is full: the bytes of this month are counted only in memory")
        self._written = newest


def read_usage(folder: Path) -> dict[str, list[int]]:
    """Bytes (up, down) by month from the file; empty for an absent or damaged file."""
    try:
        facts = json.loads((folder / FILE).read_bytes())
        return {str(month): [int(ways["up"]), int(ways["down"])] for month, ways in facts["months"].items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError):
        log.error("outbox/usage.json is damaged: this month's bytes are counted from zero")
        return {}
