"""Two replicas on one PostgreSQL database, over real gRPC: a site has one stream; what one stores the other tells."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from tests.support.hub_end import HubEnd, enrolled
from tests.support.postgresql import new_database
from tests.support.real_link import SERVER, until
from tests.support.two_ends import AUTHORITY, KEYS, SITE, SITE_SIGNING
from thinwire.receiver.store.streams import Streams
from thinwire.receiver.store.tables import HUB, studies
from thinwire.receiver.transport.inbox import FolderInbox
from thinwire.receiver.transport.link_book import LinkBook
from thinwire.receiver.transport.link_status import read_status
from thinwire.receiver.transport.service import HubServer
from thinwire.sender.transport.connection import HubAddress, dial
from thinwire.shared.clock import SystemClock
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.crypto.keys import Identity
from thinwire.shared.identifiers import StudyKey
from thinwire.shared.storage.durable import Disk
from thinwire.shared.storage.migrations import open_database
from thinwire.shared.wire.v1 import link_pb2 as wire
from thinwire.shared.wire.v1.link_pb2_grpc import HubStub

CLOCK = SystemClock()


class Replica:
    """One `serve` process's link."""

    def __init__(self, name: str, folder: Path, url: str) -> None:
        self.data = folder / name
        self.data.mkdir()
        disk = Disk()
        self.hub = HubEnd(self.data, b"", KEYS, disk, CLOCK, [], open_database(url, HUB))
        self.streams = Streams(self.hub.database, CLOCK, name)
        self.book = LinkBook(self.data, CLOCK, self.streams)
        inbox, news = FolderInbox(self.data / "inbox", disk, CLOCK), self.hub.news
        parts = self.hub.pipeline, inbox, SERVER, AUTHORITY.certificate_pem, CLOCK, disk, news
        self.server = HubServer(*parts, streams=self.streams)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        with self.hub.news.running():
            self.server.links(before=self.book.begin())
            port = await self.server.start("127.0.0.1:0")
            try:
                yield port
            finally:
                await self.server.stop(grace=0)
                self.book.end(self.server.links())
        self.hub.database.close()


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[tuple[Replica, Replica, Identity]]:
    with new_database() as url:
        one, two = Replica("one", tmp_path, url), Replica("two", tmp_path, url)
        yield one, two, enrolled(one.hub.enrolment, SITE, SITE_SIGNING)


Calls = Callable[[int], Coroutine[Any, Any, Any]]


def with_both(
    replicas: tuple[Replica, Replica, Identity], act: Callable[[Calls, int, int], Coroutine[Any, Any, None]]
) -> None:
    one, two, identity = replicas

    async def run() -> None:
        async with contextlib.AsyncExitStack() as stack:
            ports = [await stack.enter_async_context(each.serving()) for each in (one, two)]

            async def connected(port: int) -> Any:
                address = HubAddress(f"127.0.0.1:{port}", AUTHORITY.certificate_pem, identity)
                channel = await stack.enter_async_context(dial(address))
                call = HubStub(channel).Connect()
                await call.write(wire.Up(hello=wire.Hello(version=1)))
                assert (await call.read()).welcome.version == 1
                return call

            await act(connected, *ports)

    asyncio.run(asyncio.wait_for(run(), 120))


def test_a_stream_at_another_replica_takes_over_and_all_know_where_the_clinic_is(
    replicas: tuple[Replica, Replica, Identity],
) -> None:
    one, two, _ = replicas

    async def act(connected: Calls, first: int, second: int) -> None:
        before = await connected(first)
        after = await connected(second)
        assert (await before.code()).name == "ABORTED"
        await until(lambda: not one.server.sites)
        assert two.server.sites == [SITE]
        for each in (two, one):
            each.book.write(each.server.links())
        for each in (one, two):
            serves, (link,) = read_status(each.data, CLOCK.now())
            assert (serves, link.site, link.connected, link.replica) == (True, SITE, True, "two")
        # And back, while the second one still believes in its stream.
        again = await connected(first)
        assert (await after.code()).name == "ABORTED"
        await until(lambda: one.server.sites == [SITE] and not two.server.sites)
        again.cancel()
        await until(lambda: not one.server.sites)
        await until(lambda: not rows(one))

    with_both(replicas, act)


def test_a_stream_of_which_no_other_replica_knows_ends(replicas: tuple[Replica, Replica, Identity]) -> None:
    one = replicas[0]

    async def act(connected: Calls, first: int, _: int) -> None:
        call = await connected(first)
        one.server.check_replaced()
        assert await asyncio.to_thread(one.streams.numbers)
        assert one.server.sites == [SITE]
        with one.hub.database.write() as connection:
            connection.exec_driver_sql("DELETE FROM streams")
        one.server.check_replaced()
        assert (await call.code()).name == "ABORTED"
        await until(lambda: not one.server.sites)

    with_both(replicas, act)


def rows(replica: Replica) -> list[object]:
    with replica.hub.database.read() as connection:
        return list(connection.exec_driver_sql("SELECT number FROM streams"))


def test_a_revocation_at_one_replica_ends_the_stream_at_another(replicas: tuple[Replica, Replica, Identity]) -> None:
    one, two, _ = replicas

    async def act(connected: Calls, first: int, _: int) -> None:
        call = await connected(first)
        await asyncio.to_thread(two.hub.enrolment.dismiss, SITE)
        assert (await call.read()).refusal.code == wire.REFUSAL_CODE_NOT_ENROLLED
        call.cancel()
        await until(lambda: not one.server.sites)

    with_both(replicas, act)


def test_what_another_replica_stores_for_a_clinic_is_told_on_its_stream(
    replicas: tuple[Replica, Replica, Identity],
) -> None:
    two = replicas[1].hub.store
    study = StudyKey(bytes(16))

    def opened() -> bytes:
        with replicas[1].hub.database.write() as connection:
            connection.execute(insert(studies).values(site=SITE, study=study, received_at=0, urgent_asked=False))
        two.record_opened(SITE, study)
        return two.undelivered_receipts(SITE)[0]

    async def act(connected: Calls, first: int, _: int) -> None:
        call = await connected(first)
        signed = await asyncio.to_thread(opened)
        assert (await call.read()).receipt.signed == signed
        await asyncio.to_thread(two.request, SITE, study, Kind.PREVIEW)
        asked = (await call.read()).tier_request
        assert (asked.study, asked.kind) == (study, Kind.PREVIEW)
        call.cancel()

    with_both(replicas, act)
