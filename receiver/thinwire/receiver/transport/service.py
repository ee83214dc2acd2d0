"""The hub's gRPC server: authentication of callers, one session for each site. Protocol: docs/wire-protocol.md."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterable, Set
from dataclasses import replace
from typing import Any

import grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH_NAME
from grpc_health.v1.health import aio as health
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha.reflection import SERVICE_NAME as REFLECTION_NAME
from grpc_reflection.v1alpha.reflection import enable_server_reflection

from thinwire.receiver.config import LinkLimits
from thinwire.receiver.store.history import HISTORY
from thinwire.receiver.store.news import ACCESS, News
from thinwire.receiver.transport.front import Front
from thinwire.receiver.transport.inbox import Inbox
from thinwire.receiver.transport.ingest import IngestSession, status_of, stream_refusal
from thinwire.receiver.transport.ingest_store import IngestStore
from thinwire.receiver.transport.limits import SiteLimits
from thinwire.receiver.transport.link_status import RateMeter, SiteLink
from thinwire.receiver.transport.store_calls import StoreCalls
from thinwire.shared.clock import Clock
from thinwire.shared.crypto.keys import Identity, JoinTokenId, Site, fingerprint, peer_identity
from thinwire.shared.errors import HubBusy, NotEnrolled, ProtocolBroken, Retryable, ThinwireError, as_ours, told
from thinwire.shared.identifiers import Digest, SiteName
from thinwire.shared.listening.guard import ListenerGuard, Listeners
from thinwire.shared.storage.durable import Disk
from thinwire.shared.wire.chunks import MAX_MESSAGE, VERSION
from thinwire.shared.wire.v1 import link_pb2 as wire
from thinwire.shared.wire.v1.link_pb2_grpc import HubServicer, add_HubServicer_to_server

log = logging.getLogger(__name__)

_SERVICE = wire.DESCRIPTOR.services_by_name["Hub"].full_name
CHECK_AGAIN_SECONDS = 1.0
"""Seconds until the access of open streams is checked again, where the store could not be read."""
NEWS_AGAIN_SECONDS = 5.0
"""Seconds until a stream reads its news again, where the store could not be read."""
DRAIN_SECONDS = 10.0
"""Seconds for a clinic to end its session after a refusal."""
_LONGEST_REQUEST = 4096
_SIGNING_KEY_BYTES = 32
DESCRIPTORS = 3
"""Open files of one clinic's connection: the clinic's, and both ends of the one to gRPC."""

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    # A clinic has one stream, and may ask for health beside it.
    ("grpc.max_concurrent_streams", 16),
    # A silent clinic is pinged rarely: it pings more often, and the hub does not wait for the answer.
    ("grpc.keepalive_time_ms", 600_000),
    ("grpc.keepalive_timeout_ms", 120_000),
    # The guard's time, in [limits.link], ends a handshake earlier.
    ("grpc.server_handshake_timeout_ms", 3_600_000),
    # The clinic limits the bytes in flight: gRPC neither limits them nor measures with its own pings.
    ("grpc.http2.lookahead_bytes", 8 << 20),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)


class HubServer(HubServicer):
    """inbox, store: shared by all streams. identity: the server's certificate and key. authority_pem: the hub's own
    authority, whose certificates alone may call, health and reflection included. reflects: whether the reflection
    service is offered. guard: of the port for clinics."""

    def __init__(
        self,
        store: IngestStore,
        inbox: Inbox,
        identity: Identity,
        authority_pem: bytes,
        clock: Clock,
        disk: Disk,
        news: News,
        limits: SiteLimits | None = None,
        reflects: bool = False,
        guard: ListenerGuard | None = None,
    ) -> None:
        self._guard = guard or Listeners().guard("link", LinkLimits(), DESCRIPTORS)
        self._front: Front | None = None
        self._store = store
        self._inbox = inbox
        self._clock = clock
        self._disk = disk
        self._limits = limits
        self._reflects = reflects
        self._health = health.HealthServicer()
        self._credentials = grpc.ssl_server_credentials(
            [(identity.key_pem, identity.certificate_pem)], authority_pem, require_client_auth=True
        )
        self._subscribe = news.subscribe
        self._unsubscribe: Callable[[], None] = _nothing
        self._checking: asyncio.Task[None] | None = None
        self._unsure = False
        """Whether the access of open streams is to be checked."""
        self._calls: StoreCalls | None = None
        self._streams: dict[SiteName, SiteStream] = {}
        self._past: dict[SiteName, SiteLink] = {}
        self._server: grpc.aio.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self, listen: str) -> int:
        """Listen on HOST:PORT; returns the port, which the system chooses for 0. Raises BadConfiguration."""
        self._loop = asyncio.get_running_loop()
        self._calls = StoreCalls()
        self._unsubscribe = self._subscribe(self._heard)
        self._front = Front(self._guard, listen)
        self._server = grpc.aio.server(options=_OPTIONS)
        add_HubServicer_to_server(self, self._server)
        add_HealthServicer_to_server(self._health, self._server)
        if self._reflects:
            enable_server_reflection((_SERVICE, HEALTH_NAME, REFLECTION_NAME), self._server)
        self._server.add_secure_port(self._front.address, self._credentials)
        await self._server.start()
        await self._front.start()
        for name in ("", _SERVICE):
            await self._health.set(name, HealthCheckResponse.SERVING)
        return self._front.port

    async def stop(self, grace: float = 1.0) -> None:
        """End every session; received bytes are durable when this returns. grace: seconds for calls to end."""
        streams = list(self._streams.values())
        self._unsubscribe()
        if self._checking is not None:
            self._checking.cancel()
        await self._health.enter_graceful_shutdown()
        if self._server is not None:
            await self._server.stop(grace)
        if self._front is not None:
            await self._front.stop()
        for stream in streams:
            await stream.ended.wait()
        if self._calls is not None:
            self._calls.close()

    @property
    def sites(self) -> list[SiteName]:
        """The connected sites."""
        return sorted(self._streams)

    def links(self, before: Iterable[SiteLink] = ()) -> list[SiteLink]:
        """Every present or past link, by site. before: those of an earlier process."""
        for link in before:
            self._past.setdefault(link.site, replace(link, connected=False, rate=0.0, arriving=()))
        now = {site: stream.link for site, stream in self._streams.items()}
        return [each for _, each in sorted({**self._past, **now}.items())]

    def _end(self, site: SiteName) -> None:
        link = self._streams.pop(site).link
        self._past[site] = replace(link, connected=False, since=self._clock.now(), rate=0.0, arriving=())

    def _heard(self, topics: Set[str], _by_others: bool) -> None:
        if topics and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._tell, topics)

    def _tell(self, topics: Set[str]) -> None:
        """Wake the streams that these news are for."""
        for site in topics & self._streams.keys():
            self._streams[SiteName(site)].hear()
        if HISTORY in topics:
            for stream in self._streams.values():
                stream.hear(history=True)
        if ACCESS in topics:
            self._unsure = True
            if self._checking is None or self._checking.done():
                self._checking = asyncio.create_task(self._check_access())

    async def _check_access(self) -> None:
        """End the streams of sites whose access is revoked, or which joined anew, by any process."""
        while self._unsure:
            self._unsure = False
            streams = dict(self._streams)
            certificates = {site: stream.certificate for site, stream in streams.items()}
            try:
                for site, refusal in (await asyncio.to_thread(self._store.refused, certificates)).items():
                    streams[site].refuse(refusal)
            except Exception as error:  # noqa: BLE001 - every revocation depends on this
                log.error("open streams are not checked: %s", told(error))
                self._unsure = True
                await asyncio.sleep(CHECK_AGAIN_SECONDS)

    async def Join(self, request: wire.JoinRequest, context: Any) -> wire.JoinReply:
        assert self._calls is not None
        try:
            peer = peer_identity(_certificate(context))
            if not isinstance(peer, JoinTokenId):
                raise NotEnrolled("enrolment needs a join token")
            if request.version != VERSION:
                raise ProtocolBroken(f"the clinic speaks version {request.version}, the hub version {VERSION}")
            if len(request.certificate_request) > _LONGEST_REQUEST or len(request.signing_key) != _SIGNING_KEY_BYTES:
                raise ProtocolBroken("the join request is too large")
            if not request.proof:
                raise ProtocolBroken("the clinic's program does not prove that it has its signing key")
            asked = request.certificate_request, request.signing_key, request.proof, request.renews
            joined = await self._calls.call(self._store.join, peer, *asked)
        except Exception as error:  # noqa: BLE001 - gRPC would tell the clinic the words of any other
            log.warning("a clinic could not join: %s", told(error))
            await context.abort(status_of(as_ours(error)), str(as_ours(error)))
        log.info("site %s joined", joined.site)
        return wire.JoinReply(
            certificate=joined.certificate_pem,
            sealing_key=joined.sealing_key,
            signing_key=joined.signing_key,
            site=joined.site,
        )

    async def Renew(self, request: wire.RenewRequest, context: Any) -> wire.RenewReply:
        assert self._calls is not None
        try:
            present = _certificate(context)
            peer = peer_identity(present)
            if not isinstance(peer, Site):
                raise NotEnrolled("a join token allows only enrolment")
            if request.version != VERSION or len(request.certificate_request) > _LONGEST_REQUEST:
                raise ProtocolBroken("the request for the next certificate is of another version, or too large")
            asked = fingerprint(present), request.certificate_request, request.proof
            given = await self._calls.call(self._store.renew, peer.name, *asked)
        except Exception as error:  # noqa: BLE001 - gRPC would tell the clinic the words of any other
            log.warning("a clinic has no next certificate: %s", told(error))
            await context.abort(status_of(as_ours(error)), str(as_ours(error)))
        return wire.RenewReply(certificate=given)

    async def Connect(self, requests: Any, context: Any) -> None:
        del requests  # messages are read from the context, one at a time
        assert self._front is not None
        assert self._calls is not None
        try:
            presented = _certificate(context)
            peer, certificate = peer_identity(presented), fingerprint(presented)
            if not isinstance(peer, Site):
                raise NotEnrolled("a join token allows only enrolment")
            await self._calls.call(self._store.connect, peer.name, presented)
            self._front.prove(context.peer())
            while before := self._streams.get(peer.name):
                # The clinic dialled again before its old connection was found dead.
                await before.supersede()
            session = IngestSession(peer.name, self._inbox, self._store, self._clock, self._disk, self._limits)
            stream = self._streams[peer.name] = SiteStream(
                session, certificate, context, self._clock, self._calls, lambda: self._end(peer.name)
            )
            log.info("site %s connected", peer.name)
            await stream.run()
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - gRPC would tell the clinic the words of any other
            log.warning("a stream ends: %s", told(error))
            ours = as_ours(error)
            # A clinic that is writing when the status arrives does not read it, so the reason is sent first.
            with contextlib.suppress(TimeoutError):
                # Not for longer: a clinic that does not read keeps no stream open.
                async with asyncio.timeout(DRAIN_SECONDS):
                    await context.write(stream_refusal(ours))
                    await asyncio.sleep(DRAIN_SECONDS)
            await context.abort(status_of(ours), str(ours))
        finally:
            self._front.doubt(context.peer())


class SiteStream:
    """One clinic's gRPC stream: its messages, what the hub tells of its own accord, its end. An idle one is one task,
    which waits for a message, and has no timer."""

    __slots__ = (
        *("session", "certificate", "ended", "_calls", "_clock", "_meter", "_since", "_seen", "_context", "_on_end"),
        *(
            "_superseded",
            "_refused",
            "_task",
            "_loop",
            "_turn",
            "_present",
            "_timer",
            "_beside",
            "_news",
            "_telling",
            "_over",
        ),
    )

    def __init__(
        self,
        session: IngestSession,
        certificate: Digest,
        context: Any,
        clock: Clock,
        calls: StoreCalls,
        on_end: Callable[[], object],
    ) -> None:
        self.session = session
        self.certificate = certificate
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
            _CLOSING.add(closing)
            closing.add_done_callback(_CLOSING.discard)

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


_CLOSING: set[asyncio.Task[None]] = set()
"""Tasks of streams that end: the loop alone would not keep them."""


def _nothing() -> None:
    """Not started."""


def _certificate(context: Any) -> bytes:
    """The caller's certificate, PEM, verified by TLS; empty if there is none."""
    return next(iter(context.auth_context().get("x509_pem_cert", ())), b"")
