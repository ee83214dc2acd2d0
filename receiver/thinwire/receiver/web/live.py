"""News for open pages: told once for all of them, and rows that are made once for all of them."""

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterator, Set
from contextlib import contextmanager

from thinwire.receiver.store.events import STUDIES
from thinwire.receiver.web.context import WebContext
from thinwire.shared.identifiers import SiteName

log = logging.getLogger(__name__)

EVERY = 1.0
"""Seconds between two looks; a look reads no row without news."""
SESSIONS_EVERY = 10.0
"""Seconds after which sessions are checked also without news: they end by time."""

LIST, PROGRESS, ENDED = "list", "progress", "ended"
_WEIGHT = {None: 0, PROGRESS: 1, LIST: 2, ENDED: 3}


class OpenPage:
    """An open page and the event that it has not sent yet; of several the weightiest counts."""

    def __init__(self, secret: str) -> None:
        self.secret = secret
        self._event: str | None = None
        self._told = asyncio.Event()

    def tell(self, event: str) -> None:
        if _WEIGHT[event] > _WEIGHT[self._event]:
            self._event = event
        self._told.set()

    async def event(self) -> str:
        """`list` when the worklist or a study has changed, `progress` during a transfer, `ended` with the session."""
        await self._told.wait()
        self._told.clear()
        event, self._event = self._event, None
        return event or PROGRESS


class Watcher:
    """Wakes the open pages. `run` and `look` are for the loop of the pages."""

    def __init__(self, context: WebContext) -> None:
        self._context = context
        self._pages: set[OpenPage] = set()
        self._connected: tuple[SiteName, ...] | None = None
        self._changed = False
        """A study has a new event since the last look that succeeded."""
        self._stale = True
        """Something was committed since then."""
        self._checked = context.clock.monotonic()
        self.close = context.hub.news.subscribe(self.heard)

    def heard(self, topics: Set[str], _by_others: bool) -> None:
        """As `news.Heard`."""
        self._changed |= STUDIES in topics
        self._stale = True

    @contextmanager
    def open(self, secret: str) -> Iterator[OpenPage]:
        """A page of the session with this secret."""
        page = OpenPage(secret)
        self._pages.add(page)
        try:
            yield page
        finally:
            self._pages.discard(page)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(EVERY)
            try:
                await asyncio.to_thread(self._context.refusals.write)
                await self.look()
            except Exception as error:  # noqa: BLE001 - every open page depends on this loop
                log.error("open pages are not refreshed: %s", type(error).__name__)

    async def look(self) -> None:
        """One look for all open pages."""
        if not self._pages:
            self._context.frames.clear()
            return
        event, ended = await asyncio.to_thread(self._news, frozenset(page.secret for page in self._pages))
        for page in self._pages:
            told = ENDED if page.secret in ended else event
            if told is not None:
                page.tell(told)

    def _news(self, secrets: Collection[str]) -> tuple[str | None, Collection[str]]:
        """The event for all pages, or None; and the secrets whose session has ended."""
        links, before = self._context.links(), self._connected
        connected = tuple(site for site, link in sorted(links.items()) if link.connected)
        # Before the queries: news that comes meanwhile is for the next look.
        changed, self._changed, stale, self._stale = self._changed, False, self._stale, False
        now, ended = self._context.clock.monotonic(), frozenset[str]()
        try:
            if stale or now - self._checked >= SESSIONS_EVERY:
                ended, self._checked = frozenset(secrets) - self._context.accounts.open_sessions(secrets), now
        except Exception:
            self._changed, self._stale = self._changed or changed, True
            raise
        self._connected = connected
        if before is not None and (changed or before != connected):
            self._context.frames.forget_removed()
            return LIST, ended
        return (PROGRESS if any(link.arriving for link in links.values()) else None), ended


class SharedRows:
    """Rows of lists, each made once for all pages that show it. Safe from any thread."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._made: OrderedDict[Hashable, tuple[Hashable, float, bytes]] = OrderedDict()

    def rows(self, key: Hashable, stamp: Hashable, make: Callable[[], bytes]) -> bytes:
        """The rows that were made for this key and stamp; made anew for another stamp, or when their ages are old."""
        with self._lock:
            before, now = self._made.get(key), self._monotonic()
            if before is not None and before[0] == stamp and now - before[1] < _AGES:
                return before[2]
            rows = make()
            self._made[key] = stamp, now, rows
            self._made.move_to_end(key)
            while len(self._made) > _MOST_LISTS:
                self._made.popitem(last=False)
            return rows


_AGES = 10.0
"""Seconds for which the shown ages hold."""
_MOST_LISTS = 64
