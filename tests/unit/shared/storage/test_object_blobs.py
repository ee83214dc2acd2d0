"""Blobs in an object store, in a folder and on an S3 server over HTTP: what a store confirms, and what goes wrong."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.clock import FakeClock
from tests.support.object_store import Fault, Proxy, bucket, faulty_bucket
from thinwire.shared.errors import BadConfiguration, BadFormat, DiskFull, ObjectStoreBusy, StorageFailed, ThinwireError
from thinwire.shared.identifiers import digest
from thinwire.shared.storage import object_store as module
from thinwire.shared.storage.blobs import Blobs, FolderBlobs
from thinwire.shared.storage.durable import Disk
from thinwire.shared.storage.object_blobs import ObjectBlobs
from thinwire.shared.storage.object_store import SILENCE, ObjectStore, object_store

LARGE = bytes(range(256)) * (module.READ_BACK // 256 + 1)
DISK = Disk(reserve=0)


@pytest.fixture(params=["file", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "file":
        yield f"file://{tmp_path}/a%20store"
    else:
        with bucket() as at:
            yield at


@pytest.fixture
def store(url: str) -> ObjectStore:
    return object_store(url, DISK)


@pytest.fixture
def blobs(store: ObjectStore) -> Blobs:
    return ObjectBlobs(store, "blobs")


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with faulty_bucket() as made:
        yield made


@pytest.fixture
def behind(proxy: Proxy, clock: FakeClock) -> ObjectBlobs:
    """Blobs in a store that misbehaves."""
    store = object_store(proxy.url, DISK, patience=timedelta(seconds=2))
    store._monotonic = clock.monotonic
    return ObjectBlobs(store, "blobs")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.mark.parametrize("data", [b"", b"a graph", LARGE], ids=["empty", "small", "large"])
def test_a_blob_comes_back(blobs: Blobs, data: bytes) -> None:
    name = blobs.write(data)
    assert blobs.write(data) == name == digest(data)
    assert blobs.read(name) == data == b"".join(blobs.stream(name))
    assert blobs.is_whole(name, len(data))
    assert not blobs.is_whole(name, len(data) + 1)
    assert blobs.has(name, len(data))
    blobs.remove(name, "test")
    blobs.remove(name, "test")
    assert blobs.size(name) is None
    assert not blobs.is_whole(name)
    assert list(blobs.stream(name)) == []
    with pytest.raises(BadFormat):
        blobs.read(name)


@pytest.mark.parametrize("size", [10, len(LARGE)])
def test_other_bytes_under_a_name_are_replaced(blobs: Blobs, store: ObjectStore, size: int) -> None:
    data = LARGE[:size]
    path = f"blobs/{digest(data).hex()[:2]}/{digest(data).hex()}"
    store.put(path, data[::-1], "test")
    assert not blobs.is_whole(digest(data))
    with pytest.raises(BadFormat):
        blobs.read(digest(data))
    assert blobs.read(blobs.write(data)) == data


def test_blobs_are_listed_swept_and_moved(blobs: Blobs, store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 2)
    names = {blobs.write(b"%d" % n) for n in range(5)}
    store.put("blobs/00/notes.txt", b"", "test")
    store.put("other/00/" + "0" * 64, b"", "test")
    assert {name for page in blobs.pages() for name in page} == names
    kept = min(names)
    aside = ObjectBlobs(store, "quarantine/_damaged")
    blobs.move(kept, aside, "test")
    assert blobs.size(kept) is None
    aside.move(kept, blobs, "test")
    assert blobs.is_whole(kept)
    assert blobs.sweep({kept}) == 4
    assert [name for page in blobs.pages() for name in page] == [kept]


def test_a_copy_that_was_not_made_loses_nothing(proxy: Proxy) -> None:
    store = object_store(proxy.url, DISK)
    blobs, aside = ObjectBlobs(store, "blobs"), ObjectBlobs(store, "quarantine/_damaged")
    name = blobs.write(b"a graph")
    proxy.fault, proxy.once = Fault.NOTHING_STORED, True
    with pytest.raises(StorageFailed, match="differ"):
        blobs.move(name, aside, "test")
    assert blobs.is_whole(name)


def test_blobs_are_copied_between_a_folder_and_a_store(blobs: Blobs, tmp_path: Path) -> None:
    folder = FolderBlobs(tmp_path / "blobs", DISK)
    name = folder.write(LARGE)
    assert blobs.copy_from(folder, name, "test") == len(LARGE)
    folder.remove(name, "test")
    assert folder.copy_from(blobs, name, "test") == len(LARGE)
    assert folder.read(name) == LARGE
    folder.path(name).write_bytes(LARGE[1:])
    blobs.remove(name, "test")
    assert blobs.copy_from(folder, name, "test") is None
    assert blobs.size(name) is None


@pytest.mark.parametrize("data", [b"a graph", LARGE], ids=["small", "large"])
@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault.NOTHING_STORED, StorageFailed),
        (Fault.ALTERED, StorageFailed),
        (Fault.BUSY, ObjectStoreBusy),
        (Fault.FULL, DiskFull),
        (Fault.REFUSED, StorageFailed),
        (Fault.BAD, StorageFailed),
    ],
)
def test_a_put_that_is_not_done_is_found_out(
    behind: ObjectBlobs, proxy: Proxy, clock: FakeClock, data: bytes, fault: Fault, expected: type[ThinwireError]
) -> None:
    proxy.fault = fault
    with pytest.raises(expected) as caught:
        behind.write(data)
    assert caught.value.remedy
    assert "127.0.0.1" not in str(caught.value)
    assert caught.value.__cause__ is None
    proxy.fault = None
    clock.advance(SILENCE)
    assert behind.read(behind.write(data)) == data


def test_a_put_whose_answer_was_lost_is_done(behind: ObjectBlobs, proxy: Proxy, clock: FakeClock) -> None:
    proxy.fault, proxy.once = Fault.LOST_ANSWER, True
    try:
        name = behind.write(b"a graph")
    except ObjectStoreBusy:
        clock.advance(SILENCE)
        name = behind.write(b"a graph")
    assert behind.read(name) == b"a graph"


def test_a_get_that_is_cut_gives_no_half_object(behind: ObjectBlobs, proxy: Proxy) -> None:
    name = behind.write(LARGE)
    proxy.fault = Fault.CUT
    with pytest.raises(ObjectStoreBusy):
        behind.read(name)
    proxy.fault = None
    assert behind.read(name) == LARGE


def test_a_request_that_is_refused_holds_no_other_up(behind: ObjectBlobs, proxy: Proxy) -> None:
    proxy.fault, proxy.once = Fault.BAD, True
    with pytest.raises(StorageFailed, match="400"):
        behind.write(b"a graph")
    assert behind.read(behind.write(b"another")) == b"another"


def test_a_silent_store_holds_one_request_and_not_the_next(proxy: Proxy, clock: FakeClock) -> None:
    store = object_store(proxy.url, DISK, patience=timedelta(milliseconds=200))
    store._monotonic = clock.monotonic
    blobs = ObjectBlobs(store, "blobs")
    proxy.fault = Fault.SILENT
    with pytest.raises(ObjectStoreBusy, match="does not answer"):
        blobs.write(b"a graph")
    asked = len(proxy.asked)
    with pytest.raises(ObjectStoreBusy, match="asked again in 5 s"):
        blobs.write(b"a graph")
    assert len(proxy.asked) == asked
    proxy.fault = None
    clock.advance(SILENCE)
    assert blobs.read(blobs.write(b"a graph")) == b"a graph"


def test_a_missing_bucket_is_no_missing_blob(proxy: Proxy) -> None:
    blobs = ObjectBlobs(object_store("s3://of-nobody/thinwire", DISK), "blobs")
    with pytest.raises(StorageFailed, match="bucket"):
        blobs.write(b"a graph")
    for act in (blobs.size, blobs.is_whole, blobs.read):
        with pytest.raises(StorageFailed, match="bucket"):
            act(digest(b"a graph"))


@pytest.mark.parametrize(
    "url",
    ["ftp://host/x", "nonsense", "s3://key:secret@bucket/x", "https://x.blob.core.windows.net/c?sig=secret", "az://c"],
)
def test_a_url_that_cannot_be_used_is_not_told(url: str) -> None:
    with pytest.raises(BadConfiguration) as caught:
        object_store(url, DISK)
    assert url not in str(caught.value) + caught.value.remedy
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
