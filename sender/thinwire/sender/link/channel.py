"""gRPC beneath the uplink: dialling, one stream after another, and what went wrong in words."""

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import grpc

from thinwire.sender.link.outbox import Outbox
from thinwire.sender.link.uplink import Crossing, UplinkSession
from thinwire.shared.chunks import MAX_MESSAGE, VERSION
from thinwire.shared.clock import Clock
from thinwire.shared.durable import Disk
from thinwire.shared.errors import Final, HubBusy, LinkLost, NotEnrolled, ProtocolBroken, ThinwireError
from thinwire.shared.keys import HUB_NAME, Identity, JoinToken
from thinwire.shared.wire.v1 import link_pb2 as wire
from thinwire.shared.wire.v1.link_pb2_grpc import HubStub

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1
"""How often the outbox is looked at for what other processes put there."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
"""Seconds between two attempts to dial; doubled each time, with jitter."""

_WRITE_FAILED = (grpc.aio.AioRpcError, asyncio.InvalidStateError)
"""gRPC's words for writing to a call that has ended."""
_STATUS_SECONDS = 5.0

_OPTIONS = (
    ("grpc.ssl_target_name_override", HUB_NAME),
    ("grpc.default_authority", HUB_NAME),
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    # A silent link is asked after 30 s; it counts as lost when nothing at all has come for 60 s more.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 60_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # TCP and TLS may take this long on a slow link; pauses between attempts are made here, not in gRPC.
    ("grpc.min_reconnect_backoff_ms", 60_000),
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
    """Where the hub is and how this clinic proves itself."""

    target: str
    """HOST:PORT."""
    authority_pem: bytes
    """The hub's own certificate authority, the only one that is trusted."""
    identity: Identity


class LinkState(StrEnum):
    STOPPED = "stopped"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    WAITING = "waiting"
    """Until the next attempt."""


@dataclass(frozen=True)
class LinkStatus:
    """The link as people see it."""

    state: LinkState
    reason: str = ""
    """Why it is not connected, or why objects wait though it is."""
    rate: float | None = None
    """Bytes a second, measured; None until known."""
    round_trip: float | None = None
    """Seconds."""
    crossings: tuple[Crossing, ...] = ()


def dial(address: HubAddress) -> grpc.aio.Channel:
    """A channel to the hub, mutual TLS; connects when it is first used. Close it."""
    credentials = grpc.ssl_channel_credentials(
        address.authority_pem, address.identity.key_pem, address.identity.certificate_pem
    )
    return grpc.aio.secure_channel(address.target, credentials, options=_OPTIONS)


def error_of(code: grpc.StatusCode, details: str | None, link: str = "lost") -> ThinwireError:
    """What a status of the hub, or of gRPC itself, means here. link: what to say of it where it is the reason."""
    kind = _ERROR_OF.get(code, LinkLost)
    # INTERNAL is what gRPC says of a socket that broke while it wrote.
    said = "the connection broke" if code is grpc.StatusCode.INTERNAL else details or code.name
    return kind(f"the link is {link}: {said}" if kind is LinkLost else f"the hub refuses: {said}")


async def join(target: str, token: JoinToken, request: bytes, signing_key: bytes) -> wire.JoinReply:
    """Enrol this clinic. request: certificate request, PEM; signing_key: Ed25519 public, 32 bytes.

    Raises NotEnrolled, LinkLost, ProtocolBroken. May be repeated with the same signing key until it succeeds.
    """
    asked = wire.JoinRequest(version=VERSION, certificate_request=request, signing_key=signing_key)
    async with dial(HubAddress(target, token.authority_pem, token.bootstrap)) as channel:
        try:
            reply: wire.JoinReply = await HubStub(channel).Join(asked)
            return reply
        except grpc.aio.AioRpcError as error:
            raise error_of(error.code(), error.details(), "not there") from error


class Uplink:
    """Keeps one stream to the hub for as long as it runs, whatever happens to it.

    on_change: called with each new status, often; keep it quick. uniform: random numbers of [0, 1) for jitter.
    """

    def __init__(
        self,
        outbox: Outbox,
        address: HubAddress,
        clock: Clock,
        disk: Disk,
        on_change: Callable[[LinkStatus], None] = lambda _: None,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self.status = LinkStatus(LinkState.STOPPED)
        self._outbox = outbox
        self._address = address
        self._clock = clock
        self._disk = disk
        self._on_change = on_change
        self._uniform = uniform
        self._wake = asyncio.Event()
        self._failures = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`. The caller holds `outbox.own_link`. Errors of the link end a stream, never this."""
        stopped = asyncio.ensure_future(stop.wait())
        try:
            while not stop.is_set():
                self._report(LinkStatus(LinkState.CONNECTING))
                stream = asyncio.ensure_future(self._stream())
                await asyncio.wait({stream, stopped}, return_when=asyncio.FIRST_COMPLETED)
                if stop.is_set():
                    stream.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    reason = await stream
                    pause = self._pause()
                    log.info("%s; next attempt in %.1f s", reason, pause)
                    self._report(LinkStatus(LinkState.WAITING, str(reason)))
                    await asyncio.wait({stopped}, timeout=pause)
        finally:
            stopped.cancel()
            self._report(LinkStatus(LinkState.STOPPED))

    def nudge(self) -> None:
        """The outbox has something new. To be called in the event loop's own thread."""
        self._wake.set()

    def _pause(self) -> float:
        """Seconds: half to all of a time that doubles with each failure up to the cap, so that clinics that lost
        one hub do not come back in step."""
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._failures, 16))
        self._failures += 1
        return longest * (1 + self._uniform()) / 2

    async def _stream(self) -> ThinwireError:
        """One stream from dialling to its end; returns why it ended."""
        session = UplinkSession(self._outbox, self._clock, self._disk)
        answers: deque[wire.Up] = deque()
        async with dial(self._address) as channel:
            call = HubStub(channel).Connect()
            reading = asyncio.ensure_future(self._read(call, session, answers))
            writing = asyncio.ensure_future(self._write(call, session, answers))
            try:
                await asyncio.wait({reading, writing}, return_when=asyncio.FIRST_COMPLETED)
                if writing.done() and isinstance(writing.exception(), _WRITE_FAILED):
                    # The reader learns why.
                    await asyncio.wait({reading}, timeout=_STATUS_SECONDS)
                await (reading if reading.done() else writing)
                return LinkLost("the hub ended the stream")
            except grpc.aio.AioRpcError as error:
                return error_of(error.code(), error.details(), "lost" if session.welcomed else "not there")
            except asyncio.InvalidStateError:
                return LinkLost("the link was lost")
            except ThinwireError as error:
                return error
            finally:
                call.cancel()
                for task in (reading, writing):
                    task.cancel()
                await asyncio.gather(reading, writing, return_exceptions=True)

    async def _read(self, call: "grpc.aio.StreamStreamCall", session: UplinkSession, answers: deque[wire.Up]) -> None:
        async for down in call:
            answers.extend(session.receive(down))
            self._failures = 0
            self._wake.set()
            self._report_session(session)

    async def _write(self, call: "grpc.aio.StreamStreamCall", session: UplinkSession, answers: deque[wire.Up]) -> None:
        await call.write(session.hello())
        looked = self._clock.monotonic()
        while True:
            if self._clock.monotonic() - looked >= LOOK_SECONDS or (self._wake.is_set() and not session.pace.in_flight):
                session.refresh()
                looked = self._clock.monotonic()
            if session.stalled:
                raise LinkLost("the hub has been silent for too long")
            self._wake.clear()
            up = answers.popleft() if answers else session.next()
            if up is not None:
                await call.write(up)
                self._report_session(session)
                continue
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), LOOK_SECONDS)

    def _report_session(self, session: UplinkSession) -> None:
        state = LinkState.CONNECTED if session.welcomed else LinkState.CONNECTING
        reason = next((pause.reason for pause in session.pauses.values()), "")
        self._report(LinkStatus(state, reason, session.pace.rate, session.pace.round_trip, session.crossings))

    def _report(self, status: LinkStatus) -> None:
        if status != self.status:
            self.status = status
            self._on_change(status)
