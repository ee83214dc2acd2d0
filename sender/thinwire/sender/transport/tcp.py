"""The clinic's TCP connection below gRPC.

gRPC for Python opens its sockets itself, without access to the options for a slow link, to byte counts and to the state
of TCP (docs/wire-protocol.md). So the uplink dials, and gRPC uses a Unix socket in a folder that only this user can
enter. The TLS connection to the hub ends in this process (`tls.py`).
"""

import asyncio
import contextlib
import logging
import os
import shutil
import socket
import struct
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from thinwire.sender.transport.flow import Flow
from thinwire.sender.transport.tls import SETTINGS, Security, Tls, WithoutFirstAck
from thinwire.shared.addresses import host_and_port
from thinwire.shared.errors import LinkLost, reason_of

log = logging.getLogger(__name__)

_READ = 64 << 10
_UNSENT = 32 << 10
"""Most unsent bytes in the kernel; the others wait in this process, and are dropped with a lost link."""
_BBR = "bbr"
"""The congestion control that does not treat a packet loss as a full link."""
_HANDSHAKE_SECONDS = 120.0
_FAT = 30
"""Bandwidth-delay product in packets from which CUBIC cannot fill a link with half a percent of loss."""
_SEGMENT = 1448
_HEADERS = 52
"""Bytes of IPv4 and TCP in a packet, timestamps included."""

# struct tcp_info of Linux (include/uapi/linux/tcp.h), the fields in use: byte offsets.
_PACKET, _UNACKED, _SACKED, _LOST, _REPEATED, _LAST_ACK, _ROUND_TRIP = 16, 24, 28, 32, 36, 56, 68
_ACKED, _RECEIVED, _SEGMENTS_OUT, _SEGMENTS_IN, _WAITING, _LEAST = 120, 128, 136, 140, 144, 148
_SENT, _SENT_AGAIN = 200, 208
_TCP_INFO_BYTES = 216


@dataclass(frozen=True)
class Condition:
    """The state of TCP."""

    up: int
    """Bytes sent, with headers and retransmissions."""
    down: int
    unacknowledged: int
    """Packets without an acknowledgement of the hub's machine."""
    silent: float
    """Seconds since the last acknowledgement."""
    round_trip: float
    """Seconds, smoothed, time in queues included."""


class TcpConnection:
    """One TCP connection to the hub. Made by `dial`; close it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._up = 0
        self._down = 0
        self._owed = 0
        self._last: Condition | None = None
        self.asking = False
        self.trouble: LinkLost | None = None
        """The error with which TLS ended the connection, if it did."""
        self._socket: socket.socket = writer.get_extra_info("socket")
        self._default = _control(self._socket)
        self.control = _set_options(self._socket)
        """The congestion control in use; empty if the system does not report it."""
        writer.transport.set_write_buffer_limits(high=_UNSENT)

    @classmethod
    async def dial(cls, target: str, seconds: float) -> "TcpConnection":
        """Connect to HOST:PORT. Raises LinkLost for no answer in time, ConnectionRefusedError and other OSError for a
        refusal or no network; BadConfiguration."""
        host, port = host_and_port(target, "Set hub in config.toml, for example hub.example.org:7443.", 1)
        try:
            async with asyncio.timeout(seconds):
                return cls(*await asyncio.open_connection(host, port, happy_eyeballs_delay=0.25))
        except TimeoutError as error:
            raise LinkLost("the hub does not answer") from error

    @property
    def condition(self) -> Condition:
        """The present state, or the last one of a closed connection."""
        with contextlib.suppress(OSError, ValueError, struct.error):
            self._last = _condition(self._socket)
        return self._last or Condition(self._up, self._down, 0, 0.0, 0.0)

    def expect(self, size: int) -> None:
        """gRPC was given `size` bytes, which will arrive at this socket."""
        self._owed = max(self._owed, self._up) + size

    @property
    def flow(self) -> Flow | None:
        """TCP's measurement of the path to the hub; None if the system does not report it."""
        with contextlib.suppress(OSError, ValueError, struct.error):
            four, eight = _tcp_info(self._socket)
            # The SYN counts as one acknowledged byte.
            out = max(0, eight(_SENT) - eight(_SENT_AGAIN) - eight(_ACKED) + 1)
            packets, sacked, lost = four(_UNACKED), four(_SACKED), four(_LOST)
            share = out / packets if packets else 0.0
            waiting = four(_WAITING) + self._writer.transport.get_write_buffer_size() + max(0, self._owed - self._up)
            crossing = share * max(0, packets - sacked - lost + four(_REPEATED))
            delivered = eight(_ACKED) + int(share * sacked)
            round_trips = four(_LEAST) / 1e6, four(_ROUND_TRIP) / 1e6
            return Flow(delivered, int(crossing) + waiting, *round_trips, four(_PACKET))
        return None

    def suit(self, rate: float, round_trip: float) -> None:
        """Choose the congestion control for a link that was full, bytes a second and seconds.

        CUBIC cannot keep many packets in flight with losses. BBR can; but every ten seconds it reduces the packets in
        flight to four for 200 ms and a round trip (PROBE_RTT), which a link with few packets does not need.
        """
        wanted = _BBR if rate * round_trip > _FAT * _SEGMENT else self._default
        if wanted != self.control:
            self.control = _control(self._socket, wanted)

    def ask(self, on: bool) -> None:
        """Switch TCP keepalive probes, one a second while no data is outstanding (RFC 9293, 3.8.4).

        The answers show in `condition`; the hub's machine answers without the hub's program."""
        if on is not self.asking:
            self.asking = on
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(on))

    @contextlib.asynccontextmanager
    async def relay(self, security: Security) -> AsyncIterator[str]:
        """While the block runs, gRPC reaches the hub in plaintext under the yielded target; for one connection.

        Raises LinkLost if the socket between the two cannot be made."""
        taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        relays: list[asyncio.Task[None]] = []

        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if taken.done():
                writer.transport.abort()
                return
            taken.set_result(None)
            relays.append(asyncio.ensure_future(self._relay(Tls(security), reader, writer)))

        with _folder() as folder:
            try:
                server = await asyncio.start_unix_server(take, folder / "hub")
            except OSError as error:
                raise _no_temporary_space(error) from error
            try:
                yield f"unix:{folder / 'hub'}"
            finally:
                server.close()
                for relay in relays:
                    relay.cancel()
                await asyncio.gather(*relays, return_exceptions=True)

    async def close(self, abruptly: bool = False) -> None:
        """abruptly: drop unsent bytes, so that a link that returns does not carry them twice."""
        _ = self.condition
        if abruptly:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._writer.transport.abort()
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _relay(self, tls: Tls, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Copies both directions until either ends; `trouble` then has the error of TLS."""

        async def send(sealed: bytes) -> None:
            self._up += len(sealed)
            self._writer.write(sealed)
            await self._writer.drain()

        async def hear() -> bytes:
            received = await self._reader.read(_READ)
            self._down += len(received)
            return received

        async def up() -> None:
            while data := await reader.read(_READ):
                await send(tls.seal(for_the_hub(data)))

        async def down() -> None:
            writer.write(tls.open(b""))  # bytes that may have arrived with the end of the handshake
            while received := await hear():
                writer.write(tls.open(received))
                await writer.drain()

        for_the_hub, finished = WithoutFirstAck(), b""
        writer.write(SETTINGS)
        ways: list[asyncio.Task[None]] = []
        try:
            async with asyncio.timeout(_HANDSHAKE_SECONDS):
                await send(tls.shake())
                while not tls.done:
                    if not (received := await hear()):
                        raise LinkLost("the hub ended the connection")
                    finished = tls.shake(received)
                    if not tls.done:
                        await send(finished)
            # In one packet with the first bytes of gRPC.
            await send(finished + tls.seal(for_the_hub(await reader.read(_READ))))
            ways = [asyncio.ensure_future(up()), asyncio.ensure_future(down())]
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in done:
                way.result()
        except LinkLost as error:
            self.trouble = error
        except TimeoutError:
            self.trouble = LinkLost("the hub does not answer with TLS")
        except OSError as error:
            log.debug("the connection broke: %s", error)
        finally:
            tls.close()
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            writer.close()


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    try:
        folder = Path(tempfile.mkdtemp(prefix="thinwire-"))
    except OSError as error:
        raise _no_temporary_space(error) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _no_temporary_space(error: OSError) -> LinkLost:
    """LinkLost: a full /tmp is temporary, like an outage; the studies are in the outbox."""
    return LinkLost(
        f"the folder for temporary files cannot be used ({reason_of(error)})",
        f"Free space in {tempfile.gettempdir()}, or name another short path in TMPDIR. Sending then continues.",
    )


def _set_options(connection: socket.socket) -> str:
    """Set the socket options; an unsupported option keeps the default of the system."""
    with contextlib.suppress(OSError, AttributeError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)
    for option, value in (("TCP_KEEPIDLE", 1), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 127)):
        with contextlib.suppress(OSError, AttributeError):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return _control(connection, _BBR)


def _control(connection: socket.socket, wanted: str = "") -> str:
    """The congestion control in use, after a request for the wanted one."""
    with contextlib.suppress(OSError, AttributeError):
        if wanted:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, wanted.encode())
    with contextlib.suppress(OSError, AttributeError):
        return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0").decode()
    return ""


def _condition(connection: socket.socket) -> Condition:
    """Raises OSError, ValueError or struct.error if the system does not report it."""
    four, eight = _tcp_info(connection)
    return Condition(
        up=eight(_SENT) + _HEADERS * four(_SEGMENTS_OUT),
        down=eight(_RECEIVED) + _HEADERS * four(_SEGMENTS_IN),
        unacknowledged=four(_UNACKED),
        silent=four(_LAST_ACK) / 1000,
        round_trip=four(_ROUND_TRIP) / 1e6,
    )


def _tcp_info(connection: socket.socket) -> tuple[Callable[[int], int], Callable[[int], int]]:
    """Readers of its 32-bit and 64-bit numbers. Raises OSError, ValueError or struct.error if it has none."""
    if not hasattr(socket, "TCP_INFO") or os.uname().sysname != "Linux":
        raise ValueError("no tcp_info on this system")
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)

    def four(at: int) -> int:
        return int(struct.unpack_from("=I", info, at)[0])

    def eight(at: int) -> int:
        return int(struct.unpack_from("=Q", info, at)[0])

    return four, eight
