"""The hub's port for clinics, with a server of our own in gRPC's place."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from tests.unit.receiver.transport.test_client_hello import NEW, OLD
from thinwire.receiver.config import LinkLimits
from thinwire.receiver.transport.client_hello import PROTOCOL_VERSION
from thinwire.receiver.transport.front import Front
from thinwire.shared.listening.guard import Listeners, Refusal

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
SYSTEM_BUFFERS = 24 << 20
"""More than the system and asyncio hold of one connection, on both of its ways."""


@contextlib.asynccontextmanager
async def served(act: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[Front]:
    front = Front(Listeners().guard("link", LinkLimits()), "127.0.0.1:0")
    acting: set[asyncio.Task[None]] = set()

    async def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        acting.add(task)
        try:
            await act(reader, writer)
        finally:
            writer.transport.abort()

    server = await asyncio.start_unix_server(begin, front.address.removeprefix("unix:"))
    await front.start()
    try:
        yield front
    finally:
        server.close()
        await front.stop()
        await asyncio.gather(*acting, return_exceptions=True)
        for _ in range(10):  # the loop closes what was aborted
            await asyncio.sleep(0)


async def dial(front: Front) -> Streams:
    return await asyncio.open_connection("127.0.0.1", front.port)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


def test_bytes_pass_as_they_are_once_the_hello_is_whole() -> None:
    async def run() -> None:
        async with served(echo) as front:
            reader, writer = await dial(front)
            sent = NEW + bytes(range(256)) * 10_000
            for part in (sent[:3], sent[3:100], sent[100:]):
                writer.write(part)
                await writer.drain()
            assert await reader.readexactly(len(sent)) == sent
            writer.close()
            assert front.guard.refused == {}

    asyncio.run(run())


def test_two_ports_of_one_machine_take_callers_of_one_address() -> None:
    async def run() -> None:
        async with served(echo) as one, served(echo) as other:
            # As a balancer's connections to several replicas may have.
            callers: list[socket.socket] = []
            with contextlib.ExitStack() as on_exit:
                for front in (one, other):
                    caller = on_exit.enter_context(socket.socket())
                    caller.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                    caller.setblocking(False)
                    caller.bind(callers[0].getsockname() if callers else ("127.0.0.1", 0))
                    await asyncio.get_running_loop().sock_connect(caller, ("127.0.0.1", front.port))
                    callers.append(caller)
                for caller in callers:
                    await asyncio.get_running_loop().sock_sendall(caller, NEW)
                    assert await asyncio.get_running_loop().sock_recv(caller, len(NEW)) == NEW

    asyncio.run(run())


def test_tls_1_2_gets_an_alert_and_other_bytes_nothing() -> None:
    async def run() -> None:
        async with served(echo) as front:
            for first, answer in ((OLD, PROTOCOL_VERSION), (b"GET / HTTP/1.1\r\n\r\n", b"")):
                reader, writer = await dial(front)
                writer.write(first)
                assert await reader.read() == answer
                writer.close()
            assert front.guard.refused == {Refusal.PROTOCOL: 2}

    asyncio.run(run())


def test_a_clinic_is_known_by_the_name_of_its_private_socket() -> None:
    async def run() -> None:
        peers: asyncio.Queue[str] = asyncio.Queue()

        async def tell(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            # As gRPC writes it.
            peers.put_nowait("unix-abstract:" + writer.get_extra_info("peername").decode().removeprefix("\0"))

        async with served(tell) as front:
            (_, known), (silent, other) = await dial(front), await dial(front)
            known.write(NEW)
            peer = await peers.get()
            host, port = known.get_extra_info("sockname")
            assert peer.endswith(f"/{host}:{port}")
            front.prove(peer)
            front.guard.expire(time.monotonic() + 400)
            assert await silent.read() == b""
            assert front.guard.refused == {Refusal.TIMEOUT: 1}
            front.doubt(peer)
            front.prove("ipv4:192.0.2.1:1")  # nobody
            front.guard.expire(time.monotonic() + 400)
            assert front.guard.refused == {Refusal.TIMEOUT: 2}
            for writer in (known, other):
                writer.close()

    asyncio.run(run())


def test_a_clinic_that_does_not_read_is_not_read_for_either() -> None:
    async def run() -> None:
        sent = 0
        stalled = asyncio.Event()

        async def pour(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            with contextlib.suppress(ConnectionError, TimeoutError):
                while True:
                    writer.write(bytes(1 << 16))
                    async with asyncio.timeout(0.5):
                        await writer.drain()
                    sent += 1 << 16
            stalled.set()

        async with served(pour) as front:
            _, writer = await dial(front)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(NEW)
            await stalled.wait()
            assert sent < SYSTEM_BUFFERS
            writer.transport.abort()

    asyncio.run(run())


def test_each_end_ends_the_other() -> None:
    async def run() -> None:
        gone: asyncio.Queue[bytes] = asyncio.Queue()

        async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(len(NEW))
            if await reader.read(1) == b"x":
                writer.close()
            else:
                gone.put_nowait(b"")

        async with served(once) as front:
            reader, writer = await dial(front)
            writer.write(NEW + b"x")
            assert await reader.read() == b""
            writer.close()
            reader, writer = await dial(front)
            writer.write(NEW)
            writer.close()
            await gone.get()
        assert front.guard.refused == {}

    asyncio.run(run())
