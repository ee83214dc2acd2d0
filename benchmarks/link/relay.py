"""The fallback where packets cannot be emulated: a relay on this host that shapes TCP streams.

    python -m benchmarks.link.relay PROFILE HUB_PORT... --board FILE --seed N

Prints the ports that the clinic dials, one for each of the hub's. Rate, delay and outages are the profile's; there is
no loss and no packet, TCP ends at the relay on both sides, and a connection survives an outage of any length because
the host's own TCP never sees it. A figure that was taken here is not comparable with one of the emulator.
"""

import argparse
import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from random import Random

from benchmarks.link.model import Counts, Direction, Way
from benchmarks.link.profiles import MTU, PROFILES, Profile
from benchmarks.link.shared_counters import SharedCounters

LOCAL = "127.0.0.1"
LOOK_SECONDS = 0.02
_PIECE = MTU
"""Bytes read from a stream at a time, so that streams take turns on the line as packets do."""

_Arrival = tuple[float, bytes] | None
"""Bytes and when they come out; None: the stream has ended."""


class EmulatedPath:
    """One direction that all streams share: `Direction` with bytes of streams for packets, and no way to lose them."""

    def __init__(self, way: Way, is_down: Callable[[], bool]) -> None:
        self._direction = Direction(replace(way, loss=0.0, burst=None, jitter=0.0, queue=1 << 40), Random(0))
        self._room = way.queue
        self._is_down = is_down
        self._turn = asyncio.Lock()

    def counts(self) -> Counts:
        """As of now."""
        self._direction.advance(time.monotonic())
        return self._direction.counts

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until the stream ends at either side."""
        with contextlib.suppress(ConnectionError):
            arrivals: asyncio.Queue[_Arrival] = asyncio.Queue()
            delivering = asyncio.ensure_future(self._deliver(arrivals, writer))
            try:
                while data := await reader.read(_PIECE):
                    await arrivals.put((await self._arrival(data), data))
                await arrivals.put(None)
                await delivering
            finally:
                delivering.cancel()
        writer.close()

    async def _arrival(self, data: bytes) -> float:
        """When these bytes come out. Waits while the queue is full or the link is down: then nothing is read."""
        direction = self._direction
        async with self._turn:
            while True:
                now = time.monotonic()
                direction.advance(now)
                if not self._is_down() and direction.counts.queued_bytes <= self._room:
                    break
                await asyncio.sleep(LOOK_SECONDS / 4)
            direction.offer(data, now)
            return now + direction.counts.queued_bytes * 8 / direction.way.rate + direction.way.delay

    async def _deliver(self, arrivals: "asyncio.Queue[_Arrival]", writer: asyncio.StreamWriter) -> None:
        while (arrival := await arrivals.get()) is not None:
            at, data = arrival
            await asyncio.sleep(at - time.monotonic())
            while self._is_down():
                await asyncio.sleep(LOOK_SECONDS)
            writer.write(data)
            await writer.drain()


async def relay(profile: Profile, ports: list[int], board: SharedCounters) -> None:
    began: list[float] = []

    def is_down() -> bool:
        if not began and (phase := board.begun) is not None:
            began.append(time.monotonic() - phase)
        scheduled = profile.schedule is not None and began and profile.schedule.is_down(time.monotonic() - began[0])
        return board.switched_down or bool(scheduled)

    up, down = EmulatedPath(profile.up, is_down), EmulatedPath(profile.down, is_down)

    async def serve(port: int, clinic: asyncio.StreamReader, to_clinic: asyncio.StreamWriter) -> None:
        try:
            hub, to_hub = await asyncio.open_connection(LOCAL, port)
        except OSError:
            to_clinic.close()
            return
        await asyncio.gather(up.carry(clinic, to_hub), down.carry(hub, to_clinic))

    def server(port: int) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        return lambda reader, writer: serve(port, reader, writer)

    servers = [await asyncio.start_server(server(port), LOCAL, 0) for port in ports]
    print(*(each.sockets[0].getsockname()[1] for each in servers), flush=True)
    board.tell_ready()
    while True:
        board.tell_down(is_down())
        board.tell(up.counts(), down.counts())
        await asyncio.sleep(LOOK_SECONDS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", choices=sorted(PROFILES))
    parser.add_argument("ports", type=int, nargs="+", help="of the hub")
    parser.add_argument("--board", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steady", action="store_true")
    parser.add_argument("--lossless", action="store_true")
    options = parser.parse_args()
    profile = PROFILES[options.profile]
    profile = profile.steady if options.steady or options.lossless else profile
    with SharedCounters(options.board) as board, contextlib.suppress(KeyboardInterrupt):
        asyncio.run(relay(profile, options.ports, board))


if __name__ == "__main__":
    main()
