"""One clinic's gRPC stream at the hub."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import grpc

from thinwire.receiver.transport.ingest import IngestSession
from thinwire.receiver.transport.link_status import RateMeter, SiteLink
from thinwire.receiver.transport.store_calls import StoreCalls
from thinwire.shared.clock import Clock
from thinwire.shared.errors import HubBusy, Retryable, ThinwireError, as_ours
from thinwire.shared.identifiers import Digest
from thinwire.shared.wire.v1 import link_pb2 as wire

log = logging.getLogger(__name__)

NEWS_AGAIN_SECONDS = 5.0
"""Seconds until a stream reads its news again, where the store could not be read."""
_ending = set[asyncio.Task[None]]()
"""Tasks of streams that end: the loop alone would not keep them."""


class SiteStream:
    """One clinic's gRPC stream: its messages, what the hub tells of its own accord, its end. An idle one is one task,
    which waits for a message, and has no timer."""

    __slots__ = (
        *("session", "certificate", "lease", "ended"),
        *("_calls", "_clock", "_meter", "_since", "_seen", "_context", "_on_end", "_superseded", "_refused", "_task"),
        *("_loop", "_turn", "_present", "_timer", "_beside", "_news", "_telling", "_over"),
    )

    def __init__(
        self,
        session: IngestSession,
        certificate: Digest,
        context: Any,
        lease: int,
        clock: Clock,
        calls: StoreCalls,
        on_end: Callable[[], object],
    ) -> None:
        """lease: of `StreamLeases`; 0 for a hub without other replicas."""
        self.session = session
        self.certificate = certificate
        self.lease = lease
        self.ended = asyncio.Event()
        self._calls = calls
        self._clock = clock
        self._meter = RateMeter(clock.monotonic())
        self._since = self._seen = clock.now()
        self._context = context
        self._on_end = on_end
        self._superseded = False
        self._refused: ThinwireError | None = None
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()
        """Of the session, whose calls are made one at a time, and of what they tell the clinic."""
        self._present: asyncio.Future[list[wire.Down]] | None = None
        """The last call of the session. It goes on where its caller is cancelled."""
        self._timer: asyncio.TimerHandle | None = None
        self._beside: set[asyncio.Task[None]] = set()
        self._news: set[Callable[[], list[wire.Down]]] = set()
        self._telling = self._over = False

    @property
    def link(self) -> SiteLink:
        """The present status."""
        rate = self._meter.read(self._clock.monotonic(), self.session.received)
        return SiteLink(self.session.site, True, self._since, self._seen, rate, tuple(self.session.arriving))

    async def run(self) -> None:
        """Runs until the clinic ends it, the link is lost, or a newer stream of the site replaces it."""
        try:
            while (up := await self._context.read()) is not grpc.aio.EOF:
                self._seen = self._clock.now()
                self._rest_no_more()
                await self._receive(up)
                self._rest()
        except asyncio.CancelledError:
            if self._refused is not None and self._task is not None:
                self._task.uncancel()
                raise self._refused from None
            if self._superseded:
                await self._context.abort(grpc.StatusCode.ABORTED, "another stream of this site took over")
            raise
        finally:
            self._over = True
            self._rest_no_more()
            for each in self._beside:
                each.cancel()
            closing = self._loop.create_task(self._close())
            _ending.add(closing)
            closing.add_done_callback(_ending.discard)

    def hear(self, history: bool = False) -> None:
        """The store has something new for the site. history: the store in time, not receipts or requests."""
        self._news.add(self.session.new_history if history else self.session.new_messages)
        if not (self._telling or self._over):
            self._telling = True
            self._do(self._tell())

    def refuse(self, error: ThinwireError) -> None:
        """End this stream with an error; it reads no further message."""
        if self._refused is None and self._task is not None:
            self._refused = error
            self._task.cancel()

    async def supersede(self) -> None:
        """End this stream for a newer one; returns when its received bytes are durable."""
        self._superseded = True
        if self._task is not None:
            self._task.cancel()
        await self.ended.wait()

    async def _receive(self, up: wire.Up) -> None:
        # The others are told busy; what is under way waits, and reads no further message meanwhile.
        patient = up.WhichOneof("message") not in ("hello", "offer")
        async with self._turn:
            if self.session.note(up):
                return
            try:
                await self._answer(self.session.receive, up, patient=patient)
            except HubBusy as error:
                for down in self.session.put_off(up, error):
                    await self._context.write(down)

    async def _tell(self) -> None:
        try:
            while self._news:
                act = self._news.pop()
                async with self._turn:
                    await self._answer(act, patient=True)
        except Retryable as error:
            log.warning("site %s: news is late: %s", self.session.site, error)
            self._news.add(act)
            self._loop.call_later(NEWS_AGAIN_SECONDS, self.hear)
        except Exception as error:  # noqa: BLE001 - as one of the clinic's messages, it ends this stream alone
            self.refuse(as_ours(error))
        finally:
            self._telling = False

    def _rest(self) -> None:
        """Do what is due when no message comes any more."""
        self._rest_no_more()
        if not self._over and (seconds := self.session.due) is not None:
            self._timer = self._loop.call_later(seconds, lambda: self._do(self._tick()))

    def _rest_no_more(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _tick(self) -> None:
        try:
            async with self._turn:
                await self._answer(self.session.tick, patient=True)
            self._rest()
        except Exception as error:  # noqa: BLE001 - as one of the clinic's messages, it ends this stream alone
            self.refuse(as_ours(error))

    def _do(self, act: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(act)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)

    async def _answer(self, act: Callable[..., list[wire.Down]], *arguments: wire.Up, patient: bool) -> None:
        self._present = self._calls.call(act, *arguments, patient=patient)
        for down in await asyncio.shield(self._present):
            await self._context.write(down)

    async def _close(self) -> None:
        try:
            if self._present is not None:
                await asyncio.wait({self._present})
            await self._calls.call(self.session.close, patient=True)
        finally:
            self._on_end()
            self.ended.set()
            log.info("site %s disconnected", self.session.site)
