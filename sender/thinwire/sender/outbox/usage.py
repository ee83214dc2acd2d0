"""How many bytes crossed the link this month, counted so that a power cut never makes them fewer.

`outbox/usage.json` holds, month by month, what was counted and an allowance on top: it is written before the count
passes what it holds, and once more, exactly, when a stream ends. After a power cut up to ALLOWANCE bytes too many
stand there, never too few. Format: docs/outbox-format.md.
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
"""Bytes for which the file is not written anew."""
_MONTHS = 13
"""So many are kept."""


@dataclass
class Usage:
    """folder: DATA/outbox. Only the owner of the link counts; everybody may read."""

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
        """Count bytes; what the disk holds is at least as much when this returns."""
        ways = self._months.setdefault(month, [0, 0])
        ways[0] += up
        ways[1] += down
        if sum(ways) > sum(self._written.get(month, (0, 0))):
            self._write({**self._months, month: [ways[0] + ALLOWANCE, ways[1]]})

    def write_exact(self) -> None:
        """A stream has ended: the exact count is on disk when this returns."""
        if self._months != self._written:
            self._write(self._months)

    def _write(self, months: dict[str, list[int]]) -> None:
        kept = {month: list(months[month]) for month in sorted(months)[-_MONTHS:]}
        facts = {"version": VERSION, "months": {m: {"up": u, "down": d} for m, (u, d) in kept.items()}}
        try:
            self.disk.write(self.folder / FILE, json.dumps(facts, indent=1).encode(), "usage")
        except DiskFull:
            log.error("the disk is full: what crosses the link this month is counted in memory alone")
        self._written = kept


def read_usage(folder: Path) -> dict[str, list[int]]:
    """Bytes (up, down) by month, as far as the disk holds them; a file that is damaged is as good as none."""
    try:
        facts = json.loads((folder / FILE).read_bytes())
        return {str(month): [int(ways["up"]), int(ways["down"])] for month, ways in facts["months"].items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError):
        log.error("outbox/usage.json is damaged: this month's bytes are counted from zero")
        return {}
