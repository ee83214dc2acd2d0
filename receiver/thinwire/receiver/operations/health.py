"""Health of one process of the hub: alive while its loops move, ready while it can store a study.

Alive is for whoever restarts the process; ready for whoever sends clinics to it. A full disk makes it unready, and a
restart would not help.
"""

import secrets
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from sqlalchemy import text

from thinwire.receiver.hub import Hub
from thinwire.receiver.pipeline import INFERENCE
from thinwire.receiver.store.tables import HUB
from thinwire.shared.errors import told

PROBED = 60.0
"""Seconds for which the look at the blobs holds, which writes and removes one."""
PATIENCE = 5.0
"""Seconds for an answer of the database or of the blobs."""


@dataclass
class Health:
    """Safe from any thread. predicts: whether this process is to predict."""

    hub: Hub
    predicts: bool
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _asked: dict[str, Future[str]] = field(default_factory=dict, repr=False)
    _blobs: tuple[float, str] | None = field(default=None, repr=False)
    """When the blobs were looked at, and what was found."""

    def stopped(self) -> list[str]:
        """The loops of this process that do not move any more; empty for one that is alive."""
        return self.hub.heartbeats.stopped()

    def reasons(self) -> dict[str, str]:
        """Why this process is not ready, by condition; an empty text for one that is met. No reason names a person or a
        path."""
        loops = self.hub.heartbeats.ages()
        model = "" if not self.predicts or INFERENCE in loops else "the model is being loaded"
        return {
            "started": "" if loops else "the process starts, or stops",
            "database": self.ask("database", self._database),
            "blobs": self._look_at_blobs(),
            "model": model,
            "disk": self._disk(),
        }

    def _database(self) -> str:
        with self.hub.database.read() as connection:
            version = connection.scalar(text("SELECT version_num FROM alembic_version"))
        return "" if version == f"{HUB.version:04}" else f"the database has version {version}"

    def _look_at_blobs(self) -> str:
        now = self.hub.clock.monotonic()
        if self._blobs is not None and now - self._blobs[0] < (PROBED if not self._blobs[1] else PATIENCE):
            return self._blobs[1]
        found = self.ask("blobs", self._probe)
        self._blobs = now, found
        return found

    def _probe(self) -> str:
        data = b"thinwire probe " + secrets.token_bytes(16)
        name = self.hub.blobs.write(data)
        there = self.hub.blobs.has(name, len(data))
        self.hub.blobs.remove(name, "probe")
        return "" if there else "a part that was written is not there"

    def _disk(self) -> str:
        try:
            free = self.hub.disk.free(self.hub.data)
        except OSError as error:
            return told(error)
        return "" if free > 0 else "the free space is below disk_reserve"

    def ask(self, name: str, question: Callable[[], str]) -> str:
        """The answer of something that may not answer at all: a thread waits for it, one of each name."""
        with self._lock:
            asked = self._asked.get(name)
            if asked is None:
                asked = self._asked[name] = Future()
                threading.Thread(target=_answer, args=(asked, question), name=f"health {name}", daemon=True).start()
        try:
            found = asked.result(PATIENCE)
        except TimeoutError:
            return "it does not answer"
        with self._lock:
            if self._asked.get(name) is asked:
                del self._asked[name]
        return found


def _answer(asked: Future[str], question: Callable[[], str]) -> None:
    try:
        asked.set_result(question())
    except Exception as error:  # noqa: BLE001 - a reason, whatever it is
        asked.set_result(told(error))
