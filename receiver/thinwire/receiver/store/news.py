"""News of the store: what any process changed, told to whatever waits for it in this one.

A process tells its own listeners with each commit. Changes of other processes: on SQLite one thread looks at the file,
a microsecond each time while nothing is committed. PostgreSQL sends them (LISTEN, NOTIFY): outside of the writing
transaction, since a NOTIFY within it would let the commits of all writers wait for each other, and for all commits of
50 ms at once. A process may end between its commit and its NOTIFY: a slow look at the last events finds those too.
"""

import contextlib
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Set
from typing import Any

from sqlalchemy import Connection, func, select

from thinwire.receiver.store.events import FOR_CLINIC, STUDIES, last_event
from thinwire.receiver.store.history import HISTORY
from thinwire.receiver.store.tables import backups, certificates, events, generations, sites
from thinwire.shared.errors import told
from thinwire.shared.parked import RETRIED
from thinwire.shared.storage.database import Database, Told

log = logging.getLogger(__name__)

ACCESS = "*access"
"""The topic of news that a site's access or certificate has changed."""

Heard = Callable[[Set[str], bool], object]
"""Called with topics, and with whether another process committed. Topics: sites whose clinic has something to hear,
ACCESS, STUDIES, HISTORY, RETRIED; none for other commits. From any thread; it must be quick."""


def is_of_work(topics: Set[str], by_others: bool) -> bool:
    """Whether there may be work: a study has changed, or something is to be tried again at once. Of a command that
    lets something be tried again SQLite tells only that another process has committed; where this one did so too in
    the same moment, it is told within UNSURE_SECONDS."""
    return not topics.isdisjoint((STUDIES, RETRIED)) or (by_others and not topics)


LOOK_SECONDS = 0.25
"""Between two looks at SQLite's file."""
UNSURE_SECONDS = 5.0
"""In which the workers are woken once after commits to SQLite of which another process may have made some."""
CATCH_UP_SECONDS = 30.0
"""Between two looks at PostgreSQL's last events."""
TOGETHER_SECONDS = 0.05
"""In which commits share a NOTIFY."""
_OVERLAP_SECONDS = 180.0
"""Age of the events that are looked at again: PostgreSQL's numbers are not in the order of commits."""
AGAIN_SECONDS = 5.0
"""Until the next attempt, where PostgreSQL does not answer."""
_CHANNEL = "thinwire"
_LONGEST = 7000
"""Bytes of one NOTIFY (PostgreSQL: less than 8000)."""


class News:
    """For one process; safe from any thread. Within `running` it tells of other processes too."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._listeners: list[Heard] = []
        self._lock = threading.Lock()
        self._me = secrets.token_hex(8)
        self._known: set[int] = set()
        """The numbers of the events that were told here, after the first of the floors."""
        self._floors: deque[tuple[float, int]] = deque()
        """When a look was made, and the last number that it found."""
        self._stamps: dict[str, Any] = {}
        self._commits = 0
        """Of this process since the last look."""
        self._unsure = False
        """Whether commits since the last wake-up may have been those of another process."""
        self._unsent: set[str] = set()
        self._sending = threading.Event()
        self._running = False
        self._stop = threading.Event()
        database.committed = self._committed

    def subscribe(self, heard: Heard) -> Callable[[], None]:
        """Returns what ends it."""
        self._listeners.append(heard)
        return lambda: self._listeners.remove(heard)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Hear of other processes until the block ends. Raises as `Database.read`."""
        self._stop.clear()
        with self._database.read() as connection:
            self._read(connection)
        loops = (self._listen, self._send) if self._database.shared else (self._watch,)
        threads = [threading.Thread(target=loop, name=f"news {loop.__name__.strip('_')}") for loop in loops]
        self._running = True
        for each in threads:
            each.start()
        try:
            yield
        finally:
            self._running = False
            self._stop.set()
            self._sending.set()
            for each in threads:
                each.join()

    def look(self) -> None:
        """Tell what other processes committed since the last look. Raises as `Database.read`."""
        with self._lock:
            commits, self._commits = self._commits, 0
        with self._database.read() as connection:
            found = self._read(connection)
        # SQLite tells of this process's own commits too: its workers know of those.
        sure = bool(found) or self._database.shared or not commits
        self._unsure |= not sure
        self._tell(found, by_others=sure)

    def _tell(self, topics: Iterable[str], by_others: bool) -> None:
        found = frozenset(topics)
        for heard in list(self._listeners):
            try:
                heard(found, by_others)
            except Exception as error:  # noqa: BLE001 - the other listeners hear of it too
                log.error("news is lost: %s", told(error))

    def _committed(self, changed: Told) -> None:
        with self._lock:
            self._commits += 1
            self._known |= changed.events
        self._tell((topic for topic, here in changed.topics.items() if here), by_others=False)
        if not self._database.shared or not changed.topics:
            return
        with self._lock:
            self._unsent |= changed.topics.keys()
        if self._running:
            self._sending.set()
        else:
            # A command: it ends soon.
            self._send_unsent()

    def _read(self, connection: Connection) -> set[str]:
        """The topics of which there is something new since the last look."""
        last, now, topics = last_event(connection), time.monotonic(), set[str]()
        first, overlap = not self._floors, _OVERLAP_SECONDS if self._database.shared else 0.0
        while len(self._floors) > 1 and self._floors[1][0] <= now - overlap:
            self._floors.popleft()
        floor = last if first else self._floors[0][1]
        query = select(events.c.number, events.c.site, events.c.event).where(events.c.number > floor)
        rows = connection.execute(query).all()
        self._floors.append((now, max(last, floor)))
        with self._lock:
            for number, site, event in rows:
                if number not in self._known:
                    topics |= {site, STUDIES} if event in FOR_CLINIC else {STUDIES}
            self._known = {each for each in self._known if each > floor} | {row.number for row in rows}
        # Of sums, not of the last moments: a clock may be set back.
        moments = [func.coalesce(func.sum(each % (1 << 31)), 0) for each in (sites.c.joined_at, sites.c.dismissed_at)]
        newest = [select(func.max(each.c.number)).scalar_subquery() for each in (generations, backups)]
        held = select(func.count(), func.coalesce(func.sum(certificates.c.expires_at % (1 << 31)), 0))
        stamps = {
            ACCESS: (*connection.execute(select(*moments)).one(), *connection.execute(held).one()),
            HISTORY: tuple(connection.execute(select(*newest)).one()),
        }
        topics |= {topic for topic, stamp in stamps.items() if not first and stamp != self._stamps[topic]}
        self._stamps = stamps
        return topics

    # SQLite.

    def _watch(self) -> None:
        changes = self._database.changes()
        unsure, told_at = False, time.monotonic()
        with contextlib.closing(changes):
            while not self._stop.wait(LOOK_SECONDS):
                try:
                    if unsure or changes.seen():
                        unsure = True
                        self.look()
                        unsure = False
                    if self._unsure and time.monotonic() - told_at >= UNSURE_SECONDS:
                        self._unsure, told_at = False, time.monotonic()
                        self._tell((), by_others=True)
                except Exception as error:  # noqa: BLE001 - all that waits in this process depends on this loop
                    log.error("news of other processes is late: %s", told(error))

    # PostgreSQL.

    def _listen(self) -> None:
        while not self._stop.is_set():
            try:
                self._listen_on_one()
            except Exception as error:  # noqa: BLE001 - all that waits in this process depends on this loop
                log.error("news of other processes is late: %s", told(error))
                self._stop.wait(AGAIN_SECONDS)

    def _listen_on_one(self) -> None:
        pooled = self._database.engine.raw_connection()
        driver: Any = pooled.driver_connection
        # The pool would roll back a connection that the server has ended, and log the error's text.
        pooled.detach()
        with contextlib.closing(driver) as connection:
            connection.autocommit = True
            connection.execute(f"LISTEN {_CHANNEL}")
            looked = -CATCH_UP_SECONDS
            while not self._stop.is_set():
                if time.monotonic() - looked >= CATCH_UP_SECONDS:
                    # Also of all that was committed before LISTEN.
                    self.look()
                    looked = time.monotonic()
                for each in connection.notifies(timeout=1.0, stop_after=1):
                    sender, *topics = each.payload.split()
                    if sender != self._me:
                        self._tell(topics, by_others=True)

    def _send(self) -> None:
        while not self._stop.is_set():
            self._sending.wait()
            self._stop.wait(TOGETHER_SECONDS)
            self._sending.clear()
            if not self._send_unsent():
                self._stop.wait(AGAIN_SECONDS)
                self._sending.set()
        self._send_unsent()

    def _send_unsent(self) -> bool:
        with self._lock:
            unsent, self._unsent = self._unsent, set()
        try:
            with self._database.engine.begin() as connection:
                for payload in payloads(self._me, unsent):
                    connection.execute(select(func.pg_notify(_CHANNEL, payload)))
        except Exception as error:  # noqa: BLE001 - the slow look of the others finds it
            log.warning("other processes hear late of a change: %s", told(error))
            with self._lock:
                self._unsent |= unsent
            return False
        return True


def payloads(sender: str, topics: Set[str]) -> Iterator[str]:
    payload = sender
    for topic in sorted(topics):
        if len(payload) + 1 + len(topic) > _LONGEST:
            yield payload
            payload = sender
        payload += f" {topic}"
    if topics:
        yield payload
