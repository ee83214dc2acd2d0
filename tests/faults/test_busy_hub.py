"""A hub whose database another process holds: it says busy in time, in a few threads, and clinics lose nothing."""

import asyncio
import sqlite3
import threading
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.hub_end import enrolled
from tests.support.real_link import serving
from tests.support.two_ends import AUTHORITY, HUB_KEY, TwoEnds
from thinwire.receiver.transport import store_calls
from thinwire.sender.transport.connection import HubAddress, dial
from thinwire.shared.crypto.envelope import Kind, new_epoch, seal
from thinwire.shared.crypto.keys import new_signing_key
from thinwire.shared.identifiers import SiteName, StudyKey, digest
from thinwire.shared.wire.v1 import link_pb2 as wire
from thinwire.shared.wire.v1.link_pb2_grpc import HubStub

SITES = 6
THREADS = 2


class Clinic:
    def __init__(self, ends: TwoEnds, number: int) -> None:
        self.site, signing = SiteName(f"clinic-{number}"), new_signing_key()
        self.identity = enrolled(ends.hub.enrolment, self.site, signing)
        epoch, self.record = new_epoch(self.site, HUB_KEY.public, signing, ends.clock)
        self.graph = seal(epoch, Kind.GRAPH, StudyKey(bytes([number] * 16)), b"graph", chunk_log2=12)
        self.call: Any = None
        self.number = 0

    async def connect(self, stack: AsyncExitStack, port: int) -> wire.Down:
        address = HubAddress(f"127.0.0.1:{port}", AUTHORITY.certificate_pem, self.identity)
        self.call = HubStub(await stack.enter_async_context(dial(address))).Connect()
        await self.call.write(wire.Up(hello=wire.Hello(version=1)))
        down: wire.Down = await self.call.read()
        return down

    async def offer(self, data: bytes) -> wire.Down:
        self.number += 1
        offer = wire.Offer(number=self.number, object=digest(data), size=len(data), head=data)
        await self.call.write(wire.Up(offer=offer))
        down: wire.Down = await self.call.read()
        return down


def test_a_locked_database_makes_the_hub_busy_and_takes_neither_threads_nor_studies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_calls, "THREADS", THREADS)
    monkeypatch.setattr(store_calls, "STUCK_SECONDS", 0.2)
    ends = TwoEnds(tmp_path)
    clinics = [Clinic(ends, number) for number in range(SITES)]
    late = Clinic(ends, SITES)

    async def story() -> None:
        async with serving(ends) as (server, port), AsyncExitStack() as stack:
            for each in clinics:
                assert (await each.connect(stack, port)).HasField("welcome")
                assert (await each.offer(each.record)).HasField("progress")
            path = ends.hub.database.path
            assert path is not None
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                answers = [asyncio.ensure_future(each.offer(each.graph)) for each in clinics]
                while sum(each.done() for each in answers) < SITES - THREADS:
                    await asyncio.sleep(0.01)
                busy = [each.result().refusal for each in answers if each.done()]
                assert len(busy) == SITES - THREADS
                assert {(each.code, each.again_after_ms) for each in busy} == {(wire.REFUSAL_CODE_BUSY, 30_000)}
                assert "does not answer" in busy[0].what
                refusal = (await late.connect(stack, port)).refusal
                assert (refusal.number, refusal.code) == (0, wire.REFUSAL_CODE_BUSY)
                assert sum(each.name.startswith("store") for each in threading.enumerate()) == THREADS
                other.execute("ROLLBACK")
            assert sum([(await each).HasField("receipt") for each in answers]) == THREADS
            again = [await each.offer(each.graph) for each in clinics]
            assert all(each.HasField("receipt") for each in again)
            assert server.sites == sorted(each.site for each in clinics)

    asyncio.run(asyncio.wait_for(story(), 120))
