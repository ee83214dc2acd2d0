"""The hub's way of a study, with a real store, real seals and the tiny bundle's network; no link."""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest

from tests.support.bombs import PeakMemory, deflated_zeros, of_file
from tests.support.clock import FakeClock
from tests.support.hub_folder import Clinic, Sealed, StudyParts, join, manifest_of, study_parts
from tests.support.power import Fuse, PowerCut
from tests.support.tier_samples import MEANING, sample_crops, sample_preview, shown
from tests.support.tier_samples import stored as stored_values
from tests.support.tiny_bundle import FINDINGS
from thinwire.receiver.decoding.process import EXAMINING
from thinwire.receiver.hub import Hub, open_hub
from thinwire.receiver.inference.mpnn import Prediction, Predictor
from thinwire.receiver.operations.check import Checked, check
from thinwire.receiver.pipeline import MOST_SET_ASIDE, RECEIVING, HubPipeline
from thinwire.receiver.store import queries as queries_module
from thinwire.receiver.store.events import STUDIES
from thinwire.receiver.store.records import OpenedPart, StoredPrediction
from thinwire.receiver.store.worklist import as_json, worklist
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import (
    BadArchive,
    BadCrops,
    BadFormat,
    BadManifest,
    BadPayload,
    BadPreview,
    DiskFull,
    Forged,
    ThinwireError,
    UnknownBundle,
    UnknownStudy,
)
from thinwire.shared.formats import crops
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.formats.crops import Rectangle
from thinwire.shared.formats.graph import FusedGraph
from thinwire.shared.formats.originals import Member, pack
from thinwire.shared.formats.receipts import StudyStatus, read_receipt
from thinwire.shared.identifiers import BundleId, SiteName, StudyKey, Tier, Urgency, digest, study_key
from thinwire.shared.storage.durable import Disk


def put(pipeline: HubPipeline, clinic: Clinic, part: Sealed, urgent: bool = False) -> bytes:
    return pipeline.put(clinic.site, part.object, part.header, part.plaintext, urgent)


def put_and_read(hub: Hub, clinic: Clinic, part: Sealed) -> None:
    pipeline = hub.pipeline()
    put(pipeline, clinic, part)
    pipeline.predict_waiting()


def blobs(hub: Hub) -> list[str]:
    return sorted(path.name for path in (hub.data / "blobs").rglob("?" * 64))


def test_a_study_comes_to_the_worklist_and_word_of_it_back_to_the_clinic(
    hub: Hub, clinic: Clinic, parts: StudyParts, bundle: Bundle
) -> None:
    pipeline = hub.pipeline()
    put(pipeline, clinic, parts.graph)
    told: list[str] = []
    hub.news.subscribe(lambda topics, _: told.extend(topics - {STUDIES}))
    (row,) = worklist(hub.store.studies())
    assert row.urgency is None
    assert pipeline.predict_waiting() == 1
    assert pipeline.predict_waiting() == 0
    put(pipeline, clinic, parts.originals)
    assert next(hub.store.studies()).complete is None
    put(pipeline, clinic, parts.manifest)

    (row,) = worklist(hub.store.studies())
    shown = as_json(row)
    assert shown["study"] == parts.study.hex()
    assert shown["received"] == "2026-03-04T12:00:00Z"
    assert shown["tiers"] == {
        "graph": len(parts.graph.sealed),
        "preview": None,
        "crops": None,
        "originals": len(parts.originals.sealed),
    }
    assert shown["complete"] is True
    assert set(shown["findings"]) == set(FINDINGS)
    assert all(f["low"] <= f["probability"] <= f["high"] for f in shown["findings"].values())
    assert shown["patches"] == {"kept": 5, "total": 64}
    assert shown["text_source"] == "report"
    assert shown["text_given"] is True
    assert shown["bundle"] == bundle.id.hex()

    key = hub.keys.signing.public_key()
    words = [read_receipt(each, key) for each in pipeline.undelivered_receipts(clinic.site)]
    assert [each.status for each in words] == [
        StudyStatus.STORED,
        StudyStatus.TRIAGED,
        StudyStatus.STORED,
        StudyStatus.STORED,
    ]
    assert told == [clinic.site]
    detail = json.loads(words[1].detail)
    assert detail["urgency"] == shown["urgency"]
    assert detail["findings"]["nodule"][0] == shown["findings"]["nodule"]["probability"]


def test_what_the_clinic_has_is_not_told_again(hub: Hub, clinic: Clinic, parts: StudyParts) -> None:
    pipeline = hub.pipeline()
    receipt = put(pipeline, clinic, parts.graph)
    pipeline.record_delivered(clinic.site, digest(receipt))
    pipeline.record_delivered(clinic.site, digest(b"a receipt that never was"))
    assert pipeline.undelivered_receipts(clinic.site) == []
    assert pipeline.stored_receipt(clinic.site, parts.graph.object) == receipt


def test_two_clinics_put_the_same_content_at_once_and_each_has_its_receipt(data: Path, bundle: Bundle) -> None:
    """Each thread waits before the rename until the other one is there."""
    barrier = Barrier(2)

    def met(step: str) -> None:
        if step == "store.blob.before_rename":
            barrier.wait(timeout=30)

    with open_hub(data, FakeClock(), Disk(met)) as hub, ThreadPoolExecutor(2) as threads:
        clinics = [join(hub, site) for site in ("north-valley", "south-valley")]
        graphs = [study_parts(clinic, bundle).graph for clinic in clinics]
        assert graphs[0].plaintext == graphs[1].plaintext
        pipeline = hub.pipeline()
        receipts = list(threads.map(lambda pair: put(pipeline, *pair), zip(clinics, graphs, strict=True)))
        for clinic, graph, receipt in zip(clinics, graphs, receipts, strict=True):
            assert pipeline.stored_receipt(clinic.site, graph.object) == receipt
        assert blobs(hub) == [digest(graphs[0].plaintext).hex()]
        assert pipeline.predict_waiting() == 2


def test_put_twice_is_put_once(hub: Hub, clinic: Clinic, parts: StudyParts) -> None:
    pipeline = hub.pipeline()
    first = put(pipeline, clinic, parts.graph)
    pipeline.predict_waiting()
    hub.clock.advance(60)  # type: ignore[attr-defined]
    assert put(pipeline, clinic, parts.graph) == first
    assert pipeline.predict_waiting() == 0
    assert len(pipeline.undelivered_receipts(clinic.site)) == 2
    assert len(blobs(hub)) == 1


def test_a_part_that_was_sealed_anew_is_kept_once_and_has_its_receipt(
    hub: Hub, clinic: Clinic, parts: StudyParts
) -> None:
    pipeline = hub.pipeline()
    for part in (parts.graph, parts.originals, parts.manifest):
        put(pipeline, clinic, part)
    pipeline.predict_waiting()
    later = replace(parts.graph, object=digest(b"sealed anew"))
    receipt = put(pipeline, clinic, later)
    assert pipeline.stored_receipt(clinic.site, later.object) == receipt
    assert pipeline.predict_waiting() == 0
    assert len(blobs(hub)) == 3
    assert next(hub.store.studies()).complete is True


def test_a_study_of_two_sites_is_two_studies(hub: Hub, clinic: Clinic, bundle: Bundle) -> None:
    other = join(hub, "south-ridge")
    pipeline = hub.pipeline()
    for each in (clinic, other):
        put(pipeline, each, study_parts(each, bundle).graph)
    assert [each.site for each in hub.store.studies()] == ["north-valley", "south-ridge"]
    assert pipeline.predict_waiting() == 2
    assert len(pipeline.undelivered_receipts(other.site)) == 2


def test_what_was_sent_as_urgent_is_read_first(hub: Hub, clinic: Clinic, bundle: Bundle) -> None:
    pipeline = hub.pipeline()
    for seed in range(3):
        put(pipeline, clinic, study_parts(clinic, bundle, seed).graph, urgent=seed == 2)
    waiting = hub.store.untriaged()
    assert [each.urgent_asked for each in waiting] == [True, False, False]
    assert [row.study.urgent_asked for row in worklist(hub.store.studies())] == [True, False, False]


def test_a_study_that_becomes_urgent_late_is_triaged_anew(hub: Hub, clinic: Clinic, parts: StudyParts) -> None:
    pipeline = hub.pipeline()
    assert not pipeline.escalate(clinic.site, parts.study)
    put_and_read(hub, clinic, parts.graph)
    assert next(hub.store.studies()).prediction is not None
    assert pipeline.escalate(clinic.site, parts.study)
    (waiting,) = hub.store.untriaged()
    assert waiting.urgent_asked
    pipeline.predict_waiting()
    study = next(hub.store.studies())
    assert study.urgent_asked
    assert study.prediction is not None
    assert study.prediction.urgency in (Urgency.URGENT, Urgency.IMMEDIATE)
    assert pipeline.escalate(clinic.site, parts.study)  # a repeat
    put(pipeline, clinic, parts.originals, urgent=True)
    assert hub.store.untriaged() == []
    told = [read_receipt(r, hub.keys.signing.public_key()) for r in hub.store.undelivered_receipts(clinic.site)]
    assert [each.status for each in told].count(StudyStatus.TRIAGED) == 2


def test_a_late_part_that_is_urgent_lifts_the_study_too(hub: Hub, clinic: Clinic, parts: StudyParts) -> None:
    pipeline = hub.pipeline()
    put_and_read(hub, clinic, parts.graph)
    put(pipeline, clinic, parts.originals, urgent=True)
    assert [each.urgent_asked for each in hub.store.untriaged()] == [True]


def test_a_reading_that_did_not_know_of_the_urgency_does_not_count(hub: Hub, clinic: Clinic, parts: StudyParts) -> None:
    pipeline = hub.pipeline()
    put(pipeline, clinic, parts.graph)
    (before,) = hub.store.untriaged()
    pipeline.escalate(clinic.site, parts.study)
    found = StoredPrediction({}, Urgency.ROUTINE, "read before", False, BundleId(b"b" * 16), hub.clock.now())
    assert not hub.store.add_prediction(before, found)
    assert next(hub.store.studies()).prediction is None


def test_studies_are_read_a_page_at_a_time(
    hub: Hub, clinic: Clinic, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries_module, "PAGE", 2)
    pipeline = hub.pipeline()
    for seed in range(5):
        put(pipeline, clinic, study_parts(clinic, bundle, seed).graph)
    studies = [each.study for each in hub.store.studies()]
    assert len(set(studies)) == 5
    assert hub.store.find(studies[3].hex().upper()[:12]).study == studies[3]


def test_a_study_is_found_by_the_first_digits_of_its_key(hub: Hub, clinic: Clinic, bundle: Bundle) -> None:
    other, pipeline = join(hub, "south-ridge"), hub.pipeline()
    studies = [study_parts(each, bundle, seed) for each in (clinic, other) for seed in range(9)]
    for each, parts in zip([clinic] * 9 + [other] * 9, studies, strict=True):
        put(pipeline, each, parts.graph)
    for parts in studies:
        key = parts.study.hex()
        for digits in (5, 6, 31, 32):
            assert hub.store.find(key[:digits], other.site).study == parts.study
        with pytest.raises(UnknownStudy, match="several studies"):
            hub.store.find(key)  # of both sites
    for nothing in ("", "%", "0" * 32, "f" * 33, "xyz"):
        with pytest.raises(UnknownStudy, match="no study"):
            hub.store.find(nothing)


def test_more_graphs_than_a_batch_are_read_in_batches(
    data: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THINWIRE_RECEIVER_BATCH", "2")
    with open_hub(data, FakeClock()) as hub:
        clinic, pipeline = join(hub), hub.pipeline()
        for seed in range(5):
            put(pipeline, clinic, study_parts(clinic, bundle, seed).graph)
        assert [pipeline.predict_waiting() for _ in range(4)] == [2, 2, 1, 0]


def refused(clinic: Clinic, parts: StudyParts, bundle: Bundle) -> dict[str, tuple[Sealed, type[ThinwireError]]]:
    study, payload = parts.study, parts.graph.plaintext
    foreign = BundleId(hashlib.sha256(b"foreign").digest()[:16])
    other = study_parts(clinic, bundle, 7)
    return {
        "payload": (clinic.seal(Kind.GRAPH, study, payload[:-3]), BadPayload),
        "bundle": (clinic.seal(Kind.GRAPH, study, payload.replace(bundle.id, foreign)), UnknownBundle),
        "archive": (clinic.seal(Kind.ORIGINALS, study, parts.originals.plaintext[:-1]), BadArchive),
        "other files": (clinic.seal(Kind.ORIGINALS, study, pack([Member("0000.dcm", b"other")], "fast")), BadArchive),
        "no files": (clinic.seal(Kind.ORIGINALS, study, pack([Member("text.txt", b"words")], "fast")), BadArchive),
        "signature": (clinic.seal(Kind.MANIFEST, study, bytes(64) + parts.manifest.plaintext[64:]), Forged),
        "other study": (clinic.seal(Kind.MANIFEST, study, other.manifest.plaintext), Forged),
        "manifest": (clinic.seal(Kind.MANIFEST, study, b"x" * (2 << 20)), BadManifest),
        "preview": (clinic.seal(Kind.PREVIEW, study, sample_preview()[:-1]), BadPreview),
        "crops": (clinic.seal(Kind.CROPS, study, sample_crops() + b"more"), BadCrops),
        "source": (clinic.seal(Kind.SOURCE, study, b"never crosses"), BadFormat),
    }


@pytest.mark.parametrize(
    "what",
    [
        *("payload", "bundle", "archive", "other files", "no files", "signature", "other study", "manifest"),
        *("preview", "crops", "source"),
    ],
)
def test_content_that_does_not_hold_is_refused_and_nothing_of_it_is_stored(
    hub: Hub, clinic: Clinic, parts: StudyParts, bundle: Bundle, what: str
) -> None:
    part, error = refused(clinic, parts, bundle)[what]
    pipeline = hub.pipeline()
    with pytest.raises(error):
        put(pipeline, clinic, part)
    assert pipeline.stored_receipt(clinic.site, part.object) is None
    assert pipeline.undelivered_receipts(clinic.site) == []
    assert list(hub.store.studies()) == []
    assert blobs(hub) == []
    kept = {path.name for path in (hub.data / "quarantine" / clinic.site).iterdir()}
    assert f"{part.object.hex()}.json" in kept
    assert (f"{part.object.hex()}.bin" in kept) is (what != "manifest")


def test_a_bomb_is_refused_in_another_process_before_its_receipt_and_the_next_part_is_stored(
    hub: Hub, clinic: Clinic, parts: StudyParts
) -> None:
    pipeline, file = hub.pipeline(), deflated_zeros()
    bomb = clinic.seal(Kind.ORIGINALS, study_key([digest(file)]), of_file(file))
    put(pipeline, clinic, parts.originals)  # so that the process is there
    assert EXAMINING.pid is not None
    here, there = PeakMemory(), PeakMemory(EXAMINING.pid)
    with pytest.raises(BadArchive, match="file 1 of the study: the file inflates to more than") as refusal:
        put(pipeline, clinic, bomb)
    assert "No radiograph" in refusal.value.remedy
    assert here.growth() < 20 << 20
    assert there.growth() < 200 << 20
    assert pipeline.stored_receipt(clinic.site, bomb.object) is None
    put(pipeline, clinic, parts.manifest)
    assert [each.study for each in hub.store.studies()] == [parts.study]


def test_an_archive_that_restores_to_too_much_is_refused(
    data: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THINWIRE_RECEIVER_LARGEST_STUDY", str(1 << 20))
    with open_hub(data, FakeClock()) as hub:
        clinic, pipeline = join(hub), hub.pipeline()
        study = StudyKey(bytes(16))
        bomb = clinic.seal(Kind.ORIGINALS, study, pack([Member("0000.dcm", bytes(2 << 20))], "fast"))
        with pytest.raises(BadArchive):
            put(pipeline, clinic, bomb)


def test_a_graph_that_cannot_be_read_does_not_stop_the_next(
    hub: Hub, clinic: Clinic, bundle: Bundle, parts: StudyParts
) -> None:
    pipeline = hub.pipeline()
    put(pipeline, clinic, parts.graph)
    put(pipeline, clinic, study_parts(clinic, bundle, 1).graph)
    damaged = hub.data / "blobs" / digest(parts.graph.plaintext).hex()[:2] / digest(parts.graph.plaintext).hex()
    damaged.write_bytes(b"a disk's own words")
    pipeline = hub.pipeline()  # this one has decoded no graph
    assert pipeline.predict_waiting() == 2
    assert pipeline.predict_waiting() == 0
    assert sorted(each.prediction is None for each in hub.store.studies()) == [False, True]


def test_a_graph_that_breaks_the_model_does_not_stop_the_next(
    hub: Hub, clinic: Clinic, bundle: Bundle, parts: StudyParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Predictor.read

    def breaks(self: Predictor, graphs: Sequence[FusedGraph]) -> list[Prediction]:
        if any(graph.study == parts.study for graph in graphs):
            raise IndexError("as of a layer")
        return read(self, graphs)

    monkeypatch.setattr(Predictor, "read", breaks)
    pipeline = hub.pipeline()
    put(pipeline, clinic, parts.graph)
    put(pipeline, clinic, study_parts(clinic, bundle, 1).graph)
    assert pipeline.predict_waiting() == 2
    assert pipeline.predict_waiting() == 0
    assert {each.study for each in hub.store.studies() if each.prediction is None} == {parts.study}


def test_what_was_set_aside_is_released_when_it_is_received_and_a_site_fills_no_list(
    hub: Hub, clinic: Clinic, parts: StudyParts
) -> None:
    pipeline, parked, error = hub.pipeline(), hub.store.parked, DiskFull("no space")
    for item in (parts.graph.object, parts.manifest.object, parts.study, digest(clinic.record)):
        pipeline.set_aside(clinic.site, item.hex(), error)
    assert len(parked.items()) == 4
    put(pipeline, clinic, parts.graph)
    hub.store.put(OpenedPart(clinic.site, parts.manifest.object, parts.manifest.header, b"m", None, urgent=False))
    pipeline.stored_receipt(clinic.site, parts.manifest.object)
    pipeline.escalate(clinic.site, parts.study)
    pipeline.admit_epoch(clinic.site, clinic.record)
    assert parked.items() == []
    for number in range(2 * MOST_SET_ASIDE):
        pipeline.set_aside(clinic.site, f"{number:064x}", error)
    pipeline.set_aside(SiteName("south-ridge"), parts.study.hex(), error)
    assert parked.counts() == {RECEIVING: MOST_SET_ASIDE + 1}
    pipeline.set_aside(clinic.site, f"{0:064x}", error)
    assert parked.items()[0].times == 2


def test_a_restarted_hub_goes_on(data: Path, bundle: Bundle) -> None:
    with open_hub(data, FakeClock()) as hub:
        clinic = join(hub)
        parts = study_parts(clinic, bundle)
        receipt = put(hub.pipeline(), clinic, parts.graph)
    with open_hub(data, FakeClock()) as hub:
        pipeline = hub.pipeline()
        assert hub.store.sweep() == 0
        assert pipeline.epoch_key(clinic.site, clinic.epoch.id) == clinic.epoch
        assert pipeline.undelivered_receipts(clinic.site) == [receipt]
        assert pipeline.predict_waiting() == 1
    with open_hub(data, FakeClock()) as hub:
        assert hub.pipeline().predict_waiting() == 0
        assert next(hub.store.studies()).prediction is not None


STEPS = (
    "store.blob.before_write",
    "store.blob.before_fsync",
    "store.blob.before_rename",
    "store.blob.before_folder_fsync",
    "store.blob.done",
    "store.put.before_commit",
    "store.put.committed",
    "store.prediction.before_commit",
    "store.prediction.committed",
)


@pytest.mark.parametrize("step", STEPS)
def test_a_hub_that_dies_anywhere_has_the_study_once_in_the_end(data: Path, bundle: Bundle, step: str) -> None:
    with open_hub(data, FakeClock()) as hub:
        clinic = join(hub)
        parts = study_parts(clinic, bundle)
    fuse = Fuse((step, 1))
    with pytest.raises(PowerCut), open_hub(data, FakeClock(), Disk(fuse)) as hub:
        put_and_read(hub, clinic, parts.graph)
    with open_hub(data, FakeClock()) as hub:
        hub.store.sweep()
        pipeline = hub.pipeline()
        known = pipeline.stored_receipt(clinic.site, parts.graph.object)
        assert set(blobs(hub)) <= {digest(parts.graph.plaintext).hex()}
        assert known is None or blobs(hub)
        put(pipeline, clinic, parts.graph)
        while pipeline.predict_waiting():
            pass
        (study,) = hub.store.studies()
        assert study.prediction is not None
        assert len(pipeline.undelivered_receipts(clinic.site)) == 2
        assert known is None or pipeline.stored_receipt(clinic.site, parts.graph.object) == known
        assert list(check(hub, Checked(), lambda *_: None)) == []


def test_a_full_disk_leaves_nothing_and_the_next_try_succeeds(data: Path, bundle: Bundle) -> None:
    with open_hub(data, FakeClock()) as hub:
        clinic = join(hub)
        parts = study_parts(clinic, bundle)
    with open_hub(data, FakeClock(), Disk(reserve=1 << 62)) as hub, pytest.raises(DiskFull):
        put(hub.pipeline(), clinic, parts.graph)
    with open_hub(data, FakeClock()) as hub:
        assert list(hub.store.studies()) == []
        put(hub.pipeline(), clinic, parts.graph)
        assert len(list(hub.store.studies())) == 1


def test_a_reader_asks_for_a_part_until_it_is_here(hub: Hub, clinic: Clinic, parts: StudyParts) -> None:
    pipeline = hub.pipeline()
    put(pipeline, clinic, parts.graph)
    hub.store.request(clinic.site, parts.study, Kind.GRAPH)
    assert pipeline.requested_parts(clinic.site) == []
    for _ in range(2):
        hub.store.request(clinic.site, parts.study, Kind.ORIGINALS)
    assert pipeline.requested_parts(clinic.site) == [(parts.study, Kind.ORIGINALS)]
    put(pipeline, clinic, parts.originals)
    assert pipeline.requested_parts(clinic.site) == []


def test_preview_and_crops_are_kept_and_nothing_is_missing_without_them_once_the_originals_are_here(
    hub: Hub, clinic: Clinic, parts: StudyParts
) -> None:
    pipeline = hub.pipeline()
    tiers = {
        Kind.PREVIEW: clinic.seal(Kind.PREVIEW, parts.study, sample_preview()),
        Kind.CROPS: clinic.seal(Kind.CROPS, parts.study, sample_crops()),
    }
    for part in (parts.graph, manifest_of(clinic, parts, *tiers.values())):
        put(pipeline, clinic, part)
    (study,) = hub.store.studies()
    assert study.complete is False
    put(pipeline, clinic, parts.originals)
    assert next(hub.store.studies()).complete is True
    for kind, part in tiers.items():
        put(pipeline, clinic, part)
        assert hub.store.plaintext(clinic.site, parts.study, kind) == part.plaintext
    (study,) = hub.store.studies()
    assert study.complete is True
    assert study.sealed_sizes == {
        Tier.GRAPH: len(parts.graph.sealed),
        Tier.PREVIEW: len(tiers[Kind.PREVIEW].sealed),
        Tier.CROPS: len(tiers[Kind.CROPS].sealed),
        Tier.ORIGINALS: len(parts.originals.sealed),
    }


def test_crops_over_the_size_limit_of_a_study_are_refused(
    data: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THINWIRE_RECEIVER_LARGEST_STUDY", str(1 << 20))
    with open_hub(data, FakeClock()) as hub:
        clinic, pipeline = join(hub), hub.pipeline()
        values = stored_values(800, 800)
        large = crops.encode(values, shown(values), [Rectangle(0, 0, 800, 800, 1.0)], MEANING)
        with pytest.raises(BadCrops, match="limit"):
            put(pipeline, clinic, clinic.seal(Kind.CROPS, StudyKey(bytes(16)), large))
