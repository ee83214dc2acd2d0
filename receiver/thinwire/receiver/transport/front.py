"""The hub's port for clinics: accepts under the guard, and relays to gRPC's private Unix socket.

gRPC has no hook at accept: it neither counts by address nor refuses TLS 1.2. A connection reaches gRPC with a whole
ClientHello that offers TLS 1.3; bytes pass unchanged after it. The Unix socket's name carries the clinic's address, so
that gRPC's `peer` names it.
"""

import asyncio
import contextlib
import logging
import socket
import tempfile
from pathlib import Path
from urllib.parse import unquote

from thinwire.receiver.transport.client_hello import PROTOCOL_VERSION, RECORD_BYTES, offers_tls_1_3, record_bytes
from thinwire.shared.addresses import address_text, host_and_port
from thinwire.shared.listening.guard import ListenerGuard, Refusal

log = logging.getLogger(__name__)

_BUFFER = 64 << 10
"""Bytes that wait in each direction before the other side is no longer read; the system's buffers come in addition."""
_NAME = "thinwire/"


class Front:
    """An open port, HOST:PORT; `start` when gRPC listens on `address`, then `stop`. Raises BadConfiguration."""

    def __init__(self, guard: ListenerGuard, listen: str) -> None:
        self.guard = guard
        self._listener = guard.listen(*host_and_port(listen), "Choose a free port with --listen.", dual=True)
        self.port = int(self._listener.getsockname()[1])
        self._folder = tempfile.TemporaryDirectory(prefix="thinwire-")  # 0700; a data folder's path may be too long
        self._path = str(Path(self._folder.name) / "link")
        self._server: asyncio.Server | None = None
        # One for all: the loop copies what it holds before the next connection is read.
        self.buffer = memoryview(bytearray(_BUFFER))
        self.sides: set[_Side] = set()
        """Open ones, of all clinics."""
        self._clinics: dict[str, _Clinic] = {}

    @property
    def address(self) -> str:
        """Of gRPC's private socket."""
        return f"unix:{self._path}"

    async def start(self) -> None:
        """Accept connections."""
        self._server = await asyncio.get_running_loop().create_server(lambda: _Clinic(self), sock=self._listener)

    async def stop(self) -> None:
        """Accept nothing more and end every connection."""
        if self._server is not None:
            self._server.close()
        self._listener.close()
        for side in list(self.sides):
            side.transport.abort()
        while self.sides:
            await asyncio.sleep(0)
        self._folder.cleanup()

    def prove(self, peer: str) -> None:
        """The caller is an enrolled clinic. peer: as gRPC names it."""
        clinic = self._clinics.get(_key(peer))
        if clinic is not None:
            self.guard.prove(clinic.fd)

    def doubt(self, peer: str) -> None:
        """The clinic's stream has ended; its connection may begin another."""
        clinic = self._clinics.get(_key(peer))
        if clinic is not None and not clinic.lost:
            self.guard.doubt(clinic.fd)

    def open_private(self, clinic: "_Clinic") -> socket.socket:
        """A connection to gRPC for a clinic. Raises OSError."""
        private = socket.socket(socket.AF_UNIX)
        try:
            private.setblocking(False)
            private.bind(f"\0{_NAME}{clinic.name}")
            private.connect(self._path)
        except OSError:
            private.close()
            raise
        self._clinics[clinic.name] = clinic
        return private

    def forget(self, clinic: "_Clinic") -> None:
        self._clinics.pop(clinic.name, None)


class _Side(asyncio.BufferedProtocol):
    """One of the two connections of a clinic; what it reads goes to `other`."""

    transport: asyncio.Transport

    def __init__(self, front: Front) -> None:
        self.front = front
        self.other: _Side | None = None
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.front.sides.add(self)
        transport.set_write_buffer_limits(_BUFFER)

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return self.front.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.read(bytes(self.front.buffer[:nbytes]))

    def read(self, data: bytes) -> None:
        if self.other is not None:
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        del error
        self.lost = True
        self.front.sides.discard(self)
        if self.other is not None:
            self.other.transport.close()


class _Clinic(_Side):
    """The public side; until it has sent a ClientHello there is no private one."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.fd = int(transport.get_extra_info("socket").fileno())
        peer = transport.get_extra_info("peername")
        # None where it has gone already.
        self.host = peer[0] if peer else ""
        # Of this port: replicas on one machine, behind a balancer, may have callers of one address at the same time.
        self.name = f"{self.front.port}/{address_text(*peer[:2])}" if peer else f"gone {id(self)}"
        self._first = b""

    def read(self, data: bytes) -> None:
        if self.other is not None:
            super().read(data)
            return
        self._first += data
        if len(self._first) < RECORD_BYTES:
            return
        size = record_bytes(self._first)
        if size and len(self._first) < size:
            return
        if not size or not offers_tls_1_3(self._first[:size]):
            self.front.guard.refuse(Refusal.PROTOCOL, self.host)
            self.transport.write(PROTOCOL_VERSION if size else b"")
            self.transport.close()
            return
        self.transport.pause_reading()
        self._task = asyncio.get_running_loop().create_task(self._join())

    async def _join(self) -> None:
        private = _Side(self.front)
        try:
            opened = self.front.open_private(self)
            await asyncio.get_running_loop().create_unix_connection(lambda: private, sock=opened)
        except OSError as error:
            log.error("a clinic's connection could not be passed on (%s)", type(error).__name__)
            self.transport.abort()
            return
        private.other = self
        if self.lost:
            private.transport.abort()
            return
        self.other = private
        private.transport.write(self._first)
        self._first = b""
        with contextlib.suppress(RuntimeError):  # it is closing
            self.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self.front.forget(self)


def _key(peer: str) -> str:
    """The clinic's address in gRPC's name of a peer."""
    return unquote(peer).partition(_NAME)[2]
