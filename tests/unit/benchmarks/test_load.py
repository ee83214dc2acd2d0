"""The load laboratory's account, its arrivals, its balancer and its studies."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmarks.evidence.load import lines
from benchmarks.evidence.results import NotMeasured, Results
from benchmarks.load.balancer import Balancer
from benchmarks.load.fleet import arrivals, peak_rate
from benchmarks.load.ledger import Ledger, spread
from benchmarks.load.scenarios import slope
from benchmarks.load.studies import LoadObject, LoadStudy
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.formats.receipts import Place, Receipt, StudyStatus, place_detail
from thinwire.shared.identifiers import GENERATION_BYTES, Generation, SiteName, StudyKey, digest

KEY = StudyKey(b"k" * 16)
STUDY = LoadStudy(
    KEY, False, tuple(LoadObject(KEY, kind, digest(bytes([kind])), b"x") for kind in (Kind.GRAPH, Kind.MANIFEST))
)
AT = datetime(2026, 3, 4, tzinfo=UTC)


def stored(number: int, position: int) -> Receipt:
    place = place_detail(Place(Generation(bytes(GENERATION_BYTES)), position))
    return Receipt(KEY, SiteName("load-00000"), STUDY.objects[number].object, StudyStatus.STORED, AT, place)


TRIAGED = Receipt(KEY, SiteName("load-00000"), None, StudyStatus.TRIAGED, AT)


def test_a_study_is_lost_until_each_object_has_its_receipt() -> None:
    ledger = Ledger()
    ledger.give(STUDY, now=1.0)
    ledger.take(stored(0, 1), now=2.0)
    assert (ledger.result()["lost"], ledger.waiting) == (1, 1)
    ledger.take(stored(1, 2), now=3.0)
    assert (ledger.result()["lost"], ledger.waiting) == (0, 1)  # not triaged yet
    ledger.take(TRIAGED, now=5.0)
    assert ledger.waiting == 0
    assert ledger.result()["seconds_to_triaged"]["median"] == 4.0


def test_a_receipt_that_comes_again_counts_once_and_another_one_twice() -> None:
    ledger = Ledger()
    ledger.give(STUDY, now=0.0)
    for each in (stored(0, 1), stored(0, 1), TRIAGED, TRIAGED):
        ledger.take(each, now=1.0)
    assert ledger.twice() == 0
    ledger.take(stored(0, 7), now=2.0)
    assert ledger.twice() == 1
    ledger.take(replace(TRIAGED, detail=b'{"urgency":"routine"}'), now=3.0)
    assert ledger.twice() == 2
    ledger.take(replace(TRIAGED, study=StudyKey(bytes(16))), now=4.0)
    assert ledger.unknown == 1


def test_the_99th_percentile_is_one_of_the_values() -> None:
    assert spread(range(1, 101)) == {"n": 100, "median": 50.5, "p99": 99, "most": 100}
    assert spread([]) == {"n": 0}
    assert slope([(100, 7.0), (500, 15.0), (2000, 45.0)]) == pytest.approx((0.02, 5.0))


def test_arrivals_have_the_rate_of_the_morning() -> None:
    rate = peak_rate(500)
    times = arrivals(rate, 2000, seed=1)
    assert times == sorted(times)
    assert 2000 / times[-1] == pytest.approx(rate, rel=0.1)


def test_the_page_says_that_nothing_is_measured_where_there_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(NotMeasured):
        lines(Results(tmp_path))


@asynccontextmanager
async def echo() -> AsyncIterator[int]:
    """A server that sends back what it gets; its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(100):
                writer.write(data)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def asked(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"hello")
        return await reader.read(100)
    finally:
        writer.close()


def test_a_balancer_passes_over_a_dead_target_and_can_be_cut_and_mended() -> None:
    async def act() -> None:
        async with echo() as port, Balancer([1, port]).running() as line:
            assert [await asked(line.port) for _ in range(3)] == [b"hello"] * 3
            reader, writer = await asyncio.open_connection("127.0.0.1", line.port)
            writer.write(b"open")
            assert await reader.read(100) == b"open"
            await line.cut()
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read(100) == b""
            writer.close()
            with pytest.raises(ConnectionRefusedError):
                await asked(line.port)
            await line.mend()
            assert await asked(line.port) == b"hello"

    asyncio.run(act())


def test_a_frozen_connection_stays_open_and_carries_nothing() -> None:
    async def act() -> None:
        async with echo() as port, Balancer([port]).running() as line:
            reader, writer = await asyncio.open_connection("127.0.0.1", line.port)
            writer.write(b"first")
            assert await reader.read(100) == b"first"
            assert line.freeze(1) == 1
            writer.write(b"second")
            assert await asked(line.port) == b"hello"  # another one goes on
            answer = asyncio.ensure_future(reader.read(100))
            await asyncio.sleep(0)
            assert not answer.done()
            answer.cancel()
            writer.close()

    asyncio.run(act())
