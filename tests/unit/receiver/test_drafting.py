"""Drafts beside triage: after it, never before it, once each, and durable."""

import json
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.support.clock import FakeClock
from tests.support.hub_folder import Clinic, Sealed, StudyParts, fused, join, study_parts
from tests.support.power import Fuse, PowerCut
from tests.support.tiny_bundle import tiny_bundle
from thinwire.receiver.cli.main import app
from thinwire.receiver.config import DraftSettings, load_settings
from thinwire.receiver.drafting import Drafting
from thinwire.receiver.hub import Hub, open_hub
from thinwire.receiver.inference.bundles import add_bundle
from thinwire.receiver.inference.draft import Drafter, Text
from thinwire.receiver.inference.triage import ORDER
from thinwire.receiver.pipeline import HubPipeline
from thinwire.receiver.store.records import StoredPrediction, StoredStudy
from thinwire.receiver.work import _draft
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import BadConfiguration, UnknownStudy
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.formats.coder import load_coder
from thinwire.shared.formats.graph import FusedGraph
from thinwire.shared.formats.payload import encode
from thinwire.shared.identifiers import Urgency
from thinwire.shared.storage.durable import Disk

SENTENCES = ["right lower lobe consolidation ."]
"""The tiny bundle's decoder's text for every graph."""


def idle() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


def drafting(hub: Hub, rest: threading.Event | None = None, batch: int = 8) -> Drafting:
    settings = DraftSettings(enabled=True, beams=2, batch=batch)
    return Drafting(hub.store, hub.bundles, settings, rest or idle())


def put(hub: Hub, pipeline: HubPipeline, clinic: Clinic, part: Sealed) -> None:
    pipeline.put(clinic.site, part.object, part.header, part.plaintext, False)


def arrived(hub: Hub, clinic: Clinic, bundle: Bundle, *seeds: int, read: bool = True) -> list[StudyParts]:
    pipeline = hub.pipeline()
    made = [study_parts(clinic, bundle, seed) for seed in seeds]
    for parts in made:
        put(hub, pipeline, clinic, parts.graph)
    while read and pipeline.predict_waiting():
        pass
    return made


def said(hub: Hub, clinic: Clinic, parts: StudyParts) -> list[str] | None:
    draft = hub.store.draft(clinic.site, parts.study)
    return None if draft is None else [each["text"] for each in json.loads(draft)["sentences"]]


def test_a_study_is_drafted_once_it_is_read(hub: Hub, clinic: Clinic, bundle: Bundle) -> None:
    (parts,) = arrived(hub, clinic, bundle, 0, read=False)
    drafts = drafting(hub)
    assert drafts.draft_waiting() == 0
    assert said(hub, clinic, parts) is None
    hub.pipeline().predict_waiting()
    assert drafts.draft_waiting() == 1
    assert drafts.draft_waiting() == 0
    assert said(hub, clinic, parts) == SENTENCES
    kept = json.loads(hub.store.draft(clinic.site, parts.study) or b"")
    graph = fused(bundle.id, parts.study, 0)
    assert kept["text_source"] == "generated"
    assert kept["bundle"] == bundle.id.hex()
    assert kept["cells"] == graph.patches.cell.tolist()
    assert all(sum(each["share"]) == pytest.approx(1, abs=1e-5) for each in kept["sentences"])
    assert dict(drafts.under_way) == {}


def test_the_most_urgent_study_is_drafted_first(hub: Hub, clinic: Clinic, bundle: Bundle) -> None:
    arrived(hub, clinic, bundle, *range(8), read=False)
    words = [Urgency.ROUTINE, Urgency.URGENT, Urgency.UNCERTAIN, Urgency.IMMEDIATE] * 2
    read = dict(zip(hub.store.untriaged(), words, strict=True))
    for waiting, urgency in read.items():
        prediction = StoredPrediction({}, urgency, "as the test says", False, bundle.id, hub.clock.now())
        assert hub.store.add_prediction(waiting, prediction)
    found = hub.store.undrafted(100)
    arrival = list(read)
    assert found == sorted(read, key=lambda each: (ORDER.index(read[each]), arrival.index(each)))
    assert hub.store.undrafted(3) == found[:3]
    assert drafting(hub, batch=2).draft_waiting() == 2
    assert hub.store.undrafted(100) == found[2:]


def studies(hub: Hub) -> list[StoredStudy]:
    return list(hub.store.studies())


class Interrupted(threading.Event):
    """At its n-th look a graph comes, and the look lasts until the reading thread has read it."""

    def __init__(self, hub: Hub, clinic: Clinic, late: StudyParts, at: int) -> None:
        super().__init__()
        self.set()
        self.hub, self.clinic, self.late, self.left = hub, clinic, late, at
        self.seen: list[tuple[str, ...]] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.left -= 1
        if self.left == 0:
            pipeline = self.hub.pipeline()
            put(self.hub, pipeline, self.clinic, self.late.graph)
            assert len(self.hub.store.untriaged()) == 1
            pipeline.predict_waiting()
            drafted = [s for s in studies(self.hub) if self.hub.store.draft(s.site, s.study)]
            assert drafted == []
        return True


def test_a_graph_that_comes_is_read_before_the_next_token(hub: Hub, clinic: Clinic, bundle: Bundle) -> None:
    early, late = *arrived(hub, clinic, bundle, 0), study_parts(clinic, bundle, 1)
    drafts = drafting(hub, Interrupted(hub, clinic, late, at=3))
    assert drafts.draft_waiting() == 1
    assert said(hub, clinic, early) == SENTENCES
    assert said(hub, clinic, late) is None
    assert drafts.draft_waiting() == 1
    assert said(hub, clinic, late) == SENTENCES


class Gate(threading.Event):
    """Says when somebody waits at it."""

    def __init__(self) -> None:
        super().__init__()
        self.waited = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.waited.set()
        return super().wait(timeout)


def test_while_graphs_wait_nothing_is_drafted(hub: Hub, clinic: Clinic, bundle: Bundle) -> None:
    (parts,) = arrived(hub, clinic, bundle, 0)
    gate = Gate()
    drafts = drafting(hub, gate)
    thread = threading.Thread(target=drafts.draft_waiting)
    thread.start()
    assert gate.waited.wait(60)
    assert drafts.under_way == {(clinic.site, parts.study): ""}
    assert said(hub, clinic, parts) is None
    gate.set()
    thread.join(60)
    assert said(hub, clinic, parts) == SENTENCES


def test_a_stop_leaves_what_is_under_way_for_the_next_start(hub: Hub, clinic: Clinic, bundle: Bundle) -> None:
    (parts,) = arrived(hub, clinic, bundle, 0)
    drafts = drafting(hub)
    drafts.stop()
    drafts.run()
    drafts.draft_waiting()
    assert said(hub, clinic, parts) is None
    assert drafting(hub).draft_waiting() == 1
    assert said(hub, clinic, parts) == SENTENCES


def test_the_pipeline_rests_only_when_all_is_read(hub: Hub, clinic: Clinic, bundle: Bundle) -> None:
    pipeline = hub.pipeline()
    rested = threading.Semaphore(0)
    states: list[tuple[bool, int]] = []

    def on_idle() -> None:
        states.append((pipeline.idle.is_set(), len(hub.store.untriaged())))
        rested.release()

    pipeline.on_idle = on_idle
    first, second = (study_parts(clinic, bundle, seed) for seed in range(2))
    put(hub, pipeline, clinic, first.graph)
    assert not pipeline.idle.is_set()
    thread = threading.Thread(target=pipeline.run)
    thread.start()
    assert rested.acquire(timeout=60)
    put(hub, pipeline, clinic, second.graph)
    assert rested.acquire(timeout=60)
    pipeline.stop()
    thread.join(60)
    assert states == [(True, 0), (True, 0)]


def test_reading_and_drafting_run_beside_each_other(hub: Hub, clinic: Clinic, bundle: Bundle) -> None:
    pipeline = hub.pipeline()
    drafts = hub.drafting(pipeline.idle)
    pipeline.on_idle = drafts.wake
    written = threading.Event()
    pipeline_thread = threading.Thread(target=pipeline.run)
    step = hub.store._step

    def stepped(name: str) -> None:
        step(name)
        if name == "store.draft.committed":
            written.set()

    hub.store._step = stepped
    nice = os.nice(0)
    threads = [pipeline_thread, threading.Thread(target=drafts.run)]
    for thread in threads:
        thread.start()
    parts = study_parts(clinic, bundle, 0)
    put(hub, pipeline, clinic, parts.graph)
    assert written.wait(60)
    drafts.stop()
    pipeline.stop()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert said(hub, clinic, parts) == SENTENCES
    assert os.nice(0) == nice


def test_drafting_that_dies_ends_its_own_thread_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    def dies() -> None:
        raise RuntimeError("nobody foresaw it")

    thread = threading.Thread(target=_draft, args=(dies,))
    thread.start()
    thread.join(60)
    (told,) = caplog.records
    assert told.message.startswith("drafting stopped until the next start; triage continues: unexpected error")
    assert "RuntimeError" in told.message
    assert "nobody foresaw it" not in told.message
    assert told.exc_info is None


def test_the_newest_graph_counts(hub: Hub, clinic: Clinic, bundle: Bundle) -> None:
    (parts,) = arrived(hub, clinic, bundle, 0)
    drafts = drafting(hub)
    drafts.draft_waiting()
    pipeline = hub.pipeline()
    other = encode(fused(bundle.id, parts.study, 9), load_coder(bundle))
    put(hub, pipeline, clinic, clinic.seal(Kind.GRAPH, parts.study, other))
    assert said(hub, clinic, parts) is None
    pipeline.predict_waiting()
    assert drafts.draft_waiting() == 1
    kept = json.loads(hub.store.draft(clinic.site, parts.study) or b"")
    assert kept["cells"] == fused(bundle.id, parts.study, 9).patches.cell.tolist()


def test_a_graph_that_breaks_the_decoder_costs_one_study_its_draft(
    hub: Hub, clinic: Clinic, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, sound = arrived(hub, clinic, bundle, 0, 1)
    stream = Drafter.stream

    def breaks(self: Drafter, graphs: Sequence[FusedGraph]) -> Iterator[tuple[Text, ...]]:
        if any(graph.study == broken.study for graph in graphs):
            raise IndexError("as of a layer")
        return stream(self, graphs)

    monkeypatch.setattr(Drafter, "stream", breaks)
    drafts = drafting(hub)
    assert drafts.draft_waiting() == 2
    assert drafts.draft_waiting() == 0
    assert said(hub, clinic, broken) is None
    assert said(hub, clinic, sound)


def test_a_lost_bundle_costs_its_studies_their_draft_and_no_other(
    hub: Hub, clinic: Clinic, bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:

    lost = tiny_bundle(tmp_path / "lost", seed=1)
    add_bundle(hub.data / "bundles", lost.folder, hub.disk)
    (orphan,) = arrived(hub, clinic, lost, 0)
    (good,) = arrived(hub, clinic, bundle, 1)
    shutil.rmtree(hub.data / "bundles" / lost.id.hex())
    with open_hub(hub.data, FakeClock()) as again:
        drafts = drafting(again, batch=1)
        while drafts.draft_waiting():
            pass
        assert said(again, clinic, orphan) is None
        assert said(again, clinic, good) == SENTENCES
    assert "drafting: an item is parked" in caplog.text
    assert orphan.study.hex() not in caplog.text


@pytest.mark.parametrize("step", ["store.draft.before_commit", "store.draft.committed"])
def test_a_draft_is_there_or_is_written_anew(data: Path, bundle: Bundle, step: str) -> None:
    with open_hub(data, FakeClock()) as hub:
        clinic = join(hub)
        (parts,) = arrived(hub, clinic, bundle, 0)
    with pytest.raises(PowerCut), open_hub(data, FakeClock(), Disk(Fuse((step, 1)))) as hub:
        drafting(hub).draft_waiting()
    with open_hub(data, FakeClock()) as hub:
        there = said(hub, clinic, parts) is not None
        assert there is (step == "store.draft.committed")
        assert drafting(hub).draft_waiting() == (0 if there else 1)
        assert said(hub, clinic, parts) == SENTENCES


def test_show_and_export_mark_a_draft_as_machine_written(
    hub: Hub, clinic: Clinic, bundle: Bundle, tmp_path: Path
) -> None:
    (parts,) = arrived(hub, clinic, bundle, 0)
    drafting(hub).draft_waiting()
    name, data = parts.study.hex(), str(hub.data)
    page = CliRunner().invoke(app, ["show", name, "--data", data]).stdout
    assert "Machine-written draft from 5 patches of the image alone, unchecked." in page
    assert all(sentence in page for sentence in SENTENCES)
    kept = json.loads(hub.store.draft(clinic.site, parts.study) or b"")
    shown = json.loads(CliRunner().invoke(app, ["show", name, "--data", data, "--json"]).stdout)
    assert shown["draft"] == kept
    CliRunner().invoke(app, ["export", name, "--data", data, "--to", str(tmp_path / "out")])
    assert json.loads((tmp_path / "out" / f"{name[:16]}.draft.json").read_text("utf-8")) == kept


def test_one_draft_on_request(hub: Hub, clinic: Clinic, bundle: Bundle) -> None:
    (parts,) = arrived(hub, clinic, bundle, 0)
    words = ["draft", parts.study.hex()[:8], "--data", str(hub.data)]
    page = CliRunner().invoke(app, words).stdout
    assert "Machine-written draft" in page
    assert SENTENCES[0] in page
    assert said(hub, clinic, parts) == SENTENCES
    assert drafting(hub).draft_waiting() == 0
    told = json.loads(CliRunner().invoke(app, [*words, "--beams", "2", "--json"]).stdout)
    assert told == json.loads(hub.store.draft(clinic.site, parts.study) or b"")
    pipeline = hub.pipeline()
    without = study_parts(clinic, bundle, 5)
    put(hub, pipeline, clinic, without.originals)
    refused = CliRunner().invoke(app, ["draft", without.study.hex(), "--data", str(hub.data)])
    assert isinstance(refused.exception, UnknownStudy)


def test_drafting_is_configured_by_file_and_environment(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(data).draft == DraftSettings(enabled=False, beams=4)
    with (data / "config.toml").open("a") as file:
        file.write("[draft]\nenabled = true\nbeams = 3\n")
    assert load_settings(data).draft == DraftSettings(enabled=True, beams=3)
    monkeypatch.setenv("THINWIRE_RECEIVER_DRAFT__BEAMS", "2")
    assert load_settings(data).draft == DraftSettings(enabled=True, beams=2)
    monkeypatch.setenv("THINWIRE_RECEIVER_DRAFT__BEAMS", "0")
    with pytest.raises(BadConfiguration) as caught:
        load_settings(data)
    assert "THINWIRE_RECEIVER_DRAFT__BEAMS" in caught.value.remedy
