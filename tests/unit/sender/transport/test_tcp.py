"""The clinic's own socket beneath gRPC, on this machine's loopback."""

import asyncio
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.real_link import SERVER, site_identity
from tests.support.two_ends import AUTHORITY
from thinwire.sender.transport.connection import silent
from thinwire.sender.transport.network import network_changes, says_new
from thinwire.sender.transport.tcp import Condition, TcpConnection
from thinwire.sender.transport.tls import SETTINGS, Security
from thinwire.shared.errors import LinkLost

SECURITY = Security(AUTHORITY.certificate_pem, site_identity())
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 1, 0, 0, 0, 0))
"""gRPC's first bytes, as far as the line reads them."""


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """The hub's."""
    path = tmp_path_factory.mktemp("tls") / "hub.pem"
    path.write_bytes(SERVER.certificate_pem + SERVER.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    context.load_verify_locations(cadata=AUTHORITY.certificate_pem.decode())
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def with_echo(act: Any, tls: ssl.SSLContext | None = None) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=tls)
        async with server:
            await act(int(server.sockets[0].getsockname()[1]))

    asyncio.run(run())


async def open_relay(via: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """gRPC's end of the line, greetings over."""
    reader, writer = await asyncio.open_unix_connection(via.removeprefix("unix:"))
    assert await reader.readexactly(len(SETTINGS)) == SETTINGS
    writer.write(GREETING)
    assert await reader.readexactly(24) == GREETING[:24]
    return reader, writer


def test_what_grpc_says_crosses_and_is_counted_both_ways(tls: ssl.SSLContext) -> None:
    async def act(port: int) -> None:
        tcp = await TcpConnection.dial(f"127.0.0.1:{port}", 5.0)
        async with tcp.relay(SECURITY) as via:
            path = Path(via.removeprefix("unix:"))
            assert path.parent.stat().st_mode & 0o077 == 0
            reader, writer = await open_relay(via)
            data = bytes(range(256)) * 1_000
            writer.write(data)
            assert await reader.readexactly(len(data)) == data
            other, unwanted = await asyncio.open_unix_connection(path)
            assert await other.read() == b""  # one connection alone
            for end in (unwanted, writer):
                end.close()
                await end.wait_closed()
        assert not path.parent.exists()
        await tcp.close()
        condition = tcp.condition
        assert len(data) <= condition.up < 1.2 * len(data)
        assert len(data) <= condition.down < 1.2 * len(data)

    with_echo(act, tls)


@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="this system does not tell of TCP")
def test_tcp_tells_what_is_on_its_way(tls: ssl.SSLContext) -> None:
    async def act(port: int) -> None:
        tcp = await TcpConnection.dial(f"127.0.0.1:{port}", 5.0)
        async with tcp.relay(SECURITY) as via:
            reader, writer = await open_relay(via)
            before = tcp.flow
            assert before is not None
            data = bytes(50_000)
            tcp.expect(len(data))
            flow = tcp.flow
            assert flow is not None
            assert flow.held >= len(data)  # gRPC has it, the socket has not
            writer.write(data)
            await reader.readexactly(len(data))
            flow = tcp.flow
            assert flow is not None
            assert (flow.held, 0 < flow.least <= 1.0) == (0, True)
            assert len(data) < flow.delivered - before.delivered < 1.02 * len(data)
            writer.close()
            await writer.wait_closed()
        await tcp.close()
        assert tcp.flow is None

    with_echo(act, tls)


def test_bbr_is_for_links_that_hold_many_packets(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def control(_: socket.socket, wanted: str = "") -> str:
        asked.append(wanted)
        return wanted

    async def act(port: int) -> None:
        tcp = await TcpConnection.dial(f"127.0.0.1:{port}", 5.0)
        own = tcp.control
        monkeypatch.setattr("thinwire.sender.transport.tcp._control", control)
        tcp.suit(32_000, 0.65)
        tcp.suit(1_250_000, 0.06)
        tcp.suit(1_250_000, 0.06)
        assert asked == ([tcp._default] if own != tcp._default else []) + (["bbr"] if tcp._default != "bbr" else [])
        await tcp.close()

    with_echo(act)


def test_no_room_for_the_relay_passes_like_an_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(port: int) -> None:
        tcp = await TcpConnection.dial(f"127.0.0.1:{port}", 5.0)
        # A folder that is not there, and one whose path is longer than a socket's name may be.
        for place in (tmp_path / "gone", tmp_path / "long" / ("x" * 120)):
            if place.parent.name == "long":
                place.mkdir(parents=True)
            monkeypatch.setattr("tempfile.tempdir", str(place))
            with pytest.raises(LinkLost, match="temporary files"):
                async with tcp.relay(SECURITY):
                    raise AssertionError
        assert not list((tmp_path / "long").rglob("thinwire-*"))
        await tcp.close()

    with_echo(act)


def trouble(answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> str:
    """The connection's error for a hub with this answer; gRPC's input ends after the greeting."""

    async def run() -> str:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            tcp = await TcpConnection.dial(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", 5.0)
            async with tcp.relay(SECURITY) as via:
                reader, writer = await asyncio.open_unix_connection(via.removeprefix("unix:"))
                assert await reader.read() == SETTINGS
                writer.close()
                await writer.wait_closed()
            await tcp.close(abruptly=True)
            return str(tcp.trouble)

    return asyncio.run(run())


def test_hubs_that_hang_up_speak_no_tls_or_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write_eof()
        await reader.read()
        writer.close()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.org ESMTP\r\n")
        await reader.read()
        writer.close()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    assert trouble(hang_up) == "the hub ended the connection"
    assert "wrong version number" in trouble(greet)
    monkeypatch.setattr("thinwire.sender.transport.tcp._HANDSHAKE_SECONDS", 0.1)
    assert trouble(wait) == "the hub does not answer with TLS"


def test_nobody_there_and_nobody_who_answers() -> None:
    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        with pytest.raises(OSError):
            await TcpConnection.dial(f"127.0.0.1:{port}", 5.0)
        with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf:
            target = f"127.0.0.1:{deaf.getsockname()[1]}"
            # The system answers until its own queue is full.
            dialled = await asyncio.gather(
                *(TcpConnection.dial(target, 0.3) for _ in range(10)), return_exceptions=True
            )
            assert any(isinstance(each, LinkLost) and "does not answer" in str(each) for each in dialled)
            for each in dialled:
                if isinstance(each, TcpConnection):
                    await each.close(abruptly=True)

    asyncio.run(run())


def test_a_connection_is_silent_when_packets_are_out_and_nothing_came_back_for_longer_than_a_loss_explains() -> None:
    lost = Condition(0, 0, unacknowledged=3, silent=5.0, round_trip=0.65)
    assert silent(lost, waited=5.0)
    assert not silent(lost, waited=1.0)  # it was idle before these packets
    assert silent(Condition(0, 0, 0, 500.0, 0.65), waited=5.0)  # TCP has asked for so long
    assert not silent(Condition(0, 0, 3, 5.0, 1.5), waited=5.0)  # a slow link with a queue
    assert not silent(Condition(0, 0, 3, 1.9, 0.005), waited=5.0)


def test_a_connection_can_be_asked_whether_the_other_end_is_there() -> None:
    async def act(port: int) -> None:
        tcp = await TcpConnection.dial(f"127.0.0.1:{port}", 5.0)
        for on in (True, True, False):
            tcp.ask(on)
            assert tcp.asking is on
        await tcp.close()

    with_echo(act)


def message(kind: int, payload: bytes = b"") -> bytes:
    length = 16 + len(payload)
    return struct.pack("=IHHII", length, kind, 0, 0, 0) + payload + bytes(-length % 4)


def test_word_of_the_network_is_read() -> None:
    assert says_new(message(20))
    assert says_new(message(17, b"12345") + message(24, b"1"))
    assert not says_new(message(17) + message(21))
    for damaged in (b"", b"\0" * 16, message(17)[:-1], struct.pack("=IHHII", 1 << 31, 17, 0, 0, 0)):
        assert not says_new(damaged)


def test_a_system_is_asked_and_left_in_peace() -> None:
    async def run() -> None:
        with network_changes(lambda: None):
            await asyncio.sleep(0)

    asyncio.run(run())
