"""The watched folder: each file is taken once, when it rests, and none stops another."""

import os
import shutil
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path
from threading import Event
from time import process_time
from typing import Any

import pytest

from tests.support.clinic import Clinic
from tests.support.clock import FakeClock
from tests.support.dicoms import chest, dicom
from thinwire.sender import watching
from thinwire.sender.intake import media
from thinwire.sender.outbox.watched_files import ABSENT, Stamp, Taken, WatchedFiles
from thinwire.sender.service import WATCHING
from thinwire.sender.watching import (
    LEAST_PAUSE,
    LONGEST_PAUSE,
    PATIENCE_SECONDS,
    QUIET_SECONDS,
    WatchedFolder,
    notifications,
)
from thinwire.shared.identifiers import digest
from thinwire.shared.parked import FIRST_PAUSE
from thinwire.shared.storage.durable import Disk


class FullDisk(Disk):
    def free(self, folder: Path) -> int:
        del folder
        return 100


class Watched:
    """A clinic that watches a folder, without threads and real time."""

    def __init__(self, folder: Path) -> None:
        self.clinic = Clinic(folder)
        self.clinic.outbox._disk = self.clinic.disk
        self.clock: FakeClock = self.clinic.clock
        self.folder = folder / "export"
        self.folder.mkdir(exist_ok=True)
        self.restart()

    def restart(self) -> None:
        memory = WatchedFiles(
            self.clinic.database, self.folder.resolve(), b"\2" * 32, self.clinic.disk.step, self.clock
        )
        self.watched = WatchedFolder(self.folder.resolve(), memory, self.clock)

    def put(self, name: str, seed: int = 0, study: str = "") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        more: dict[str, Any] = {"StudyInstanceUID": study} if study else {}
        path.write_bytes(dicom(chest(300, 280, seed=seed), SOPInstanceUID=f"1.2.3.{seed}", **more))
        return path

    def turn(self, seconds: float = LEAST_PAUSE) -> None:
        self.clock.advance(seconds)
        self.clinic.service.accept_watched(self.watched)

    def pass_(self, seconds: float) -> None:
        end = self.clock.monotonic() + seconds
        while self.clock.monotonic() < end:
            self.turn()

    @property
    def files(self) -> list[list[bytes]]:
        return self.clinic.files()

    def forget_all(self) -> None:
        """As `keep_days` after the studies arrived."""
        with self.clinic.database.write() as connection:
            connection.exec_driver_sql("DELETE FROM studies")


@pytest.fixture
def here(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_a_file_is_taken_when_it_rests_and_never_again_also_after_a_restart(here: Watched) -> None:
    path = here.put("a.dcm")
    here.turn()
    assert here.files == []
    here.pass_(2 * QUIET_SECONDS)
    assert here.files == [[path.read_bytes()]]
    here.forget_all()
    here.restart()
    here.pass_(10 * QUIET_SECONDS)
    assert here.files == []
    os.utime(path)  # a backup program, or a folder that was copied with its content
    copy = path.with_name(".copy")
    shutil.copy(path, copy)
    copy.replace(path)
    here.pass_(10 * QUIET_SECONDS)
    assert here.files == []
    here.put("a.dcm", seed=1)
    here.pass_(2 * QUIET_SECONDS)
    assert len(here.files) == 1


def test_what_the_folder_lost_for_a_night_is_known_and_what_it_lost_for_good_is_forgotten(here: Watched) -> None:
    here.put("sub/a.dcm")
    here.pass_(2 * QUIET_SECONDS)
    here.forget_all()
    (here.folder / "sub").rename(here.folder / ".sub")
    here.turn()
    (here.folder / ".sub").rename(here.folder / "sub")
    here.pass_(4 * QUIET_SECONDS)
    assert here.files == []
    shutil.rmtree(here.folder / "sub")
    here.turn()
    here.turn(ABSENT.total_seconds() + 1)
    with here.clinic.database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM watched").scalar() == 0


def test_the_files_of_a_study_that_come_one_by_one_are_one_study(here: Watched) -> None:
    for seed in range(4):
        here.put(f"{seed}.dcm", seed, study="1.2.9")
        here.turn()
    here.pass_(3 * QUIET_SECONDS)
    assert [len(each) for each in here.files] == [4]


def test_files_that_never_rest_starve_no_other(here: Watched) -> None:
    log, path = here.folder / "export.log", here.put("a.dcm")
    began = here.clock.monotonic()
    while not here.files:
        with log.open("a") as file:
            file.write("one more line\n")
        here.turn()
        assert here.clock.monotonic() < began + 2 * PATIENCE_SECONDS
    assert here.files == [[path.read_bytes()]]


def test_a_log_with_a_line_now_and_then_does_not_fill_the_quarantine(here: Watched) -> None:
    log = here.folder / "export.log"
    for _ in range(100):
        with log.open("a") as file:
            file.write("one more line\n")
        here.pass_(3 * QUIET_SECONDS)
    assert 1 <= here.clinic.quarantine.count() <= 8


def test_links_fifos_and_sockets_are_passed_over(here: Watched, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    outside = elsewhere / "a.dcm"
    outside.write_bytes(dicom(chest(300, 280)))
    (here.folder / "file.dcm").symlink_to(outside)
    (here.folder / "folder").symlink_to(elsewhere)
    (here.folder / "itself").symlink_to(here.folder)
    os.mkfifo(here.folder / "fifo.dcm")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(here.folder / "socket.dcm"))
        for each in here.folder.iterdir():
            here.watched.note(str(each))
        here.pass_(4 * QUIET_SECONDS)
    assert here.files == []
    assert here.clinic.quarantine.count() == 0
    path = here.put("good.dcm", 1)
    here.pass_(2 * QUIET_SECONDS)
    assert here.files == [[path.read_bytes()]]


def test_a_file_that_vanishes_is_left_out(here: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    part, good = here.put("x.part"), here.put("good.dcm", 1)
    here.turn()
    part.rename(part.with_suffix(".txt"))
    here.watched.note(str(part))
    here.turn()
    part.with_suffix(".txt").unlink()
    here.pass_(2 * QUIET_SECONDS)
    assert here.files == [[good.read_bytes()]]
    # Between the last look and the reading of it.
    other, last = here.put("other.dcm", 2), here.put("last.dcm", 3)
    read = watching._digest

    def gone(path: Path) -> bytes:
        if path.name == other.name:
            path.unlink()
        return read(path)

    monkeypatch.setattr(watching, "_digest", gone)
    here.pass_(2 * QUIET_SECONDS)
    assert [last.read_bytes()] in here.files
    assert here.clinic.outbox.parked.items() == []
    assert here.clinic.quarantine.count() == 0


def test_a_file_that_cannot_be_read_is_told_and_tried_again(here: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, good = here.put("Doe.dcm"), here.put("good.dcm", 1)
    read, refused = watching._digest, True

    def unless_bad(path: Path) -> bytes:
        if refused and path.name == bad.name:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(watching, "_digest", unless_bad)
    here.pass_(2 * QUIET_SECONDS)
    assert here.files == [[good.read_bytes()]]
    (parked,) = here.clinic.outbox.parked.items()
    assert parked.loop == WATCHING
    assert "Permission denied" in parked.reason
    assert f"-inum {bad.stat().st_ino}" in parked.reason
    assert "Doe" not in parked.reason
    refused = False
    here.pass_(2 * FIRST_PAUSE)
    assert len(here.files) == 2
    assert here.clinic.outbox.parked.items() == []


def test_a_full_disk_loses_nothing_of_the_folder(here: Watched) -> None:
    here.put("a.dcm")
    here.clinic.disk.left = 0
    here.pass_(2 * QUIET_SECONDS)
    (parked,) = here.clinic.outbox.parked.items()
    assert "no space" in parked.reason
    here.restart()
    here.clinic.disk.left = None
    here.pass_(2 * FIRST_PAUSE)
    assert len(here.files) == 1
    assert here.clinic.outbox.parked.items() == []


def test_an_archive_that_does_not_fit_on_the_disk_stops_no_other_file(
    here: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(here.folder / "portal.zip", "w") as archive:
        archive.writestr("IM1", dicom(chest(300, 280, seed=1), SOPInstanceUID="1.2.3.1", StudyInstanceUID="1.2.1"))
    here.put("a.dcm", 2)
    monkeypatch.setattr(media, "Disk", FullDisk)
    here.pass_(2 * QUIET_SECONDS)
    assert len(here.files) == 1
    (parked,) = here.clinic.outbox.parked.items()
    assert "zip archive" in parked.reason
    monkeypatch.undo()
    here.pass_(2 * FIRST_PAUSE)
    assert len(here.files) == 2
    assert here.clinic.outbox.parked.items() == []


def test_a_parked_file_that_is_removed_is_parked_no_longer(here: Watched) -> None:
    path = here.put("a.dcm")
    here.clinic.disk.left = 0
    here.pass_(2 * QUIET_SECONDS)
    path.unlink()
    here.pass_(2 * QUIET_SECONDS)
    assert here.clinic.outbox.parked.items() == []


def test_100_000_old_files_are_looked_through_in_two_seconds(here: Watched) -> None:
    """And then notifications do the work: the next look is far away."""
    taken: dict[bytes, Taken] = {}
    memory = here.watched._memory
    for number in range(100_000):
        name = f"{number // 1000}/{number}"
        path = here.folder / name
        if number % 1000 == 0:
            path.parent.mkdir()
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
        status = path.stat()
        taken[memory.name(name)] = Taken(
            Stamp(status.st_size, status.st_mtime_ns, status.st_ino & (1 << 63) - 1), digest(b""), 0
        )
    memory.remember(taken)
    took = []
    for _ in range(3):
        here.restart()
        began = process_time()  # other tests run beside this one
        here.watched.look()
        took.append(process_time() - began)
    assert min(took) < 2.0
    assert here.watched.at_rest(()) == []
    assert not here.watched.is_due


def test_the_system_tells_of_a_new_file_before_the_next_look(here: Watched) -> None:
    here.watched.look()
    here.watched._next_look = LONGEST_PAUSE
    noted = Event()
    note: Callable[[str], None] = here.watched.note

    def seen(path: str) -> None:
        note(path)
        if path.endswith("new.dcm"):
            noted.set()

    here.watched.note = seen  # type: ignore[method-assign]
    with notifications(here.watched):
        (here.folder / "sub").mkdir()
        path = here.put("new.dcm")
        assert noted.wait(60)
    here.turn()
    here.turn(QUIET_SECONDS)
    assert here.files == [[path.read_bytes()]]
