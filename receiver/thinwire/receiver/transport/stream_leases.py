"""The leases of this replica's streams: a newer stream of a site takes over from an older one of any replica."""

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Set
from typing import Any

from thinwire.receiver.store.streams import Streams
from thinwire.receiver.transport.store_calls import StoreCalls
from thinwire.shared.errors import LinkLost, told
from thinwire.shared.identifiers import SiteName

log = logging.getLogger(__name__)

PATIENCE = 10.0
"""Seconds that a newer stream waits for an older one on another replica to make its bytes durable."""
LOOK_SECONDS = 1.0
"""Seconds between two looks whether the older one has ended, without news of it."""


class StreamLeases:
    """For one event loop. do: runs what goes on after its caller."""

    def __init__(self, streams: Streams, calls: StoreCalls, do: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        self._streams = streams
        self._calls = calls
        self._do = do
        self._open: dict[int, SiteName] = {}
        self._unclosed: dict[int, SiteName] = {}
        """Streams that have ended, and whose rows could not be removed."""
        self._changed: dict[SiteName, asyncio.Event] = {}

    async def take(self, site: SiteName) -> int:
        """The number of a new stream; when this returns, no older one of another replica receives, or it does not
        answer. Raises LinkLost where a newer one has come meanwhile. The row of a stream that does not come about is
        removed."""
        opening = self._calls.call(self._streams.open, site)
        try:
            number = await asyncio.shield(opening)
        except asyncio.CancelledError:
            # The clinic has gone, and the row comes all the same.
            opening.add_done_callback(lambda opened: self._close_late(site, opened))
            raise
        self._open[number] = site
        changed = self._changed[site] = asyncio.Event()
        try:
            until = asyncio.get_running_loop().time() + PATIENCE
            while True:
                changed.clear()
                older, newer = await self._calls.call(self._streams.rivals, site, number)
                if newer:
                    raise LinkLost("another stream of this site took over")
                left = until - asyncio.get_running_loop().time()
                if not older or left <= 0:
                    return number
                try:
                    await asyncio.wait_for(changed.wait(), min(LOOK_SECONDS, left))
                except TimeoutError:
                    continue
        except BaseException:
            self._do(self.release(number))
            raise
        finally:
            if self._changed.get(site) is changed:
                del self._changed[site]

    def _close_late(self, site: SiteName, opened: asyncio.Future[int]) -> None:
        if not opened.cancelled() and opened.exception() is None:
            self._open[opened.result()] = site
            self._do(self.release(opened.result()))

    async def release(self, number: int) -> None:
        """The stream has ended, and what it received is durable. Never raises."""
        if (site := self._open.pop(number, None)) is None:
            return
        ended, self._unclosed = {number: site} | self._unclosed, {}
        try:
            while ended:
                number, site = next(iter(ended.items()))
                living = [each for each, its in self._open.items() if its == site]
                await self._calls.call(self._streams.close, site, number, living, patient=True)
                del ended[number]
        except Exception as error:  # noqa: BLE001 - the next one removes it; another replica waits a few seconds for it
            self._unclosed |= ended
            log.warning("the lease of a stream stays for now: %s", told(error))

    def heard(self, sites: Set[SiteName]) -> None:
        """A stream of these sites has begun or ended on another replica."""
        for site in sites & self._changed.keys():
            self._changed[site].set()

    async def replaced(self, sites: Collection[SiteName] | None) -> dict[SiteName, int]:
        """As `Streams.replaced`."""
        return await self._calls.call(self._streams.replaced, sites, patient=True)

    async def numbers(self) -> set[int]:
        """As `Streams.numbers`."""
        return await self._calls.call(self._streams.numbers, patient=True)
