"""Blobs of the hub: two writers of the same content, a damaged file, the sweep."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from tests.support.power import Fuse, PowerCut
from thinwire.shared.errors import BadFormat
from thinwire.shared.storage.blobs import FolderBlobs
from thinwire.shared.storage.durable import Disk

WRITERS = 2


def meeting_at(step: str) -> Disk:
    """A disk on which each writer waits at a step until the other one is there."""
    barrier = Barrier(WRITERS)

    def met(name: str) -> None:
        if name == step:
            barrier.wait(timeout=30)

    return Disk(met, reserve=0)


@pytest.mark.parametrize("step", ["before_write", "before_fsync", "before_rename"])
def test_two_threads_write_the_same_blob_at_the_same_time(tmp_path: Path, step: str) -> None:
    blobs = FolderBlobs(tmp_path / "blobs", meeting_at(f"store.blob.{step}"))
    with ThreadPoolExecutor(WRITERS) as threads:
        names = set(threads.map(blobs.write, [b"the same graph"] * WRITERS))
    (name,) = names
    assert blobs.read(name) == b"the same graph"
    assert [each.name for each in (tmp_path / "blobs").rglob("*") if each.is_file()] == [name.hex()]


def test_a_half_written_blob_is_swept(tmp_path: Path) -> None:
    with pytest.raises(PowerCut):
        FolderBlobs(tmp_path / "blobs", Disk(Fuse(("store.blob.before_rename", 1)), reserve=0)).write(b"half")
    blobs = FolderBlobs(tmp_path / "blobs", Disk(reserve=0))
    kept = blobs.write(b"whole")
    assert blobs.sweep({kept}) == 1
    assert [each.name for each in (tmp_path / "blobs").rglob("*") if each.is_file()] == [kept.hex()]


def test_whole_blobs_stay_where_only_unfinished_files_are_removed(tmp_path: Path) -> None:
    with pytest.raises(PowerCut):
        FolderBlobs(tmp_path / "blobs", Disk(Fuse(("store.blob.before_rename", 1)), reserve=0)).write(b"half")
    blobs = FolderBlobs(tmp_path / "blobs", Disk(reserve=0))
    kept = blobs.write(b"whole")
    assert blobs.remove_unfinished() == 1
    assert [each.name for each in (tmp_path / "blobs").rglob("*") if each.is_file()] == [kept.hex()]


def test_a_damaged_blob_is_not_read(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path / "blobs", Disk(reserve=0))
    name = blobs.write(b"content")
    (tmp_path / "blobs" / name.hex()[:2] / name.hex()).write_bytes(b"contents")
    with pytest.raises(BadFormat):
        blobs.read(name)


def test_a_blob_that_the_disk_cannot_read_is_damaged(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path / "blobs", Disk(reserve=0))
    name = blobs.write(b"content")
    blobs.path(name).unlink()
    blobs.path(name).symlink_to(blobs.path(name).name)  # the system refuses to read it, as with a bad sector
    assert not blobs.is_whole(name)
    with pytest.raises(BadFormat):
        blobs.read(name)
    assert blobs.write(b"content") == name
    assert blobs.read(name) == b"content"


def test_files_of_others_are_passed_over(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path / "blobs", Disk())
    name = blobs.write(b"content")
    (tmp_path / "blobs" / "aa").touch()
    (tmp_path / "blobs" / "lost+found").mkdir()
    (blobs.path(name).parent / ("z" * 64)).touch()
    (blobs.path(name).parent / "notes.txt").touch()
    assert list(blobs.pages()) == [[name]]
    assert blobs.sweep({name}) == 0
    assert len(list((tmp_path / "blobs").rglob("*"))) == 6
