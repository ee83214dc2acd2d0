"""The clinic's process and files, without a hub: it accepts, refuses, makes parts, and never stops for one file."""

import sqlite3
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.clinic import clinic_database
from tests.support.dicoms import chest, dicom
from tests.support.format_samples import HUB, HUB_SIGNING, SITE, SITE_SIGNING
from tests.support.two_ends import sealed_file
from thinwire.receiver.training.phantoms.phantom import describe, render, to_dicom
from thinwire.sender.config import SenderConfig
from thinwire.sender.intake.study import Study
from thinwire.sender.outbox.entries import EntryState, PartState
from thinwire.sender.outbox.epochs import Epochs
from thinwire.sender.outbox.outbox import Outbox
from thinwire.sender.outbox.policy import CurrentPolicy
from thinwire.sender.outbox.quarantine import Quarantine
from thinwire.sender.outbox.tiers import TierPolicy
from thinwire.sender.pipeline import ROUND, WORKERS, GraphResult, Pipeline
from thinwire.sender.service import Accepted, RefusedStudy, SendOptions, StudyText, accept_files, finished
from thinwire.shared.clock import SystemClock
from thinwire.shared.crypto.envelope import Kind, open_sealed
from thinwire.shared.errors import UnknownStudy
from thinwire.shared.formats import crops, preview
from thinwire.shared.formats.manifest import read_manifest
from thinwire.shared.formats.originals import unpack
from thinwire.shared.formats.payload import decode
from thinwire.shared.formats.receipts import Receipt, StudyStatus, sign_receipt
from thinwire.shared.identifiers import StudyKey, TextSource, Tier, digest
from thinwire.shared.imaging.radiograph import open_radiograph
from thinwire.shared.storage.durable import Disk


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    disk, clock = Disk(), SystemClock()
    data = tmp_path / "clinic"
    database = clinic_database(data)
    epochs = Epochs(database, data / "keys" / "epochs", SITE, HUB.public, SITE_SIGNING, disk, clock)
    return Pipeline(Outbox(data, database, epochs, HUB_SIGNING.public_key()), SenderConfig(provider="cpu"))


@pytest.fixture
def quarantine(tmp_path: Path) -> Quarantine:
    return Quarantine(tmp_path / "clinic" / "quarantine", clinic_database(tmp_path / "clinic"), Disk(), SystemClock())


def write_study(folder: Path, seed: int) -> Path:
    folder.mkdir(exist_ok=True)
    phantom = describe(seed)
    path = folder / f"{seed}.dcm"
    path.write_bytes(to_dicom(phantom, render(phantom, 300, 260)))
    return path


def test_every_part_is_made_and_the_originals_hold_the_very_files(
    tmp_path: Path, pipeline: Pipeline, quarantine: Quarantine
) -> None:
    path = write_study(tmp_path / "in", 1_000_000_003)
    outcome = next(
        iter(
            accept_files(
                pipeline, quarantine, [path], StudyText("Left effusion.", TextSource.REPORT), SendOptions(True)
            )
        )
    )
    assert isinstance(outcome, Accepted)
    study = outcome.study.key
    made = []
    while job := pipeline.next_job():
        made.append(job[1])
        pipeline.make(*job)
    assert made == list(chain(*ROUND))
    outbox = pipeline.outbox
    entry = outbox.entry(study)
    assert entry.urgent
    assert entry.state is EntryState.SENDING
    assert not finished(entry, CurrentPolicy(TierPolicy(), SystemClock().now(), 0))
    members = unpack(outbox.source(study), 1 << 26)
    assert [m.data for m in members if m.name == "0000.dcm"] == [path.read_bytes()]
    assert [m.data for m in members if m.name == "report.txt"] == [b"Left effusion."]
    sealed = sealed_file(outbox, study, Kind.MANIFEST).read_bytes()
    manifest = read_manifest(open_sealed(sealed, outbox.epochs.key)[1], SITE_SIGNING.public_key())
    assert {tier.tier for tier in manifest.tiers} == set(Tier)
    assert [part.kind for part in entry.parts if part.state is PartState.HELD] == [Kind.CROPS]
    assert entry.part(Kind.PREVIEW).size <= pipeline.config.preview_bytes
    assert manifest.identity["PatientID"] == "PHANTOM-1000000003"
    assert datetime.now(UTC) >= manifest.created


def test_the_manifest_names_the_file_that_was_read(tmp_path: Path, pipeline: Pipeline, quarantine: Quarantine) -> None:
    """A PA and a lateral of one size, whose views stand in the Series Description alone; two patients."""
    (tmp_path / "in").mkdir()
    for n, (view, patient) in enumerate((("CHEST LAT", "B"), ("CHEST PA", "A"))):
        data = dicom(chest(300, 280, seed=n), SeriesDescription=view, PatientID=patient, SOPInstanceUID=f"1.2.3.{n}")
        (tmp_path / "in" / f"{n}.dcm").write_bytes(data)
    (outcome,) = accept_files(pipeline, quarantine, [tmp_path / "in"], None, SendOptions())
    assert isinstance(outcome, Accepted)
    study = outcome.study.key
    while job := pipeline.next_job():
        pipeline.make(*job)
    sealed = sealed_file(pipeline.outbox, study, Kind.MANIFEST).read_bytes()
    manifest = read_manifest(open_sealed(sealed, pipeline.outbox.epochs.key)[1], SITE_SIGNING.public_key())
    read_file = (tmp_path / "in" / "1.dcm").read_bytes()
    assert manifest.read_digest == digest(read_file)
    assert manifest.read is not None
    assert manifest.read.display == open_radiograph(read_file).display
    assert manifest.read.sop_instance_uid == "1.2.3.1"
    assert any("different patients" in each for each in manifest.read.warnings)
    assert manifest.read.warnings == outcome.study.warnings


def test_one_bad_file_never_stops_the_next(tmp_path: Path, pipeline: Pipeline, quarantine: Quarantine) -> None:
    folder = tmp_path / "in"
    good = write_study(folder, 1_000_000_011)
    (folder / "0-cut.dcm").write_bytes(good.read_bytes()[:5000])
    (folder / "notes.txt").write_text("not a study")
    outcomes = list(accept_files(pipeline, quarantine, [folder]))
    assert [type(outcome) for outcome in outcomes] == [RefusedStudy, Accepted]
    assert len(quarantine.reasons()) == 1
    assert good.exists()


def test_the_graph_of_every_study_goes_before_any_originals(
    tmp_path: Path, pipeline: Pipeline, quarantine: Quarantine
) -> None:
    for seed in (1_000_000_003, 1_000_000_011):
        list(accept_files(pipeline, quarantine, [write_study(tmp_path / "in", seed)]))
    made = []
    while job := pipeline.next_job():
        made.append(job[1])
        pipeline.make(*job)
    assert made == [kind for step in ROUND for _ in range(2) for kind in step]


def opened(pipeline: Pipeline, study: StudyKey, kind: Kind) -> bytes:
    plaintext = pipeline.outbox.plaintext(study, kind)
    assert plaintext is not None
    return plaintext


def test_preview_and_crops_show_the_study_as_it_was_accepted(
    tmp_path: Path, pipeline: Pipeline, quarantine: Quarantine
) -> None:
    [outcome] = accept_files(pipeline, quarantine, [write_study(tmp_path / "in", 1_000_000_003)])
    assert isinstance(outcome, Accepted)
    assert isinstance(outcome.study, Study)
    study, frontal = outcome.study.key, outcome.study.frontal
    while job := pipeline.next_job():
        pipeline.make(*job)
    seen = preview.decode(opened(pipeline, study, Kind.PREVIEW))
    assert seen.window == frontal.meaning.window
    whole = np.asarray(Image.fromarray(seen.image).resize(frontal.shown.shape[::-1]), np.float32)
    assert abs(whole - frontal.shown).mean() < 4
    found = crops.decode(opened(pipeline, study, Kind.CROPS), 1 << 26)
    samples, here = found.canvas()
    np.testing.assert_array_equal(samples[here].astype(np.int64) + found.least, frontal.stored[here])
    graph = decode(opened(pipeline, study, Kind.GRAPH), study, lambda _: pipeline.coder)
    for cell in graph.patches.cell:
        x, y, width, height = graph.grid.native_box(int(cell))
        assert here[y : y + height, x : x + width].all()
    assert sum(each.share for each in found.rectangles) == pytest.approx(graph.attention_kept, abs=0.001)


def test_crops_are_of_the_graph_that_was_made_and_no_model_runs_again(
    tmp_path: Path, pipeline: Pipeline, quarantine: Quarantine, monkeypatch: pytest.MonkeyPatch
) -> None:
    [outcome] = accept_files(pipeline, quarantine, [write_study(tmp_path / "in", 1_000_000_003)])
    assert isinstance(outcome, Accepted)
    study = outcome.study.key
    pipeline.make(study, Kind.GRAPH)
    runs: list[StudyKey] = []
    make_graph = pipeline.maker.make_graph

    def counted(study: Study) -> GraphResult:
        runs.append(study.key)
        return make_graph(study)

    monkeypatch.setattr(pipeline.maker, "make_graph", counted)
    pipeline.make(study, Kind.CROPS)
    first = opened(pipeline, study, Kind.CROPS)
    # After a restart they are of the stored graph.
    assert pipeline.plaintext_of(pipeline.open(study), Kind.CROPS) == first
    assert runs == []
    # Where its bytes were damaged the graph is made again, and the crops are the same.
    sealed_file(pipeline.outbox, study, Kind.GRAPH).write_bytes(b"damaged")
    assert pipeline.plaintext_of(pipeline.open(study), Kind.CROPS) == first
    assert runs == [study]


def test_nothing_is_made_while_a_graph_is_to_be_made_and_the_manifest_waits_for_all(
    tmp_path: Path, pipeline: Pipeline, quarantine: Quarantine
) -> None:
    [outcome] = accept_files(pipeline, quarantine, [write_study(tmp_path / "in", 1_000_000_003)])
    assert isinstance(outcome, Accepted)
    study = outcome.study.key
    graphs, others = WORKERS
    assert pipeline.next_job(steps=graphs) == (study, Kind.GRAPH)
    assert pipeline.next_job(steps=others) is None
    pipeline.make(study, Kind.GRAPH)
    assert pipeline.next_job(steps=graphs) is None
    # The manifest waits for the other parts, also for one that was made out of turn.
    pipeline.make(study, Kind.ORIGINALS)
    for kind in (Kind.PREVIEW, Kind.CROPS, Kind.MANIFEST):
        assert pipeline.next_job(steps=others) == (study, kind)
        pipeline.make(study, kind)
    assert pipeline.next_job(steps=others) is None


def test_everything_is_made_without_a_link(tmp_path: Path, pipeline: Pipeline, quarantine: Quarantine) -> None:
    for seed in (1_000_000_003, 1_000_000_011):
        list(accept_files(pipeline, quarantine, [write_study(tmp_path / "in", seed)]))
    pipeline.make_all()
    assert not pipeline.outbox.unfinished()
    assert len(pipeline.outbox.due()) == 8


def test_a_held_part_that_is_damaged_when_the_files_are_at_the_hub_alone_is_given_up_with_its_reason(
    tmp_path: Path, pipeline: Pipeline, quarantine: Quarantine
) -> None:
    [outcome] = accept_files(pipeline, quarantine, [write_study(tmp_path / "in", 1_000_000_003)])
    assert isinstance(outcome, Accepted)
    study, outbox = outcome.study.key, pipeline.outbox
    pipeline.make_all()
    for due in outbox.due():
        receipt = Receipt(study, SITE, due.object, StudyStatus.STORED, outbox.epochs.clock.now())
        outbox.record_receipt(sign_receipt(receipt, HUB_SIGNING))
    (held,) = (kind for kind in Kind if outbox.path(study, kind) is not None)
    assert held is Kind.CROPS
    sealed_file(outbox, study, held).write_bytes(b"rotten")
    assert [entry.missing for entry in outbox.recover()] == [(Kind.CROPS,)]
    pipeline.make_all()
    part = outbox.entry(study).part(Kind.CROPS)
    assert (part.state, "at the hub" in part.reason) == (PartState.ABSENT, True)


def test_a_study_whose_bytes_were_damaged_waits_aside_and_goes_on_when_given_again(
    tmp_path: Path, pipeline: Pipeline, quarantine: Quarantine
) -> None:
    path = write_study(tmp_path / "in", 1_000_000_003)
    [outcome] = accept_files(pipeline, quarantine, [path])
    assert isinstance(outcome, Accepted)
    study = outcome.study.key
    sealed_file(pipeline.outbox, study, Kind.SOURCE).write_bytes(b"damaged")
    job = pipeline.next_job()
    assert job is not None
    with pytest.raises(UnknownStudy):
        pipeline.make(*job)
    assert pipeline.next_job(but={(study, kind) for kind in Kind}) is None
    list(accept_files(pipeline, quarantine, [path]))
    pipeline.make(*job)
    assert pipeline.outbox.entry(study).part(Kind.GRAPH).state is PartState.WAITING


@pytest.mark.parametrize("harm", ["", "key", "bytes"])
def test_a_study_that_a_restored_database_does_not_know_is_taken_back_or_listed(
    tmp_path: Path, pipeline: Pipeline, quarantine: Quarantine, harm: str
) -> None:
    path, text = write_study(tmp_path / "in", 1_000_000_003), StudyText("Left effusion.", TextSource.REPORT)
    outbox, data = pipeline.outbox, tmp_path / "clinic"
    with sqlite3.connect(":memory:") as older, sqlite3.connect(outbox.database.file) as database:
        database.backup(older)
        (outcome,) = accept_files(pipeline, quarantine, [path], text)
        older.backup(database)
    assert isinstance(outcome, Accepted)
    assert outbox.entries() == []
    (sealed,) = (data / "blobs").glob("*/*")
    harmed = sealed if harm == "bytes" else next((data / "keys" / "epochs").iterdir())
    whole = harmed.read_bytes()
    if harm:
        harmed.write_bytes(whole[:-40])
        pipeline.sweep()
        (listed,) = outbox.unreadable()
        assert data / listed.path == sealed
        assert "backup" in listed.reason
        assert outbox.entries() == []
        outbox.purge(SystemClock().now())
        harmed.write_bytes(whole)
    pipeline.sweep()
    assert outbox.unreadable() == []
    (entry,) = outbox.entries()
    assert entry.study == outcome.study.key
    assert set(entry.missing) == {Kind(tier) for tier in Tier} | {Kind.MANIFEST}
    assert len(list((data / "blobs").glob("*/*"))) == 1
    assert all(isinstance(each, Accepted) for each in accept_files(pipeline, quarantine, [path], text))
    members = unpack(outbox.source(entry.study), 1 << 26)
    assert [m.data for m in members] == [path.read_bytes(), b"Left effusion."]
