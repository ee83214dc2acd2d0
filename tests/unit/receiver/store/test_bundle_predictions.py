"""Stored graphs predicted again with another bundle: history beside the worklist, until a person shows it."""

import json
from pathlib import Path

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from tests.support.hub_folder import Clinic, damage_blob, join, study_parts
from tests.support.plain_loop import Loop
from tests.support.power import Fuse, PowerCut
from tests.support.tiny_bundle import FINDINGS, tiny_bundle
from thinwire.receiver.archive import ARCHIVE, Summary, predict_archive, predictions_of
from thinwire.receiver.cli.main import app
from thinwire.receiver.hub import Hub, open_hub
from thinwire.receiver.store import newest_graphs, shared_bundles
from thinwire.receiver.store.records import StoredPrediction
from thinwire.receiver.store.tables import audit
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.formats.receipts import parse_receipt
from thinwire.shared.identifiers import StudyKey, digest
from thinwire.shared.storage.durable import Disk


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of the same encoder whose network is another one."""
    return tiny_bundle(tmp_path_factory.mktemp("other") / "tiny", reader=7)


def arrived(hub: Hub, clinic: Clinic, bundle: Bundle, *seeds: int, predicted: bool = True) -> list[StudyKey]:
    pipeline, studies = hub.pipeline(), []
    for seed in seeds:
        parts = study_parts(clinic, bundle, seed)
        pipeline.put(clinic.site, parts.graph.object, parts.graph.header, parts.graph.plaintext, False)
        studies.append(parts.study)
    while predicted and pipeline.predict_waiting():
        pass
    return studies


def run(hub: Hub, bundle: Bundle, drafted: bool = False) -> Summary:
    hub.bundles.add(bundle.folder, hub.disk)
    return predict_archive(hub, bundle.id, Loop, drafted, lambda *_: None)


def shown(hub: Hub, clinic: Clinic, study: StudyKey) -> StoredPrediction:
    prediction = hub.store.study(clinic.site, study).prediction
    assert prediction is not None
    return prediction


def history(hub: Hub, clinic: Clinic, study: StudyKey) -> list[StoredPrediction]:
    return predictions_of(hub).of_study(clinic.site, study)


def test_every_graph_is_predicted_again_beside_the_worklist(
    hub: Hub, clinic: Clinic, bundle: Bundle, other: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newest_graphs, "PAGE", 3)
    studies = arrived(hub, clinic, bundle, *range(5)) + arrived(hub, join(hub, "south"), bundle, 5, 6)
    before, events = shown(hub, clinic, studies[0]), hub.store.event_stamp()
    done = run(hub, other)
    assert (done.studies, done.predicted, done.known, done.parked, done.refused) == (7, 7, 0, 0, {})
    assert shown(hub, clinic, studies[0]) == before
    assert hub.store.event_stamp() == events  # no receipt, no word to anybody
    (said,) = history(hub, clinic, studies[0])
    assert said.bundle == other.id
    assert said.findings != before.findings
    assert set(said.findings) == set(FINDINGS)
    assert all(0 <= f.low <= f.probability <= f.high <= 1 for f in said.findings.values())
    again = run(hub, other)
    assert (again.predicted, again.known) == (0, 7)


def test_a_bundle_of_another_encoder_reads_nothing(hub: Hub, clinic: Clinic, bundle: Bundle, tmp_path: Path) -> None:
    foreign = tiny_bundle(tmp_path / "foreign", seed=3)
    (study,) = arrived(hub, clinic, bundle, 0)
    done = run(hub, foreign)
    assert (done.studies, done.predicted, done.refused) == (0, 0, {"their encoder is another one": 1})
    assert history(hub, clinic, study) == []
    # As the default it takes no graph that it cannot read either.
    hub.bundles.choose(foreign.id, hub.disk)
    (later,) = arrived(hub, clinic, bundle, 1)
    assert shown(hub, clinic, later).bundle == bundle.id


def test_a_run_that_is_cut_goes_on_and_predicts_the_rest(
    hub: Hub, data: Path, clinic: Clinic, bundle: Bundle, other: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thinwire.receiver.archive.FLUSH", 1)
    studies = arrived(hub, clinic, bundle, *range(4))
    hub.bundles.add(other.folder, hub.disk)
    for cut in ("store.bundle_predictions.before_commit", "store.bundle_predictions.committed"):
        fuse = Fuse((cut, 1))
        with open_hub(data, hub.clock, Disk(step=fuse)) as cut_hub, pytest.raises(PowerCut):
            predict_archive(cut_hub, other.id, Loop, False, lambda *_: None)
    done = run(hub, other)
    assert (done.predicted, done.known) == (3, 1)
    assert [len(history(hub, clinic, study)) for study in studies] == [1] * 4


def test_a_graph_that_fails_is_parked_and_stops_no_other(
    hub: Hub, clinic: Clinic, bundle: Bundle, other: Bundle
) -> None:
    studies = arrived(hub, clinic, bundle, *range(3))
    blob = hub.store.plaintext(clinic.site, studies[1], Kind.GRAPH)
    assert blob is not None
    damage_blob(hub, digest(blob))
    done = run(hub, other)
    assert (done.predicted, done.parked) == (2, 1)
    (parked,) = [each for each in hub.store.parked.items() if each.loop == ARCHIVE]
    assert studies[1].hex() in parked.item
    hub.blobs.write(blob)
    again = run(hub, other)
    assert (again.predicted, again.parked) == (0, 1)
    hub.store.parked.retry()
    assert run(hub, other).predicted == 1
    assert hub.store.parked.counts().get(ARCHIVE) is None


def test_drafts_come_with_the_predictions_where_asked(hub: Hub, clinic: Clinic, bundle: Bundle, other: Bundle) -> None:
    (study,) = arrived(hub, clinic, bundle, 0)
    assert run(hub, other).predicted == 1
    assert run(hub, other, drafted=True).predicted == 1
    assert run(hub, other, drafted=True).known == 1
    assert hub.store.draft(clinic.site, study) is None
    hub.bundles.choose(other.id, hub.disk)
    assert [changed for _, changed in predictions_of(hub).show_all(other.id)] == [1]
    draft = json.loads(hub.store.draft(clinic.site, study) or b"{}")
    assert (draft["bundle"], bool(draft["sentences"])) == (other.id.hex(), True)


def test_the_worklist_shows_the_archive_when_a_person_says_so(
    hub: Hub, data: Path, clinic: Clinic, bundle: Bundle, other: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_bundles, "REMEMBERED", 0.0)
    unread, opened, urgent = arrived(hub, clinic, bundle, 0, 1, 2)
    hub.store.record_opened(clinic.site, opened)
    before = shown(hub, clinic, unread)
    run(hub, other)
    hub.store.escalate(clinic.site, urgent)  # the archive's prediction of it was of another urgency
    while hub.pipeline().predict_waiting():
        pass
    result = CliRunner().invoke(app, ["bundle", "default", other.id.hex(), "--archive", "--data", str(data)])
    assert result.exit_code == 0, result.output
    after = shown(hub, clinic, unread)
    assert (after.bundle, shown(hub, clinic, opened).bundle) == (other.id, bundle.id)
    assert [each.bundle for each in history(hub, clinic, unread)] == [bundle.id]
    assert history(hub, clinic, unread)[0].findings == before.findings
    assert "sent as urgent" in shown(hub, clinic, urgent).reason or str(shown(hub, clinic, urgent).urgency) != "routine"
    told = [parse_receipt(each) for each in hub.store.undelivered_receipts(clinic.site)]
    (last,) = [each for each in told if each.study == unread][-1:]
    assert json.loads(last.detail)["bundle"] == other.id.hex()
    with hub.database.read() as connection:
        messages = " ".join(connection.scalars(select(audit.c.message)))
    assert "show-archive" in messages
    # Again: nothing is left to change. A new study is predicted with the new default, whatever bundle made it.
    assert [changed for _, changed in predictions_of(hub).show_all(other.id)] == [0]
    (later,) = arrived(hub, clinic, bundle, 9)
    assert shown(hub, clinic, later).bundle == other.id
    told_json = json.loads(CliRunner().invoke(app, ["show", unread.hex(), "--data", str(data), "--json"]).output)
    assert told_json["predicted_by"] == other.id.hex()
    assert [each["bundle"] for each in told_json["other_predictions"]] == [bundle.id.hex()]
