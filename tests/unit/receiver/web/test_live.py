"""Open pages hear of changes by one look for all of them; their rows are made once for all of them."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest
from sqlalchemy import Engine, event

from tests.support.hub_folder import Clinic, StudyParts
from tests.support.reading_room import ReadingRoom, quiet
from thinwire.receiver.hub import Hub
from thinwire.receiver.transport.ingest import IncomingObject
from thinwire.receiver.transport.link_status import SiteLink, write_status
from thinwire.receiver.web.live import ENDED, LIST, PROGRESS, SESSIONS_EVERY, OpenPage, SharedRows, Watcher
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.identifiers import StudyKey

PAGES = 50


@pytest.fixture
def room(hub: Hub) -> ReadingRoom:
    return ReadingRoom(hub)


@pytest.fixture
def watcher(room: ReadingRoom) -> Iterator[Watcher]:
    with closing(Watcher(room.room)) as found:
        yield found


@pytest.fixture
def queries() -> Iterator[list[str]]:
    asked: list[str] = []

    def note(_c: object, _cursor: object, statement: str, *_: object) -> None:
        if not statement.startswith("BEGIN"):
            asked.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    yield asked
    event.remove(Engine, "before_cursor_execute", note)


def secret(room: ReadingRoom, name: str = "anna") -> str:
    """Of a new session."""
    if name not in [each.name for each in room.room.accounts.all()]:
        room.person(name)
    return room.room.accounts.start(name, quiet)


async def heard(page: OpenPage) -> str | None:
    """The event that a page has to tell now."""
    waiting = asyncio.ensure_future(page.event())
    await asyncio.sleep(0)
    if waiting.done():
        return waiting.result()
    waiting.cancel()
    return None


def test_fifty_pages_hear_of_a_change_once_and_by_one_look(
    room: ReadingRoom, watcher: Watcher, clinic: Clinic, parts: StudyParts, queries: list[str]
) -> None:
    mine = secret(room)

    async def story() -> None:
        with ExitStack() as open_:
            pages = [open_.enter_context(watcher.open(mine)) for _ in range(PAGES)]
            await watcher.look()
            assert [await heard(page) for page in pages] == [None] * PAGES
            queries.clear()
            await watcher.look()
            assert queries == []  # nothing was committed
            room.put(clinic, parts.graph)
            room.put(clinic, parts.manifest)
            queries.clear()
            await watcher.look()
            assert len(queries) == 1  # the sessions of all
            assert [await heard(page) for page in pages] == [LIST] * PAGES
            await watcher.look()
            assert [await heard(page) for page in pages] == [None] * PAGES

    asyncio.run(story())


def test_a_page_that_is_closed_hears_nothing(
    room: ReadingRoom, watcher: Watcher, clinic: Clinic, parts: StudyParts, queries: list[str]
) -> None:
    async def story() -> None:
        with watcher.open(secret(room)) as page:
            await watcher.look()
        room.put(clinic, parts.graph)
        queries.clear()
        await watcher.look()
        assert queries == []
        assert await heard(page) is None

    asyncio.run(story())


def test_a_transfer_is_progress_and_an_opened_link_a_change(
    room: ReadingRoom, watcher: Watcher, clinic: Clinic
) -> None:
    now = room.clock.now()
    moving = (IncomingObject(parts_key(), Kind.ORIGINALS, 250_000, 1_000_000),)

    async def story() -> None:
        with watcher.open(secret(room)) as page:
            await watcher.look()
            write_status(room.hub.data, [SiteLink(clinic.site, True, now, now)], now)
            await watcher.look()
            assert await heard(page) == LIST
            write_status(room.hub.data, [SiteLink(clinic.site, True, now, now, 5000.0, moving)], now)
            await watcher.look()
            await watcher.look()
            assert await heard(page) == PROGRESS
            assert await heard(page) is None

    asyncio.run(story())


def test_a_session_that_is_signed_out_ends_at_the_next_look_and_an_idle_one_within_seconds(
    room: ReadingRoom, watcher: Watcher
) -> None:
    out, idle = secret(room), secret(room, "bert")

    async def story() -> None:
        with watcher.open(out) as mine, watcher.open(out) as also_mine, watcher.open(idle) as other:
            await watcher.look()
            room.room.accounts.end(out, quiet)
            await watcher.look()
            assert [await heard(page) for page in (mine, also_mine, other)] == [ENDED, ENDED, None]
            room.clock.advance(3601)  # nothing is committed meanwhile
            assert SESSIONS_EVERY <= 10
            await watcher.look()
            assert await heard(other) == ENDED

    asyncio.run(story())


def test_a_look_that_fails_leaves_the_next_one(
    room: ReadingRoom, watcher: Watcher, clinic: Clinic, parts: StudyParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thinwire.receiver.web.live.EVERY", 0)

    async def story() -> str:
        with watcher.open(secret(room)) as page:
            await watcher.look()
            with room.hub.database.write() as connection:
                connection.exec_driver_sql("ALTER TABLE events RENAME TO gone")
            running = asyncio.create_task(watcher.run())
            for _ in range(20):
                await asyncio.to_thread(int)
            with room.hub.database.write() as connection:
                connection.exec_driver_sql("ALTER TABLE gone RENAME TO events")
            room.put(clinic, parts.graph)
            event = await asyncio.wait_for(page.event(), 20)
            running.cancel()
            return event

    assert asyncio.run(story()) == LIST


def test_rows_are_made_once_for_all_until_something_changes() -> None:
    made, now = list[str](), [0.0]
    shared = SharedRows(lambda: now[0])

    def rows(key: str, stamp: int) -> bytes:
        def make() -> bytes:
            made.append(f"{key} {stamp}")
            return made[-1].encode()

        return shared.rows(key, stamp, make)

    assert [rows("all", 1) for _ in range(PAGES)] == [b"all 1"] * PAGES
    assert made == ["all 1"]
    assert rows("ridge", 1) == b"ridge 1"
    assert rows("all", 2) == b"all 2"
    now[0] = 10.0  # the ages have grown
    rows("all", 2)
    assert made == ["all 1", "ridge 1", "all 2", "all 2"]


def test_fifty_refreshes_are_one_page_and_fifty_looks_at_the_session(
    room: ReadingRoom, clinic: Clinic, parts: StudyParts, queries: list[str]
) -> None:
    room.put(clinic, parts.graph)
    reader = room.person("anna")
    first = reader.get("/rows")
    queries.clear()
    assert {reader.get("/rows") for _ in range(PAGES)} == {first}
    assert not [each for each in queries if "worklist" in each or "readings" in each]
    room.put(clinic, parts.manifest)
    assert reader.get("/rows") != first


def parts_key() -> StudyKey:
    return StudyKey(bytes(16))
