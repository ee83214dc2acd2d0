import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.clock import FakeClock
from tests.support.two_ends import SITE
from thinwire.receiver.transport.inbox import STALE, FilePartial, FolderInbox
from thinwire.shared.errors import DiskFull, LimitReached
from thinwire.shared.identifiers import Digest, SiteName, digest
from thinwire.shared.storage.durable import Disk

OBJECT = digest(b"an object")
SIZE = 1_000


def distrust(_: object) -> int:
    return 0


def inbox_of(folder: Path) -> FolderInbox:
    return FolderInbox(folder, Disk(reserve=0), FakeClock())


def begin(
    inbox: FolderInbox, object: Digest = OBJECT, site: SiteName = SITE, size: int = SIZE, most: int = 64
) -> FilePartial:
    return inbox.open(site, object, size, distrust, most)


@contextmanager
def longest_file(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_is_synced_is_durable(tmp_path: Path) -> None:
    partial = begin(inbox_of(tmp_path))
    partial.append(b"a" * 300)
    assert (partial.length, partial.durable, partial.unsynced, partial.whole) == (300, 0, 300, False)
    partial.sync()
    assert (partial.durable, partial.unsynced) == (300, 0)
    partial.append(b"b" * 700)
    assert partial.whole
    with partial.content() as data:
        assert bytes(data) == b"a" * 300 + b"b" * 700
    partial.close()
    partial.close()


def test_the_same_process_goes_on_from_what_was_written(tmp_path: Path) -> None:
    inbox = inbox_of(tmp_path)
    partial = begin(inbox)
    partial.append(b"a" * 300)
    partial.close()
    again = begin(inbox)
    assert (again.length, again.durable) == (300, 300)
    again.close()


def test_another_process_goes_on_from_what_can_be_trusted(tmp_path: Path) -> None:
    partial = begin(inbox_of(tmp_path))
    partial.append(b"a" * 300)
    partial.close()
    again = inbox_of(tmp_path).open(SITE, OBJECT, SIZE, lambda file: len(file.read(200)), 64)
    assert (again.length, again.durable) == (200, 200)
    again.append(b"b" * 800)
    with again.content() as data:
        assert bytes(data) == b"a" * 200 + b"b" * 800
    again.close()


def test_nothing_is_left_of_what_is_discarded(tmp_path: Path) -> None:
    inbox = inbox_of(tmp_path)
    partial = begin(inbox)
    partial.append(b"a" * 300)
    partial.sync()
    assert inbox.objects(SITE) == [OBJECT]
    partial.discard()
    assert inbox.objects(SITE) == []
    fresh = begin(inbox)
    assert fresh.length == 0
    fresh.close()
    inbox.forget(SITE, OBJECT)
    inbox.forget(SITE, OBJECT)
    assert inbox.objects(SITE) == []


def test_a_disk_that_fills_up_takes_nothing_of_a_chunk(tmp_path: Path) -> None:
    partial = begin(inbox_of(tmp_path))
    partial.append(b"a" * 300)
    with longest_file(500), pytest.raises(DiskFull):
        partial.append(b"b" * 400)
    assert partial.length == 300
    assert os.stat(partial.path).st_size == 300  # noqa: PTH116
    partial.append(b"c" * 700)
    assert partial.whole
    partial.close()


def test_an_object_that_does_not_fit_is_refused_before_a_byte(tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match=str(1 << 60)):
        begin(inbox_of(tmp_path), size=1 << 60)


def test_a_site_has_so_many_partial_objects_and_another_site_its_own(tmp_path: Path) -> None:
    inbox = inbox_of(tmp_path)
    partials = [begin(inbox, digest(bytes([n])), most=3) for n in range(3)]
    with pytest.raises(LimitReached, match="already in transfer") as caught:
        begin(inbox, most=3)
    assert "(partials) with `thinwire-receiver site quota`" in caught.value.remedy
    partials.append(begin(inbox, site=SiteName("south-ridge"), most=3))
    partials.append(begin(inbox, digest(b"\0"), most=3))  # known: no new one
    with pytest.raises(LimitReached):
        begin(inbox, site=SiteName("east-bank"), most=0)
    for each in partials:
        each.close()


def test_the_oldest_that_has_not_moved_for_a_week_makes_room(tmp_path: Path) -> None:
    inbox = inbox_of(tmp_path)
    for n in range(2):
        begin(inbox, digest(bytes([n]))).close()
    old = tmp_path / SITE / digest(b"\0").hex()
    then = (FakeClock().now() - STALE - timedelta(seconds=1)).timestamp()
    os.utime(old, (then, then))
    begin(inbox, most=2).close()
    assert not old.exists()
    assert set(inbox.objects(SITE)) == {OBJECT, digest(b"\1")}
