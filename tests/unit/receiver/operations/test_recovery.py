"""After the restore of an older database: parts that no row names come back where it is proven whose they are."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import delete
from typer.testing import CliRunner

from tests.support.clock import FakeClock
from tests.support.hub_folder import Clinic, StudyParts, sealed_manifest, study_parts
from tests.support.power import Cutoff, PowerCut
from thinwire.receiver.cli.main import app
from thinwire.receiver.hub import Hub, open_hub, serving_lock
from thinwire.receiver.operations.backup import back_up, restore
from thinwire.receiver.operations.check import Checked, check
from thinwire.receiver.operations.recovery import Recovered, _Study, recover
from thinwire.receiver.store.tables import epochs
from thinwire.shared.crypto.keys import new_signing_key
from thinwire.shared.errors import exit_code
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.identifiers import Digest, Tier
from thinwire.shared.storage.durable import Disk


def put(hub: Hub, clinic: Clinic, parts: StudyParts) -> None:
    for part in (parts.graph, parts.originals, parts.manifest):
        hub.pipeline().put(clinic.site, part.object, part.header, part.plaintext, False)


@pytest.fixture
def older(data: Path, hub: Hub, clinic: Clinic, parts: StudyParts, clock: FakeClock, tmp_path: Path) -> Iterator[Hub]:
    """The hub after a study came and an older database was restored: the study's blobs alone are here."""
    back_up(hub.database, hub.blobs, data, tmp_path / "backup", Disk(), clock, lambda _: None, lambda *_: None)
    put(hub, clinic, parts)
    hub.database.close()
    restore(data, tmp_path / "backup", Disk(), clock, lambda _: None, lambda *_: None)
    with open_hub(data, clock) as opened:
        assert not list(opened.store.studies())
        yield opened


def tiers(hub: Hub, parts: StudyParts) -> set[Tier]:
    return set(hub.store.find(parts.study.hex()).sealed_sizes)


def test_a_study_comes_back_as_the_same_objects(older: Hub, clinic: Clinic, parts: StudyParts) -> None:
    assert recover(older) == Recovered(studies=1, parts=3, left=0)
    for part in (parts.graph, parts.originals, parts.manifest):
        assert older.store.stored_receipt(clinic.site, part.object) is not None
    assert older.store.find(parts.study.hex()).complete
    assert not list(check(older, Checked(), lambda *_: None))
    assert recover(older) == Recovered()


def test_a_study_that_cannot_be_put_back_does_not_stop_the_next(
    older: Hub, clinic: Clinic, parts: StudyParts, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (1, 2):
        for part in (two := study_parts(clinic, bundle, seed)).graph, two.originals, two.manifest:
            older.store._blobs.write(part.plaintext)
    put_back = _Study.put_back
    first: list[object] = []

    def breaks(self: _Study, name: Digest, by_size: dict[int, list[Digest]]) -> int:
        if not first:
            first.append(name)
            raise KeyError("an error that nobody foresaw")
        return put_back(self, name, by_size)

    monkeypatch.setattr(_Study, "put_back", breaks)
    assert recover(older) == Recovered(studies=2, parts=6, left=3)
    assert recover(older) == Recovered(studies=1, parts=3, left=0)


def test_of_an_unknown_epoch_only_what_proves_itself(older: Hub, clinic: Clinic, parts: StudyParts) -> None:
    with older.database.write() as connection:
        connection.execute(delete(epochs))
    assert recover(older) == Recovered(studies=1, parts=2, left=1)
    assert tiers(older, parts) == {Tier.ORIGINALS}
    assert older.store.stored_receipt(clinic.site, parts.graph.object) is None
    assert older.store.stored_receipt(clinic.site, parts.originals.object) is not None


def test_a_graph_of_the_same_size_is_not_taken_for_this_study(
    older: Hub, clinic: Clinic, parts: StudyParts, bundle: Bundle
) -> None:
    """The study's own graph is gone, and another patient's of as many bytes is here."""
    path = older.data / "blobs"
    blob = next(each for each in path.glob("??/*") if each.read_bytes() == parts.graph.plaintext)
    blob.unlink()
    other = next(
        graph.plaintext
        for graph in (study_parts(clinic, bundle, seed).graph for seed in range(1, 200))
        if len(graph.plaintext) == len(parts.graph.plaintext)
    )
    older.store._blobs.write(other)
    assert recover(older) == Recovered(studies=1, parts=2, left=1)
    assert tiers(older, parts) == {Tier.ORIGINALS}


def test_a_manifest_of_another_key_brings_nothing_back(
    older: Hub, clinic: Clinic, parts: StudyParts, bundle: Bundle
) -> None:
    for each in (older.data / "blobs").glob("??/*"):
        if each.read_bytes() == parts.manifest.plaintext:
            each.unlink()
    forger = replace(clinic, signing=new_signing_key())
    forged = sealed_manifest(forger, parts.files, bundle.id, parts.graph, parts.originals)
    older.store._blobs.write(forged.plaintext)
    assert recover(older) == Recovered(left=3)
    assert not list(older.store.studies())


def test_damaged_bytes_stay_aside(older: Hub, parts: StudyParts) -> None:
    for each in (older.data / "blobs").glob("??/*"):
        if each.read_bytes() == parts.originals.plaintext:
            each.write_bytes(parts.originals.plaintext[:-1] + b"?")
    assert recover(older) == Recovered(studies=1, parts=2, left=1)


def test_it_goes_on_after_a_power_cut(older: Hub, parts: StudyParts) -> None:
    for cut in range(100):
        step = Cutoff(cut)
        older.store._step = step
        older.disk.step = step
        try:
            recover(older)
        except PowerCut:
            continue
        break
    assert older.store.find(parts.study.hex()).complete
    assert not list(check(older, Checked(), lambda *_: None))


def run(*words: str | Path, code: int = 0) -> str:
    done = CliRunner().invoke(app, [*map(str, words)])
    found = (
        done.exit_code
        if done.exception is None or isinstance(done.exception, SystemExit)
        else exit_code(done.exception)
    )
    assert found == code, done.output
    return done.stdout


def test_by_command(data: Path, hub: Hub, clinic: Clinic, parts: StudyParts, tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    assert json.loads(run("backup", folder, "--data", data, "--json"))["copied"] == 0
    put(hub, clinic, parts)
    assert "3 parts copied" in run("backup", folder, "--data", data)
    assert "0 parts copied, 0 bytes; 3 were there" in run("backup", folder, "--data", data)
    assert "recorded" in run("backup", "--taken-at", "2026-03-04T12:00:00Z", "--data", data)
    run("backup", "--data", data, code=2)
    run("backup", "--taken-at", "yesterday", "--data", data, code=78)
    run("backup", "--taken-at", "2100-01-01T00:00:00Z", "--data", data, code=78)
    hub.database.close()

    # A new disk: the keys alone are there.
    new = tmp_path / "new"
    shutil.copytree(data / "keys", new / "keys")
    assert "3 parts copied" in run("restore", folder, "--data", new)
    assert [row["study"] for row in json.loads(run("worklist", "--data", new, "--json"))] == [parts.study.hex()]
    assert "0 findings" in run("check", "--data", new)
    assert "0 parts copied" in run("restore", "--data", new)
    assert "0 parts copied" in run("restore", folder, "--data", new)
    run("restore", tmp_path / "nothing", "--data", new, code=78)


def test_a_hub_in_use_is_not_restored(data: Path, hub: Hub, tmp_path: Path, clock: FakeClock) -> None:
    run("backup", tmp_path / "backup", "--data", data)
    with serving_lock(data):
        run("restore", tmp_path / "backup", "--data", data, code=78)
