import os
import tracemalloc
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.support.clinic import clinic_database
from tests.support.clock import FakeClock
from tests.support.power import Fuse, LossyDisk, PowerCut
from thinwire.sender.outbox.quarantine import Quarantine
from thinwire.shared.errors import DiskFull, NotChestRadiograph, UnreadableDicom
from thinwire.shared.identifiers import digest
from thinwire.shared.storage.durable import Disk

ERROR = NotChestRadiograph("its modality is CT, not CR, DX or RG")
ROOM = 3 * (4096 + 1000)


def quarantine_in(
    data: Path, disk: Disk | None = None, clock: FakeClock | None = None, limit: int = 1 << 30
) -> Quarantine:
    database = clinic_database(data)
    return Quarantine(data / "quarantine", database, disk or Disk(reserve=0), clock or FakeClock(), limit)


def kept(data: Path) -> set[str]:
    return {path.stem for path in (data / "quarantine").glob("*.refused")}


def test_a_refused_file_is_kept_as_it_came_and_its_reason_is_known(tmp_path: Path) -> None:
    source = tmp_path / "DOE_JANE.dcm"
    source.write_bytes(b"some bytes")
    quarantine = quarantine_in(tmp_path / "clinic")
    name = quarantine.add(source, ERROR)
    assert name == digest(b"some bytes")
    path = tmp_path / "clinic" / "quarantine" / f"{name.hex()}.refused"
    assert path.read_bytes() == b"some bytes"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert quarantine.reasons() == [
        {
            "digest": name.hex(),
            "size": 10,
            "kept": True,
            "at": "2026-03-04T12:00:00+00:00",
            "error": "NotChestRadiograph",
            "what": str(ERROR),
            "remedy": ERROR.remedy,
        }
    ]
    files = [each for each in (tmp_path / "clinic").rglob("*") if each.is_file()]
    assert not [each for each in files if "DOE" in each.name or b"DOE" in each.read_bytes()]
    assert source.exists()


def test_the_same_file_again_renews_its_reason(tmp_path: Path) -> None:
    clock = FakeClock()
    quarantine = quarantine_in(tmp_path, clock=clock)
    quarantine.add(b"x", ERROR)
    clock.advance(60)
    quarantine.add(b"x", UnreadableDicom("cut short"))
    (reason,) = quarantine.reasons()
    assert (reason["what"], reason["at"]) == ("cut short", "2026-03-04T12:01:00+00:00")


def test_the_oldest_make_room(tmp_path: Path) -> None:
    clock = FakeClock()
    quarantine = quarantine_in(tmp_path, clock=clock, limit=ROOM)
    names = []
    for number in range(5):
        clock.advance(1)
        name = quarantine.add(bytes([number]) * 1000, ERROR)
        assert name is not None
        names.append(name.hex())
    assert kept(tmp_path) == set(names[2:])
    assert [reason["digest"] for reason in quarantine.reasons()] == names[2:]
    assert [reason["digest"] for reason in quarantine.reasons(2)] == names[3:]
    assert quarantine.count() == 3


@pytest.mark.parametrize("moved", [False, True])
def test_a_large_file_is_not_read_into_memory(tmp_path: Path, moved: bool) -> None:
    source = tmp_path / "large"
    with source.open("wb") as file:
        file.truncate(64 << 20)
    quarantine = quarantine_in(tmp_path / "clinic")
    act = quarantine.take_over if moved else quarantine.add
    tracemalloc.start()
    name = act(source, ERROR)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert name is not None
    assert (tmp_path / "clinic" / "quarantine" / f"{name.hex()}.refused").stat().st_size == 64 << 20
    assert source.exists() is not moved
    assert most < 16 << 20


@pytest.mark.parametrize("from_path", [True, False])
def test_a_file_larger_than_the_room_leaves_its_reason(tmp_path: Path, from_path: bool) -> None:
    source = tmp_path / "large"
    source.write_bytes(b"z" * (ROOM + 1))
    quarantine = quarantine_in(tmp_path, limit=ROOM)
    name = quarantine.add(source if from_path else source.read_bytes(), ERROR)
    assert name == digest(source.read_bytes())
    assert not kept(tmp_path)
    assert quarantine.reasons()[0]["kept"] is False


def test_a_file_that_is_gone_is_nothing_to_keep(tmp_path: Path) -> None:
    quarantine = quarantine_in(tmp_path)
    assert quarantine.add(tmp_path / "gone", ERROR) is None
    assert quarantine.reasons() == []


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    quarantine = quarantine_in(tmp_path, Disk(reserve=1 << 62))
    with pytest.raises(DiskFull):
        quarantine.add(b"x", ERROR)
    assert quarantine.reasons() == []
    assert list((tmp_path / "quarantine").iterdir()) == []


def test_wherever_the_power_is_cut_a_repeat_ends_the_same(tmp_path: Path) -> None:
    def act(data: Path, fuse: Fuse) -> None:
        clock, moved = FakeClock(), data.parent / "moved"
        quarantine = quarantine_in(data, LossyDisk(fuse), clock, limit=2 * (4096 + 1000))
        for each in (b"a" * 1000, b"b" * 1000, b"a" * 1000, b"c" * 1000):
            clock.advance(1)
            if each[:1] == b"b":
                moved.write_bytes(each)
                quarantine.take_over(moved, ERROR)
            else:
                quarantine.add(each, ERROR)

    whole = Fuse()
    act(tmp_path / "whole", whole)
    assert {"quarantine.copy.before_fsync", "quarantine.row.committed", "quarantine.remove.done"} <= set(whole.passed)
    for name, count in {(name, whole.passed[: n + 1].count(name)) for n, name in enumerate(whole.passed)}:
        data = tmp_path / f"{name}-{count}"
        with pytest.raises(PowerCut):
            act(data, Fuse((name, count)))
        again = quarantine_in(data)
        again.recover()
        assert kept(data) == {str(each["digest"]) for each in again.reasons()}
        act(data, Fuse())
        assert kept(data) == {digest(each * 1000).hex() for each in (b"a", b"c")}
        assert again.count() == 2


def test_a_start_names_what_has_no_row_and_tells_of_what_has_no_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    quarantine = quarantine_in(tmp_path, clock=clock)
    name = quarantine.add(b"x", ERROR)
    assert name is not None
    folder = tmp_path / "quarantine"
    (folder / f"{digest(b'y').hex()}.refused").write_bytes(b"y")
    (folder / "notes.refused").write_bytes(b"of a person")
    for copy, age in ((".old.tmp", timedelta(days=2)), (".new.tmp", timedelta(minutes=1))):
        (folder / copy).touch()
        os.utime(folder / copy, ((clock.now() - age).timestamp(),) * 2)
    quarantine.recover()
    unnamed = digest(b"y").hex()
    files = {f"{name.hex()}.refused", f"{unnamed}.refused", "notes.refused", ".new.tmp"}
    assert {each.name for each in folder.iterdir()} == files
    assert [each["what"] for each in quarantine.reasons() if each["digest"] == unnamed] == [
        "the reason of this refusal was lost"
    ]
    assert caplog.text == ""
    (folder / f"{name.hex()}.refused").unlink()
    quarantine.recover()
    assert "1 refused files are missing" in caplog.text
    assert quarantine.count() == 2
    quarantine.add(b"x", ERROR)
    assert kept(tmp_path) >= {name.hex()}


def test_every_query_goes_by_an_index(tmp_path: Path) -> None:
    database = clinic_database(tmp_path)
    with database.read() as connection:
        for query in (
            "SELECT sum(size + 4096) FROM quarantine WHERE kept",
            "SELECT digest, size, kept FROM quarantine ORDER BY at, digest",
            "SELECT * FROM quarantine ORDER BY at DESC, digest DESC LIMIT 20",
        ):
            plan = [row.detail for row in connection.execute(text("EXPLAIN QUERY PLAN " + query))]
            assert "quarantine_at" in plan[0], query
            assert len(plan) == 1
