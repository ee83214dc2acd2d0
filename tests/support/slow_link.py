"""A slow link for programs that cannot be put behind an emulated one: the link laboratory's lines, for one port.

TCP is shaped, not packets: rate and delay of a profile, no loss. Unlike the laboratory's own relay it takes little more
from a sender than the line carries at once, so that what a sender's TCP says of its way is about this link.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace

from benchmarks.link.profiles import MTU, Profile
from benchmarks.link.relay import LOCAL, EmulatedPath

SMALL = 4096
"""Bytes that the host's TCP may hold of what a sender sent and the line has not taken."""


def small_socket() -> socket.socket:
    """Its receive buffer must be set before it listens or connects: later the window is no longer narrowed."""
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
    return found


@contextlib.contextmanager
def slow_link(profile: Profile, port: int) -> Iterator[int]:
    """The link to `port` of this host, in a thread with a loop of its own; gives the port to dial."""
    up, down = (EmulatedPath(replace(way, queue=MTU), lambda: False) for way in (profile.up, profile.down))

    async def carry(near: asyncio.StreamReader, to_near: asyncio.StreamWriter) -> None:
        behind = small_socket()
        behind.setblocking(False)
        await asyncio.get_running_loop().sock_connect(behind, (LOCAL, port))
        far, to_far = await asyncio.open_connection(sock=behind, limit=MTU)
        try:
            await asyncio.gather(up.carry(near, to_far), down.carry(far, to_near))
        finally:
            for end in (to_near, to_far):
                end.transport.abort()

    dialled = small_socket()
    dialled.bind((LOCAL, 0))
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with await asyncio.start_server(carry, sock=dialled, limit=MTU):
            await stop.wait()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        await asyncio.sleep(0)  # the ends that were aborted close

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        yield int(dialled.getsockname()[1])
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
