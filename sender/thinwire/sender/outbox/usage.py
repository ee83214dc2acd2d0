"""Bytes on the link by month, for the data budget. Format: docs/outbox-format.md.

The database has the count of each month plus an allowance. It is written before the count exceeds it, and exactly at
the end of a session. After a power cut the count is at most ALLOWANCE bytes too high, never too low.
"""

import logging
from dataclasses import dataclass, field

from sqlalchemy import delete, select

from thinwire.sender.outbox.tables import usage
from thinwire.shared.errors import Retryable
from thinwire.shared.storage.database import Database, insert_new
from thinwire.shared.storage.durable import Disk

log = logging.getLogger(__name__)

ALLOWANCE = 256 << 10
"""Bytes that are counted without writing."""
_MONTHS = 13
"""Months that are kept."""


@dataclass
class Usage:
    """Only the process with `own_link` writes; others may read."""

    database: Database
    disk: Disk
    _months: dict[str, list[int]] = field(default_factory=dict)
    _written: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._months = read_usage(self.database)
        self._written = {month: list(ways) for month, ways in self._months.items()}

    def used(self, month: str) -> int:
        """Bytes of a month, both ways."""
        return sum(self._months.get(month, (0, 0)))

    def add(self, month: str, up: int, down: int) -> None:
        """Count bytes; the database has at least the count when this returns."""
        ways = self._months.setdefault(month, [0, 0])
        ways[0] += up
        ways[1] += down
        if sum(ways) > sum(self._written.get(month, (0, 0))):
            self._write(month, ways[0] + ALLOWANCE, ways[1])

    def write_exact(self) -> None:
        """Write the exact count at the end of a session."""
        for month, ways in self._months.items():
            if ways != self._written.get(month):
                self._write(month, *ways)

    def _write(self, month: str, up: int, down: int) -> None:
        row = {"month": month, "up": up, "down": down}
        newest = select(usage.c.month).order_by(usage.c.month.desc()).limit(_MONTHS)
        try:
            self.disk.step("usage.before_commit")
            with self.database.write() as connection:
                connection.execute(
                    insert_new(usage).values(row).on_conflict_do_update(index_elements=["month"], set_=row)
                )
                connection.execute(delete(usage).where(usage.c.month.not_in(newest)))
            self.disk.step("usage.committed")
        except Retryable as error:
            log.error("%s: the bytes of this month are counted only in memory", error)
        self._written[month] = [up, down]


def read_usage(database: Database) -> dict[str, list[int]]:
    """Bytes (up, down) by month."""
    with database.read() as connection:
        return {row.month: [row.up, row.down] for row in connection.execute(select(usage))}
