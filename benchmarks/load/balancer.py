"""A TCP balancer, and a line that can be cut: bytes between a port and one of several targets of this host."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

LOCAL = "127.0.0.1"
_PIECE = 64 << 10


class Balancer:
    """Gives each connection to the next target that takes it, in turns. targets: ports."""

    def __init__(self, targets: Sequence[int]) -> None:
        self._targets = list(targets)
        self._turn = 0
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.StreamWriter, asyncio.Event] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def target(self) -> str:
        return f"{LOCAL}:{self.port}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Balancer"]:
        await self.mend()
        try:
            yield self
        finally:
            await self.cut()
            for each in self._tasks:
                each.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def mend(self) -> None:
        """Take connections, after a cut on the same port."""
        self._server = await asyncio.start_server(self._accept, LOCAL, self.port, limit=_PIECE)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """End every connection and take none, as a host does whose server was killed."""
        assert self._server is not None
        self._server.close()
        for writer in list(self._open):
            writer.transport.abort()

    def freeze(self, count: int) -> int:
        """The oldest connections carry nothing any more and stay open, as behind an address translation that forgot
        them. Returns how many."""
        chosen = [event for event in self._open.values() if event.is_set()][:count]
        for event in chosen:
            event.clear()
        return len(chosen)

    def _accept(self, near: asyncio.StreamReader, to_near: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._take(near, to_near))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _take(self, near: asyncio.StreamReader, to_near: asyncio.StreamWriter) -> None:
        carries = asyncio.Event()
        carries.set()
        to_far: asyncio.StreamWriter | None = None
        try:
            for _ in self._targets:
                self._turn += 1
                with contextlib.suppress(OSError):
                    port = self._targets[self._turn % len(self._targets)]
                    far, to_far = await asyncio.open_connection(LOCAL, port, limit=_PIECE)
                    break
            if to_far is None:
                return
            self._open[to_near] = self._open[to_far] = carries
            async with asyncio.TaskGroup() as both:
                both.create_task(_carry(near, to_far, carries))
                both.create_task(_carry(far, to_near, carries))
        except* (OSError, _Ended):
            pass
        finally:
            for each in (to_near, to_far):
                if each is not None:
                    self._open.pop(each, None)
                    each.transport.abort()


class _Ended(Exception):
    """One side ended its connection."""


async def _carry(source: asyncio.StreamReader, target: asyncio.StreamWriter, carries: asyncio.Event) -> None:
    while data := await source.read(_PIECE):
        await carries.wait()
        target.write(data)
        await target.drain()
    await target.drain()
    raise _Ended
