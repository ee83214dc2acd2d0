"""A hub whose blobs, bundles and refused objects are in an object store, as two replicas see it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import delete

from tests.support.clock import FakeClock
from tests.support.hub_folder import join, study_parts
from tests.support.object_store import bucket
from tests.support.tiny_bundle import tiny_bundle
from tests.support.two_ends import SITE
from thinwire.receiver.config import FILE
from thinwire.receiver.hub import DATABASE, Hub, make_hub, open_hub
from thinwire.receiver.inference.bundles import Bundles, add_bundle
from thinwire.receiver.operations.check import Checked, check, repair
from thinwire.receiver.store import quarantine
from thinwire.receiver.store.shared_bundles import REMEMBERED, SharedBundles
from thinwire.receiver.store.tables import bundle_files, bundles
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import BadBundle, BadConfiguration, BadFormat, UnknownBundle
from thinwire.shared.formats.bundle import MPNN, Bundle
from thinwire.shared.identifiers import BundleId, StudyKey, digest
from thinwire.shared.storage.durable import Disk


@pytest.fixture(params=["file", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "file":
        yield f"file://{tmp_path}/store"
    else:
        with bucket() as at:
            yield at


@pytest.fixture
def one(tmp_path: Path, bundle: Bundle, clock: FakeClock, url: str) -> Iterator[Hub]:
    make_hub(tmp_path / "one", bundle.folder, Disk(), clock, blobs=url)
    with open_hub(tmp_path / "one", clock) as hub:
        yield hub


@pytest.fixture
def other(tmp_path: Path, one: Hub, clock: FakeClock) -> Iterator[Hub]:
    """Another replica: it shares the database and the store, and has the same settings and keys."""
    (tmp_path / "other").mkdir()
    shutil.copytree(one.data / "keys", tmp_path / "other" / "keys")
    shutil.copy(one.data / FILE, tmp_path / "other" / FILE)
    (tmp_path / "other" / DATABASE).symlink_to(one.data / DATABASE)
    with open_hub(tmp_path / "other", clock) as hub:
        yield hub


def test_a_part_that_one_replica_stores_another_one_reads(one: Hub, other: Hub, bundle: Bundle) -> None:
    clinic = join(one)
    parts = study_parts(clinic, bundle)
    for part in (parts.graph, parts.manifest, parts.originals):
        one.pipeline().put(clinic.site, part.object, part.header, part.plaintext, urgent=False)
    assert other.store.blob(digest(parts.originals.plaintext)) == parts.originals.plaintext
    assert other.pipeline().predict_waiting() == 1
    assert not (one.data / "blobs").exists()
    assert list(check(other, Checked(), lambda *_: None)) == []

    blob = digest(parts.graph.plaintext)
    one.blobs.remove(blob, "test")
    found = list(check(other, Checked(), lambda *_: None))
    assert [(each.problem, each.blob) for each in found] == [("graph: the blob is missing", blob)]
    assert repair(one, found) == 1
    assert other.store.requested_parts(clinic.site) == [(parts.study, Kind.GRAPH)]


def test_a_bundle_that_one_replica_adds_another_one_uses(one: Hub, other: Hub, bundle: Bundle, tmp_path: Path) -> None:
    second = tiny_bundle(tmp_path / "second", seed=1)
    with pytest.raises(UnknownBundle):
        other.bundles.bundle(second.id)
    assert one.bundles.add(second.folder, one.disk) == one.bundles.add(second.folder, one.disk) == second.id
    assert other.bundles.ids() == sorted([bundle.id, second.id])
    assert other.bundles.bundle(second.id).spec == second.spec
    assert (other.data / "bundles" / second.id.hex() / MPNN).read_bytes() == (second.folder / MPNN).read_bytes()


def test_the_default_is_the_same_for_all(one: Hub, other: Hub, bundle: Bundle, tmp_path: Path) -> None:
    second = tiny_bundle(tmp_path / "second", seed=1)
    seconds = [0.0]
    assert isinstance(other.bundles, SharedBundles)
    other.bundles._monotonic = lambda: seconds[0]
    assert other.bundles.default() == bundle.id
    one.bundles.add(second.folder, one.disk)
    one.bundles.choose(second.id, one.disk)
    assert one.bundles.default() == second.id
    seconds[0] += REMEMBERED
    assert other.bundles.default() == second.id
    other.bundles.choose(bundle.id, other.disk)  # within the same microsecond
    assert other.bundles.default() == bundle.id
    with pytest.raises(UnknownBundle):
        one.bundles.choose(BundleId(bytes(16)), one.disk)


def test_a_damaged_cache_of_a_bundle_is_fetched_again(one: Hub, other: Hub, bundle: Bundle) -> None:
    path = other.data / "bundles" / bundle.id.hex() / MPNN
    other.bundles.bundle(bundle.id)
    path.write_bytes(b"")
    with open_hub(other.data, other.clock) as again:
        assert again.bundles.bundle(bundle.id).id == bundle.id
    assert path.read_bytes() == (bundle.folder / MPNN).read_bytes()

    path.unlink()
    assert isinstance(one.bundles, SharedBundles)
    one.bundles._blobs.remove(digest((bundle.folder / MPNN).read_bytes()), "test")
    with open_hub(other.data, other.clock) as again, pytest.raises(BadBundle, match="object store"):
        again.bundles.bundle(bundle.id)


def test_the_bundles_of_a_folder_come_with_a_hub_that_is_moved(one: Hub, other: Hub, bundle: Bundle) -> None:
    """The folder has a whole hub's bundles after `complete`, and a store gets all of them from it."""
    other.bundles.complete()
    assert Bundles(other.data / "bundles").default() == bundle.id
    with one.database.write() as connection:
        connection.execute(delete(bundle_files))
        connection.execute(delete(bundles))
    assert isinstance(one.bundles, SharedBundles)
    for page in list(one.bundles._blobs.pages()):
        for name in page:
            one.bundles._blobs.remove(name, "test")
    with open_hub(other.data, other.clock) as moved:
        assert moved.bundles.default() == bundle.id
    assert one.bundles._load(bundle.id).id == bundle.id


def test_another_bundle_under_the_name_of_one_is_not_used(one: Hub, other: Hub, bundle: Bundle, tmp_path: Path) -> None:
    foreign = add_bundle(tmp_path / "foreign", tiny_bundle(tmp_path / "second", seed=1).folder, Disk())
    (other.data / "bundles").mkdir(exist_ok=True)
    shutil.copytree(tmp_path / "foreign" / foreign.hex(), other.data / "bundles" / bundle.id.hex())
    assert other.bundles.bundle(bundle.id).id == bundle.id


def test_refused_objects_are_in_the_store_within_limits(one: Hub, other: Hub) -> None:
    clinic, study = join(one), StudyKey(b"s" * 16)
    for number in range(3):
        one.quarantine().add(clinic.site, study, digest(b"%d" % number), b"content", BadFormat("not a graph"))
    entries = sorted(other.quarantine().entries(), key=lambda each: each.name)
    assert {(each.site, each.study) for each in entries} == {(clinic.site, study)}
    assert {each.name for each in entries} == {digest(b"%d" % number).hex() for number in range(3)}
    assert not (one.data / "quarantine").exists()
    for each in entries:
        other.quarantine().remove(each)
    assert list(one.quarantine().entries()) == []


def test_a_site_that_floods_has_so_many_refused_objects(one: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine, "MOST", 2)
    for number in range(4):
        one.quarantine().add(SITE, StudyKey(b"s" * 16), digest(b"%d" % number), b"content", BadFormat("not a graph"))
    assert len(list(one.quarantine().entries())) == 2


def test_two_hubs_have_two_places(one: Hub, tmp_path: Path, bundle: Bundle, clock: FakeClock) -> None:
    with pytest.raises(BadConfiguration, match="already holds a hub"):
        make_hub(one.data, bundle.folder, Disk(), clock)
