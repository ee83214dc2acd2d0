"""An item that fails is parked with its reason, the others go on, and it is tried again when it is due."""

import errno
import sqlite3
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import MetaData

from tests.support.clock import FakeClock
from thinwire.shared.errors import DiskFull
from thinwire.shared.parked import FIRST_PAUSE, FORGOTTEN, LONGEST_PAUSE, ParkedItems, parked_table
from thinwire.shared.storage.database import Database, engine_of

TABLE = parked_table(MetaData())
LOOP = "make"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def database(tmp_path: Path) -> Database:
    found = Database(tmp_path / "x.db", engine_of(tmp_path / "x.db"))
    with found.write() as connection:
        TABLE.create(connection)
    return found


def fail(parked: ParkedItems, error: Exception, item: str = "a") -> None:
    with parked.guard(LOOP, item):
        raise error


def test_an_error_parks_one_item_with_its_reason_and_success_releases_it(database: Database, clock: FakeClock) -> None:
    parked = ParkedItems(database, TABLE, clock)
    fail(parked, ValueError("of Jane Doe"))
    with parked.guard(LOOP, "b") as attempt:
        pass
    assert attempt.error is None
    assert parked.waits(LOOP) == {"a"}
    (item,) = ParkedItems(database, TABLE, clock).items()
    assert (item.loop, item.item, item.times, item.due) == (LOOP, "a", 1, None)
    assert item.reason.startswith("unexpected error (ValueError, test_parked.py:")
    with parked.guard(LOOP, "a"):
        pass
    assert ParkedItems(database, TABLE, clock).items() == []


def test_a_loop_that_is_parked_itself_is_no_item_of_its_own(database: Database, clock: FakeClock) -> None:
    """Another worker of the same loop goes on."""
    parked = ParkedItems(database, TABLE, clock)
    fail(parked, DiskFull("no space"), item="")
    assert parked.waits(LOOP) == set()
    assert [each.item for each in parked.items()] == [""]


@pytest.mark.parametrize("error", [OSError(errno.EIO, "x", "Doe.dcm"), DiskFull("no space"), MemoryError()])
def test_the_refusal_of_the_system_is_tried_again_after_pauses_that_double(
    database: Database, clock: FakeClock, error: Exception
) -> None:
    parked = ParkedItems(database, TABLE, clock)
    pauses = []
    for _ in range(8):
        fail(parked, error)
        began = clock.monotonic()
        while parked.waits(LOOP):
            clock.advance(FIRST_PAUSE)
        pauses.append(clock.monotonic() - began)
        assert parked.due(LOOP) == ["a"]
    assert pauses[0] == FIRST_PAUSE
    assert pauses[1] == 2 * FIRST_PAUSE
    assert pauses[-1] == LONGEST_PAUSE
    assert "Doe" not in parked.items()[0].reason


def test_a_disk_that_fails_is_told_plainly(database: Database, clock: FakeClock) -> None:
    parked = ParkedItems(database, TABLE, clock)
    for code, words in ((errno.EIO, "Input/output error"), (errno.EROFS, "Read-only"), (errno.ENOSPC, "No space left")):
        fail(parked, OSError(code, "x", "Doe.dcm"))
        assert words in parked.items()[0].reason


def test_another_error_waits_for_a_command_or_another_version(database: Database, clock: FakeClock) -> None:
    parked = ParkedItems(database, TABLE, clock, "1.0")
    for item in ("a", "b"):
        fail(parked, ValueError(), item)
    clock.advance(timedelta(days=365).total_seconds())
    assert parked.waits(LOOP) == {"a", "b"}
    assert ParkedItems(database, TABLE, clock, "1.0").retry("b") == 1  # of another process
    assert parked.waits(LOOP) == {"a"}
    same = ParkedItems(database, TABLE, clock, "1.0")
    same.begin()
    assert same.waits(LOOP) == {"a"}
    newer = ParkedItems(database, TABLE, clock, "1.1")
    newer.begin()
    assert newer.waits(LOOP) == set()
    fail(newer, ValueError())
    newer.begin()
    assert newer.waits(LOOP) == {"a"}


def test_memory_holds_what_the_database_cannot_take(database: Database, clock: FakeClock, tmp_path: Path) -> None:
    parked = ParkedItems(database, TABLE, clock)
    other = sqlite3.connect(tmp_path / "x.db")
    other.execute("ALTER TABLE parked RENAME TO away")
    other.commit()
    fail(parked, ValueError())
    other.execute("ALTER TABLE away RENAME TO parked")
    other.commit()
    other.close()
    assert parked.items()[0].item == "a"
    assert parked.counts() == {LOOP: 1}
    assert parked.waits(LOOP) == {"a"}  # which writes it, too
    assert [each.item for each in ParkedItems(database, TABLE, clock).items()] == ["a"]


def test_an_item_of_which_nothing_is_heard_is_forgotten(database: Database, clock: FakeClock) -> None:
    parked = ParkedItems(database, TABLE, clock)
    fail(parked, OSError())
    fail(parked, ValueError(), "b")
    clock.advance(FORGOTTEN.total_seconds() + FIRST_PAUSE + 1)
    parked.begin()
    assert [each.item for each in parked.items()] == ["b"]


def test_what_one_process_parked_another_counts_on_and_releases(database: Database, clock: FakeClock) -> None:
    here, there = (ParkedItems(database, TABLE, clock) for _ in range(2))
    fail(here, OSError())
    fail(there, OSError())
    assert [(each.item, each.times) for each in here.items()] == [("a", 2)]
    for number in range(4):
        (here, there)[number % 2].park(LOOP, f"north/{number}", OSError(), most=3, of="north/")
    assert here.counts() == {LOOP: 4}
