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
from thinwire.receiver.store.streams import Streams, of_stream
from thinwire.receiver.transport import store_calls
from thinwire.receiver.transport.front import Front
from thinwire.receiver.transport.inbox import Inbox
from thinwire.receiver.transport.ingest import IngestSession, status_of, stream_refusal
from thinwire.receiver.transport.ingest_store import IngestStore
from thinwire.receiver.transport.limits import SiteLimits
from thinwire.receiver.transport.link_status import SiteLink
from thinwire.receiver.transport.site_stream import SiteStream
from thinwire.receiver.transport.store_calls import StoreCalls
from thinwire.receiver.transport.stream_leases import StreamLeases
from thinwire.shared.clock import Clock
from thinwire.shared.crypto.keys import Identity, JoinTokenId, Site, fingerprint, peer_identity
from thinwire.shared.errors import LinkLost, NotEnrolled, ProtocolBroken, as_ours, told
from thinwire.shared.identifiers import SiteName
from thinwire.shared.listening.guard import ListenerGuard, Listeners
from thinwire.shared.storage.durable import Disk
from thinwire.shared.wire.chunks import MAX_MESSAGE, VERSION
from thinwire.shared.wire.v1 import link_pb2 as wire
from thinwire.shared.wire.v1.link_pb2_grpc import HubServicer, add_HubServicer_to_server

log = logging.getLogger(__name__)

_SERVICE = wire.DESCRIPTOR.services_by_name["Hub"].full_name
CHECK_AGAIN_SECONDS = 1.0
"""Seconds until the access of open streams is checked again, where the store could not be read."""
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
    authorities, whose certificates alone may call, health and reflection included. reflects: whether the reflection
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
        streams: Streams | None = None,
    ) -> None:
        """streams: those of all replicas; None for a hub without others."""
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
        self._of_replicas = streams
        self._leases: StreamLeases | None = None
        self._doing = set[asyncio.Task[None]]()
        self._streams: dict[SiteName, SiteStream] = {}
        self._past: dict[SiteName, SiteLink] = {}
        self._server: grpc.aio.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self, listen: str) -> int:
        """Listen on HOST:PORT; returns the port, which the system chooses for 0. Raises BadConfiguration."""
        self._loop = asyncio.get_running_loop()
        self._calls = StoreCalls(store_calls.THREADS, store_calls.STUCK_SECONDS)
        if self._of_replicas is not None:
            self._leases = StreamLeases(self._of_replicas, self._calls, self._do)
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
        await self.set_serving(True)
        return self._front.port

    async def set_serving(self, serves: bool) -> None:
        """Set gRPC health; "not serving", as when the disk is full, ends no stream."""
        status = HealthCheckResponse.SERVING if serves else HealthCheckResponse.NOT_SERVING
        for name in ("", _SERVICE):
            await self._health.set(name, status)

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
        while self._doing:
            await asyncio.wait(self._doing)
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

    async def _supersede(self, site: SiteName, lease: int = 0) -> None:
        """End the open stream of a site: the clinic dialled again before its old connection was found dead. Raises
        LinkLost where that stream has a newer lease."""
        while before := self._streams.get(site):
            if lease and before.lease > lease:
                raise LinkLost("another stream of this site took over")
            await before.supersede()

    def _end(self, stream: SiteStream) -> None:
        site = stream.session.site
        if self._streams.get(site) is stream:
            del self._streams[site]
        self._past[site] = replace(stream.link, connected=False, since=self._clock.now(), rate=0.0, arriving=())
        self._release(stream.lease)

    def _release(self, lease: int) -> None:
        if self._leases is not None:
            self._do(self._leases.release(lease))

    def _heard(self, topics: Set[str], _by_others: bool) -> None:
        if topics and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._tell, topics)

    def _tell(self, topics: Set[str]) -> None:
        """Wake the streams that these news are for."""
        for topic in topics & self._streams.keys():
            self._streams[SiteName(topic)].hear()
        if HISTORY in topics:
            for stream in self._streams.values():
                stream.hear(history=True)
        if self._leases is not None and (changed := {site for each in topics if (site := of_stream(each))}):
            self._leases.heard(changed)
            self._check_replaced(changed & self._streams.keys())
        if ACCESS in topics:
            self._check_all()

    def _do(self, act: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(act)
        self._doing.add(task)
        task.add_done_callback(self._doing.discard)

    def check_replaced(self) -> None:
        """End every stream whose site has a newer one on another replica, or which the others do not know."""
        self._check_replaced(None)

    def _check_replaced(self, sites: Set[SiteName] | None) -> None:
        if self._leases is not None and (sites or sites is None):
            self._do(self._end_replaced(self._leases, sites))

    async def _end_replaced(self, leases: StreamLeases, sites: Set[SiteName] | None) -> None:
        try:
            for site, number in (await leases.replaced(sites)).items():
                stream = self._streams.get(site)
                if stream is not None and stream.lease < number:
                    await stream.supersede()
            if sites is None:
                await self._end_unlisted(leases)
        except Exception as error:  # noqa: BLE001 - looked at again with the next news, and every half minute
            log.error("streams of other replicas are not checked: %s", told(error))

    async def _end_unlisted(self, leases: StreamLeases) -> None:
        """End the streams without a row, of which no other replica knows: this one was taken for dead."""
        before = dict(self._streams)
        listed = await leases.numbers()
        for site, stream in before.items():
            if stream.lease not in listed and self._streams.get(site) is stream:
                await stream.supersede()

    def _check_all(self) -> None:
        self._unsure = True
        if self._checking is None or self._checking.done():
            self._checking = asyncio.create_task(self._check_access())

    async def _check_new(self, stream: SiteStream, calls: StoreCalls) -> None:
        """A revocation that came while the stream was being opened found no stream."""
        site = stream.session.site
        try:
            refused = await calls.call(self._store.refused, {site: stream.certificate}, patient=True)
        except Exception as error:  # noqa: BLE001 - looked at again with all others
            log.error("a new stream is not checked: %s", told(error))
            self._check_all()
            return
        if site in refused and self._streams.get(site) is stream:
            stream.refuse(refused[site])

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
            await self._supersede(peer.name)
            lease = 0 if self._leases is None else await self._leases.take(peer.name)
            try:
                await self._supersede(peer.name, lease)
                session = IngestSession(peer.name, self._inbox, self._store, self._clock, self._disk, self._limits)
                stream = SiteStream(
                    session, certificate, context, lease, self._clock, self._calls, lambda: self._end(stream)
                )
            except BaseException:
                self._release(lease)
                raise
            self._streams[peer.name] = stream
            self._do(self._check_new(stream, self._calls))
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


def _nothing() -> None:
    """Not started."""


def _certificate(context: Any) -> bytes:
    """The caller's certificate, PEM, verified by TLS; empty if there is none."""
    return next(iter(context.auth_context().get("x509_pem_cert", ())), b"")
