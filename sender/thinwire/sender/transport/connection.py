"""The uplink's gRPC connection: dialling, streams one after another, errors."""

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Literal

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from thinwire.sender.outbox.outbox import Outbox
from thinwire.sender.outbox.tiers import TierPolicy, month
from thinwire.sender.outbox.usage import Usage
from thinwire.sender.transport import link_status
from thinwire.sender.transport.credentials import Credentials, left_of
from thinwire.sender.transport.link_status import LinkState, LinkStatus
from thinwire.sender.transport.network import network_changes
from thinwire.sender.transport.pace import Measured
from thinwire.sender.transport.session import UplinkSession
from thinwire.sender.transport.tcp import Condition, TcpConnection
from thinwire.sender.transport.tls import Security
from thinwire.shared.clock import Clock
from thinwire.shared.crypto.keys import HUB_NAME, Identity, JoinToken, prove_join
from thinwire.shared.errors import Final, HubBusy, LinkLost, NotEnrolled, ProtocolBroken, Retryable, ThinwireError, told
from thinwire.shared.storage.durable import Disk
from thinwire.shared.storage.status_file import EVERY
from thinwire.shared.wire.chunks import MAX_MESSAGE, VERSION
from thinwire.shared.wire.v1 import link_pb2 as wire
from thinwire.shared.wire.v1.link_pb2_grpc import HubStub

log = logging.getLogger(__name__)

IDLE_SECONDS = 1.0
"""Longest time between two checks for an object that may be sent; a change of the outbox wakes the stream at once."""
POLICY_SECONDS = 5.0
"""Seconds after which the tier policy decides again: it depends on the time and on the data budget."""
REFRESH_SHARE = 5
"""Time between two readings of a changed outbox, as a multiple of the processor time that the last took. Not of its
duration: while a graph is made, which takes all cores, that may be tenfold, and the graph is to be sent next."""
LEAST_PAUSE, FIRST_PAUSE, LONGEST_PAUSE = 0.1, 0.5, 60.0
"""Seconds between two attempts to dial (back-off): at least, at most at first, and at most."""

_WRITE_FAILED = (grpc.aio.AioRpcError, asyncio.InvalidStateError)
"""gRPC's messages for a write to a call that has ended."""
_STATUS_SECONDS = 5.0
_RENEW_SECONDS = 3600.0
"""Seconds between two looks whether the certificate is to be renewed."""
_GUARD_SECONDS, _LONG_SILENCE = 0.25, 10.0
_ASK_SECONDS = 1.5
_DIAL_SECONDS = 2.0
"""Seconds for one attempt to connect, and two round trips more."""
_UNKNOWN_ROUND_TRIP = 1.5

_OPTIONS = (
    ("grpc.ssl_target_name_override", HUB_NAME),
    ("grpc.default_authority", HUB_NAME),
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    # An idle link is pinged after two minutes, before the address translation of a mobile network times out; 180
    # bytes. Without an answer for as long again it counts as lost.
    ("grpc.keepalive_time_ms", 120_000),
    ("grpc.keepalive_timeout_ms", 120_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # TLS may take this long on a slow link; the back-off is in this module, not in gRPC.
    ("grpc.min_reconnect_backoff_ms", 120_000),
    # The downlink carries little: gRPC need not measure the link with its own pings.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)
_ERROR_OF = {
    grpc.StatusCode.INVALID_ARGUMENT: ProtocolBroken,
    grpc.StatusCode.UNIMPLEMENTED: ProtocolBroken,
    grpc.StatusCode.PERMISSION_DENIED: NotEnrolled,
    grpc.StatusCode.UNAUTHENTICATED: NotEnrolled,
    grpc.StatusCode.FAILED_PRECONDITION: Final,
    grpc.StatusCode.RESOURCE_EXHAUSTED: HubBusy,
}


@dataclass(frozen=True)
class HubAddress:
    """The hub's address and this clinic's credentials."""

    target: str
    """HOST:PORT."""
    authority_pem: bytes
    """The hub's own certificate authority, the only one that is trusted."""
    identity: Identity


def dial(address: HubAddress) -> grpc.aio.Channel:
    """A channel to the hub, mutual TLS by gRPC; connects when it is first used. Close it."""
    credentials = grpc.ssl_channel_credentials(
        address.authority_pem, address.identity.key_pem, address.identity.certificate_pem
    )
    return grpc.aio.secure_channel(address.target, credentials, options=_OPTIONS)


def dial_tcp(via: str) -> grpc.aio.Channel:
    """A channel through a `TcpConnection`, which speaks TLS for it. via: the target of its `relay`. Close it."""
    return grpc.aio.insecure_channel(via, options=_OPTIONS)


def error_of(code: grpc.StatusCode, details: str | None, welcomed: bool = True) -> ThinwireError:
    """The error for a gRPC status of the hub or of gRPC. welcomed: whether the hub had answered on this connection."""
    kind = _ERROR_OF.get(code, LinkLost)
    # gRPC reports INTERNAL for a socket that broke during a write.
    reason = "the connection broke" if code is grpc.StatusCode.INTERNAL else details or code.name
    event = "the link was lost" if welcomed else "the hub cannot be reached"
    return kind(f"{event}: {reason}" if kind is LinkLost else f"the hub refuses: {reason}")


async def join(target: str, token: JoinToken, request: bytes, signing: Ed25519PrivateKey) -> wire.JoinReply:
    """Enrol this clinic. request: certificate request, PEM; signing: the clinic's signing key.

    Raises NotEnrolled, LinkLost, ProtocolBroken. May be repeated with the same request and key until it succeeds.
    """
    asked = wire.JoinRequest(
        version=VERSION,
        certificate_request=request,
        signing_key=signing.public_key().public_bytes_raw(),
        proof=prove_join(signing, token.id, request),
        renews=True,
    )
    async with dial(HubAddress(target, token.authority_pem, token.bootstrap)) as channel:
        try:
            reply: wire.JoinReply = await HubStub(channel).Join(asked)
            return reply
        except grpc.aio.AioRpcError as error:
            raise error_of(error.code(), error.details(), welcomed=False) from error


def pause_after(failures: int, uniform: float) -> float:
    """Seconds until the next attempt: any part of a time that doubles with each failure up to a limit (full jitter), so
    that the clinics of a hub that was away come back evenly. uniform: a random number of [0, 1)."""
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures - 1, 16))
    return LEAST_PAUSE + (longest - LEAST_PAUSE) * uniform


class Uplink:
    """Keeps one stream to the hub, and opens a new one after each failure, until it is stopped.

    on_change: called with each new status, often; keep it quick. uniform: random numbers of [0, 1) for jitter.
    """

    def __init__(
        self,
        outbox: Outbox,
        address: HubAddress,
        clock: Clock,
        disk: Disk,
        policy: TierPolicy | None = None,
        on_change: Callable[[LinkStatus], None] = lambda _: None,
        uniform: Callable[[], float] = random.random,
        credentials: Credentials | None = None,
    ) -> None:
        """credentials: renews the certificate of `address` before it ends; None for none."""
        self.status = LinkStatus(LinkState.STOPPED)
        self._outbox = outbox
        self._address = address
        self._clock = clock
        self._disk = disk
        self._policy = policy or TierPolicy()
        self._changes = outbox.database.changes()
        self._usage = Usage(outbox.database, disk)
        self._on_change = on_change
        self._uniform = uniform
        self._wake = asyncio.Event()
        self._network = asyncio.Event()
        self._failures = 0
        self._spare: TcpConnection | None = None
        self._credentials = credentials
        self._use(address.identity)
        self._before: Measured | None = link_status.read_status(outbox.folder, clock.now()).measured
        self._counted = 0, 0
        self._unanswered = ""

    async def run(self, stop: asyncio.Event) -> None:
        """Runs until `stop`. The caller holds `outbox.own_link`. Errors of the link end a stream, not this loop."""
        self._changes.close()  # an error may have ended the loop before
        self._changes = self._outbox.database.changes()
        stopped = asyncio.ensure_future(stop.wait())
        try:
            with network_changes(self._network.set):
                while not stop.is_set():
                    self._report(LinkStatus(LinkState.CONNECTING))
                    stream = asyncio.ensure_future(self._stream())
                    await asyncio.wait({stream, stopped}, return_when=asyncio.FIRST_COMPLETED)
                    if stop.is_set():
                        stream.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await self._back_off(self._explained(await _reason_of(stream)), stopped)
        finally:
            stopped.cancel()
            self._changes.close()
            self._report(LinkStatus(LinkState.STOPPED))
            link_status.write_status(self._outbox.folder, self._known(self.status), self._clock.now())

    def wake(self) -> None:
        """The outbox has a new part. To be called in the event loop's thread."""
        self._wake.set()

    def _use(self, identity: Identity) -> None:
        """Connect with this certificate from now on."""
        self._identity = identity
        self._trusted = self._outbox.hub_keys.authorities_pem() or self._address.authority_pem
        self._security = Security(self._trusted, identity)

    def _explained(self, reason: ThinwireError) -> ThinwireError:
        """The reason of a stream's end, in view of the certificate: of one that has ended TLS tells little."""
        if self._credentials is None or isinstance(reason, _Renewed):
            return reason
        if isinstance(reason, NotEnrolled):
            for other in self._credentials.others(self._identity)[:1]:
                self._use(other)
        ended = -left_of(self._identity.certificate_pem, self._clock.now())
        if ended > timedelta(0) and isinstance(reason, LinkLost | NotEnrolled):
            return NotEnrolled(
                f"the clinic's certificate ended {ended.days} days ago: ask the hub for a new token, and join again "
                "with this data folder; its studies wait in it"
            )
        return reason

    async def _renew(self, hub: HubStub, session: UplinkSession, credentials: Credentials) -> None:
        """Ask for the next certificate when it is time, and end the stream for one with it. A failure ends nothing: the
        present certificate is valid for long."""
        while True:
            if session.welcomed and credentials.is_due(self._identity):
                try:
                    request, proof = await asyncio.to_thread(credentials.request, self._identity)
                    asked = wire.RenewRequest(version=VERSION, certificate_request=request, proof=proof)
                    reply: wire.RenewReply = await hub.Renew(asked)
                    self._use(await asyncio.to_thread(credentials.take, reply.certificate, self._identity))
                except grpc.aio.AioRpcError as error:
                    log.warning("the certificate is not renewed: %s", error.details() or error.code().name)
                except (ThinwireError, OSError) as error:
                    log.warning("the certificate is not renewed: %s", told(error))
                else:
                    raise _Renewed("the clinic's certificate is renewed: it connects with the new one")
            await asyncio.sleep(_RENEW_SECONDS if session.welcomed else _STATUS_SECONDS)

    async def _back_off(self, reason: ThinwireError, stopped: "asyncio.Task[Literal[True]]") -> None:
        """Wait until the next attempt; no wait if the hub answers already, a shorter one if the network changes."""
        if self._spare is not None:
            log.info("%s", reason)
            return
        pause = self._pause()
        log.info("%s; next attempt in %.1f s", reason, pause)
        self._report(LinkStatus(LinkState.WAITING, str(reason)))
        self._network.clear()
        changed: asyncio.Task[Literal[True]] = asyncio.ensure_future(self._network.wait())
        await asyncio.wait({stopped, changed}, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
        changed.cancel()

    def _pause(self) -> float:
        self._failures += 1
        return pause_after(self._failures, self._uniform())

    async def _stream(self) -> ThinwireError:
        """One stream from dialling to its end; returns the reason of the end."""
        try:
            tcp, self._spare = self._spare or await self._reach(), None
        except ThinwireError as error:
            return error
        if self._outbox.hub_keys.authorities_pem() not in (None, self._trusted):
            self._use(self._identity)  # the last stream brought newer keys
        self._counted = 0, 0
        session = UplinkSession(self._outbox, self._clock, self._disk, self._policy, self._used, self._before)
        try:
            async with tcp.relay(self._security) as via, dial_tcp(via) as channel:
                return await self._converse(HubStub(channel), session, tcp)
        finally:
            self._before = session.pace.measured
            await tcp.close(abruptly=self._spare is not None)
            self._count(tcp)
            self._usage.write_exact()

    async def _converse(self, hub: HubStub, session: UplinkSession, tcp: TcpConnection) -> ThinwireError:
        answers: deque[wire.Up] = deque()
        call = hub.Connect()
        reading = asyncio.ensure_future(self._read(call, session, answers))
        writing = asyncio.ensure_future(self._write(call, session, tcp, answers))
        beside = [asyncio.ensure_future(self._tick(session, tcp)), asyncio.ensure_future(self._guard(session, tcp))]
        if self._credentials is not None:
            beside.append(asyncio.ensure_future(self._renew(hub, session, self._credentials)))
        try:
            await asyncio.wait({reading, writing, *beside}, return_when=asyncio.FIRST_COMPLETED)
            if writing.done() and isinstance(writing.exception(), _WRITE_FAILED):
                # The reading task gets the reason.
                await asyncio.wait({reading}, timeout=_STATUS_SECONDS)
            for task in (reading, writing, *beside):
                if task.done():
                    await task
                    break
            return LinkLost("the hub ended the stream")
        except grpc.aio.AioRpcError as error:
            told = error_of(error.code(), error.details(), session.welcomed)
            return tcp.trouble if tcp.trouble is not None and isinstance(told, LinkLost) else told
        except asyncio.InvalidStateError:
            return tcp.trouble or LinkLost("the link was lost")
        except ThinwireError as error:
            return error
        finally:
            call.cancel()
            for task in (reading, writing, *beside):
                task.cancel()
            await asyncio.gather(reading, writing, *beside, return_exceptions=True)

    async def _read(self, call: "grpc.aio.StreamStreamCall", session: UplinkSession, answers: deque[wire.Up]) -> None:
        async for down in call:
            answers.extend(session.receive(down))
            self._failures = 0
            self._wake.set()
            self._report_session(session)

    async def _write(
        self, call: "grpc.aio.StreamStreamCall", session: UplinkSession, tcp: TcpConnection, answers: deque[wire.Up]
    ) -> None:
        await call.write(session.hello())
        refreshed, next_refresh, changed = self._clock.monotonic(), 0.0, False
        while True:
            now = self._clock.monotonic()
            changed |= self._changes.seen()
            # The policy may let another object go when time passes.
            if (changed and now >= next_refresh) or now - refreshed >= POLICY_SECONDS:
                began = time.thread_time()
                session.refresh()
                refreshed, changed = now, False
                next_refresh = self._clock.monotonic() + REFRESH_SHARE * (time.thread_time() - began)
            self._wake.clear()
            if (flow := tcp.flow) is not None:
                session.pace.heard(flow)
            up = answers.popleft() if answers else session.next()
            if up is not None:
                tcp.expect(up.ByteSize())
                await call.write(up)
                self._report_session(session)
                continue
            with contextlib.suppress(TimeoutError):
                pause = max(0.0, next_refresh - now) if changed else IDLE_SECONDS
                await asyncio.wait_for(self._wake.wait(), min(pause, session.pace.wait or pause))

    async def _tick(self, session: UplinkSession, tcp: TcpConnection) -> None:
        """Once a second: count bytes, report the status, and check for a silent hub."""
        while True:
            await asyncio.sleep(EVERY)
            self._count(tcp)
            pace = session.pace
            if pace.rate is not None and pace.round_trip is not None and not pace.starting:
                tcp.suit(pace.rate, pace.round_trip)
            self._report_session(session)
            link_status.write_status(self._outbox.folder, self._known(self.status), self._clock.now())
            if session.stalled:
                raise LinkLost("the hub has been silent for too long")

    async def _guard(self, session: UplinkSession, tcp: TcpConnection) -> None:
        """Ends a stream whose connection is dead as soon as the hub can be reached by a new one.

        After an outage TCP stays silent for up to as long again, at either end. Missing acknowledgements show that the
        network is silent, independent of the hub; if no data is outstanding and an answer is due, TCP sends keepalive
        probes. So neither a busy hub nor a slow link is disconnected.
        """
        since: float | None = None
        while True:
            await asyncio.sleep(_GUARD_SECONDS)
            now, condition = self._clock.monotonic(), tcp.condition
            tcp.ask(session.pace.in_flight > 0 and not condition.unacknowledged and condition.silent > _ASK_SECONDS)
            if not condition.unacknowledged and not tcp.asking:
                since = None
                continue
            since = now if since is None else since
            if not silent(condition, now - since):
                continue
            heard = session.moved
            with contextlib.suppress(LinkLost):
                spare = await self._reach(condition.round_trip)
                if tcp.condition.silent < _LONG_SILENCE:
                    # The network may have returned just now, with retransmissions of the old connection in progress.
                    # After a long silence TCP waits as long again.
                    await asyncio.sleep(_GUARD_SECONDS + condition.round_trip / 2)
                if session.moved == heard and (session.pace.in_flight or tcp.condition.unacknowledged):
                    self._spare = spare
                    raise _Dead("the connection died; the hub answers on a new one")
                await spare.close(abruptly=True)

    async def _reach(self, round_trip: float = 0.0) -> TcpConnection:
        """A connection to the hub, tried about every second without an answer, so that a link that returns is found at
        once. Raises LinkLost if the connection is refused, or if this machine has no network."""
        began = self._clock.monotonic()
        attempts: set[asyncio.Task[TcpConnection]] = set()
        patience = _DIAL_SECONDS + 2 * max(round_trip, self._before.round_trip if self._before else _UNKNOWN_ROUND_TRIP)
        try:
            while True:
                attempts.add(asyncio.ensure_future(TcpConnection.dial(self._address.target, patience)))
                every = min(max(1.0, (self._clock.monotonic() - began) / 60), 5.0)
                pause = every * (0.75 + self._uniform() / 2)
                done, _ = await asyncio.wait(attempts, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                for attempt in done:
                    try:
                        tcp = await attempt
                    except LinkLost as error:
                        attempts.discard(attempt)
                        self._unanswered = str(error)
                        self._report(replace(self.status, reason=self._unanswered))
                    except OSError as error:
                        raise LinkLost(f"the hub cannot be reached: {error.strerror or error}") from error
                    else:
                        attempts.discard(attempt)
                        return tcp
        finally:
            self._unanswered = ""
            for attempt in attempts:
                attempt.cancel()
            for late in await asyncio.gather(*attempts, return_exceptions=True):
                if isinstance(late, TcpConnection):
                    await late.close(abruptly=True)

    def _count(self, tcp: TcpConnection) -> None:
        condition = tcp.condition
        (up, down), self._counted = self._counted, (condition.up, condition.down)
        self._usage.add(self._month, condition.up - up, condition.down - down)

    def _used(self) -> int:
        return self._usage.used(self._month)

    @property
    def _month(self) -> str:
        return month(self._policy.local(self._clock.now()))

    def _report_session(self, session: UplinkSession) -> None:
        state = LinkState.CONNECTED if session.welcomed else LinkState.CONNECTING
        reason = self._unanswered or next((pause.reason for pause in session.pauses.values()), "")
        known = session.pace.measured
        rate, round_trip = (None, None) if known is None else (known.rate, known.round_trip)
        self._report(LinkStatus(state, reason, rate, round_trip, session.transfers))

    def _known(self, status: LinkStatus) -> LinkStatus:
        """The status, with the last measurement if it has none."""
        if status.measured is not None or self._before is None:
            return status
        return replace(status, rate=self._before.rate, round_trip=self._before.round_trip)

    def _report(self, status: LinkStatus) -> None:
        if status != self.status:
            told, self.status = self.status, status
            self._on_change(status)
            if told.state is not status.state:
                link_status.write_status(self._outbox.folder, self._known(status), self._clock.now())


async def _reason_of(stream: "asyncio.Task[ThinwireError]") -> ThinwireError:
    """Why a stream ended. An error that nobody foresaw, too, ends the stream alone."""
    try:
        return await stream
    except Exception as error:  # noqa: BLE001 - see above
        log.error("the stream ended: %s", told(error))
        return LinkLost(f"the link was lost: {told(error)}")


class _Renewed(Retryable):
    """The stream ends for one with the next certificate."""

    code = LinkLost.code
    remedy = LinkLost.remedy


class _Dead(Retryable):
    """The connection is dead, but the link is not: another connection works."""

    code = LinkLost.code
    remedy = LinkLost.remedy


def silent(condition: Condition, waited: float) -> bool:
    """Whether TCP has been without an acknowledgement for longer than a packet loss explains. waited: seconds since
    packets were sent without one, or since keepalive probes began."""
    return min(condition.silent, waited) > max(_ASK_SECONDS + 1.0, 1.0 + 3 * condition.round_trip)
