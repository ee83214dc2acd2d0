"""A replica's leases of streams: no row is left of a stream that did not come about."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from sqlalchemy import select

from tests.support.real_link import until
from tests.support.two_ends import SITE, TwoEnds
from thinwire.receiver.store.streams import Streams
from thinwire.receiver.store.tables import streams
from thinwire.receiver.transport.store_calls import StoreCalls
from thinwire.receiver.transport.stream_leases import StreamLeases
from thinwire.shared.errors import LinkLost


class Replica:
    def __init__(self, ends: TwoEnds, name: str) -> None:
        self.database = ends.hub.database
        self.streams = Streams(self.database, ends.clock, name)
        self.streams.begin("".join)
        self.calls = StoreCalls(1)
        self.doing: list[asyncio.Task[None]] = []
        self.leases = StreamLeases(self.streams, self.calls, self._do)

    def _do(self, act: Coroutine[Any, Any, None]) -> None:
        self.doing.append(asyncio.get_running_loop().create_task(act))

    def rows(self) -> list[int]:
        with self.database.read() as connection:
            return list(connection.scalars(select(streams.c.number)))


def test_a_clinic_that_goes_while_its_stream_is_opened_leaves_no_row(ends: TwoEnds) -> None:
    async def run() -> None:
        one = Replica(ends, "one")
        with one.database.write():
            taking = asyncio.ensure_future(one.leases.take(SITE))
            await asyncio.sleep(0)
            taking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await taking
        await until(lambda: bool(one.doing))
        await asyncio.gather(*one.doing)
        assert one.rows() == []
        one.calls.close()

    asyncio.run(run())


def test_a_stream_that_a_newer_one_overtakes_leaves_no_row(ends: TwoEnds) -> None:
    async def run() -> None:
        one, two = Replica(ends, "one"), Replica(ends, "two")
        old = two.streams.open(SITE)
        taking = asyncio.ensure_future(one.leases.take(SITE))
        await until(lambda: len(one.rows()) == 2)
        new = two.streams.open(SITE)
        one.leases.heard({SITE})
        with pytest.raises(LinkLost):
            await taking
        await asyncio.gather(*one.doing)
        assert one.rows() == [old, new]
        one.calls.close()
        two.calls.close()

    asyncio.run(run())
