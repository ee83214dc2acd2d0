"""/metrics, /healthz and /readyz of a hub with studies, and its log as JSON: counts, and nobody's name."""

import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.both_databases import hub_on
from tests.support.clock import FakeClock
from tests.support.forwarded_hub import keep_study, next_due
from tests.support.hub_folder import join
from tests.support.machine_results import image_file
from thinwire.receiver.forward.delivery import DeliveryEvent
from thinwire.receiver.forward.queue import queue_of
from thinwire.receiver.hub import Hub, make_hub, open_hub
from thinwire.receiver.operations import health
from thinwire.receiver.operations.backup import record_taken
from thinwire.receiver.operations.health import Health
from thinwire.receiver.operations.metrics import Counts, Totals
from thinwire.receiver.operations.monitoring import monitoring
from thinwire.receiver.pipeline import INFERENCE
from thinwire.receiver.store.damage import forget
from thinwire.receiver.store.events import StudyEvent, add_event
from thinwire.receiver.store.history import begin_generation
from thinwire.receiver.transport.link_status import SiteLink, write_status
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import BadConfiguration
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.heartbeats import STILL, Heartbeats
from thinwire.shared.identifiers import Digest, SiteName, digest
from thinwire.shared.storage.durable import Disk


def counted(hub: Hub) -> dict[tuple[str, ...], float]:
    """Every sample: (name, then the values of its labels in the order of their names)."""
    with monitoring(hub, "127.0.0.1:0", Health(hub, False)) as port, httpx.Client(trust_env=False) as http:
        answer = http.get(f"http://127.0.0.1:{port}/metrics")
    assert answer.status_code == 200
    for secret in ("SYNTHETIC", "PHANTOM", "1.2.826"):
        assert secret not in answer.text
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_what_is_here_what_waits_and_for_how_long(hub: Hub, bundle: Bundle, clock: FakeClock) -> None:
    clinic = join(hub)
    keep_study(hub, clinic, bundle, image_file(1), read=False)
    clock.advance(7)
    assert hub.pipeline().predict_waiting() == 1
    keep_study(hub, clinic, bundle, image_file(2), read=False)
    clock.advance(90)
    said = counted(hub)
    assert said["thinwire_studies", "north-valley"] == 2
    assert said["thinwire_untriaged", "north-valley"] == 1
    assert said["thinwire_untriaged_oldest_seconds", "north-valley"] == 90
    assert said["thinwire_triage_seconds_count",] == 1
    assert said["thinwire_triage_seconds_sum",] == 7
    assert (said["thinwire_triage_seconds_bucket", "5.0"], said["thinwire_triage_seconds_bucket", "10.0"]) == (0, 1)
    assert said["thinwire_objects", "originals", "north-valley"] == 2
    assert said["thinwire_object_bytes", "graph", "north-valley"] > 200
    assert said["thinwire_disk_free_bytes",] > 0


def test_a_later_scrape_counts_what_came_since_and_what_was_damaged(hub: Hub, bundle: Bundle, clock: FakeClock) -> None:
    def totals(counts: Counts) -> dict[tuple[str, ...], float]:
        families = counts.totals.metrics(hub.database)
        return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}

    clinic, ever = join(hub), Counts(hub.database, queue_of(hub), hub.data, hub.disk, hub.clock, hub.store.parked)
    for seed in (1, 2):
        study = keep_study(hub, clinic, bundle, image_file(seed), read=False)
        clock.advance(7)
        hub.pipeline().predict_waiting()
        assert totals(ever) == totals(
            Counts(hub.database, queue_of(hub), hub.data, hub.disk, hub.clock, hub.store.parked)
        )
    assert totals(ever)["thinwire_objects", "north-valley", "originals"] == 2
    assert totals(ever)["thinwire_triage_seconds_sum",] == 14
    last = hub.store.plaintext(clinic.site, study, Kind.ORIGINALS)
    assert last is not None
    with hub.database.write() as connection:
        forget(connection, clinic.site, digest(last), clock.now())
    put_again = clinic.seal(Kind.ORIGINALS, study, last)
    assert totals(ever)["thinwire_objects", "north-valley", "originals"] == 1
    hub.pipeline().put(clinic.site, put_again.object, put_again.header, last, False)
    assert totals(ever)["thinwire_objects", "north-valley", "originals"] == 2


def test_a_scrape_waits_for_no_writer_and_counts_it_later(tmp_path: Path, bundle: Bundle, clock: FakeClock) -> None:
    """Of another replica: its numbers are lower than those that were counted before it committed."""

    def predicted(totals: Totals) -> float:
        (triage,) = (each for each in totals.metrics(hub.database) if each.name == "thinwire_triage_seconds")
        return next(each.value for each in triage.samples if each.name.endswith("_count"))

    with hub_on("postgresql", tmp_path / "hub", bundle, clock) as data, open_hub(data, clock) as hub:
        each = [join(hub, site) for site in ("north-valley", "south-ridge")]
        studies = [(at.site, keep_study(hub, at, bundle, read=False)) for at in each]
        totals = Totals()
        clock.advance(400)
        with hub.database.write(turn=studies[0][0]) as slow:
            add_event(slow, *studies[0], StudyEvent.PREDICTED, clock.now())
            with hub.database.write(turn=studies[1][0]) as quick:
                add_event(quick, *studies[1], StudyEvent.PREDICTED, clock.now())
            assert predicted(totals) == 1
        assert predicted(totals) == predicted(totals) == 2
        clock.advance(400)
        with hub.database.write(turn=studies[0][0]) as connection:
            add_event(connection, *studies[0], StudyEvent.DRAFTED, clock.now())
        assert predicted(totals) == predicted(totals) == predicted(Totals()) == 2


def test_what_is_on_its_way_out(hub: Hub, bundle: Bundle, clock: FakeClock) -> None:
    clinic = join(hub)
    study = keep_study(hub, clinic, bundle, read=False)
    queue = queue_of(hub)
    queue.enter(["pacs"])
    items = [(f"file {n}", Digest(bytes([n]) * 32)) for n in range(3)]
    assert queue.plan("pacs", None, [((clinic.site, study), items)]) == 3
    queue.apply(next_due(queue, "pacs")[0].number, DeliveryEvent.FOUND_AT_TARGET)
    clock.advance(30)
    said = counted(hub)
    assert said["thinwire_deliveries", "confirmed", "pacs"] == 1
    assert said["thinwire_deliveries", "waiting", "pacs"] == 2
    assert said["thinwire_delivery_oldest_seconds", "waiting", "pacs"] == 30


def test_backups_and_steps_back_in_time(hub: Hub, clock: FakeClock) -> None:
    assert not [each for each in counted(hub) if each[0] == "thinwire_backup_age_seconds"]
    record_taken(hub.database, clock.now(), clock, lambda _: None)
    clock.advance(90)
    with hub.database.write() as connection:
        begin_generation(connection, "behind", clock.now())
    said = counted(hub)
    assert said["thinwire_backup_age_seconds",] == 90
    assert (said["thinwire_store_went_back", "restored"], said["thinwire_store_went_back", "behind"]) == (0, 1)


def test_an_empty_hub_can_be_scraped(hub: Hub) -> None:
    assert counted(hub)["thinwire_triage_seconds_count",] == 0


def asked(hub: Hub, path: str, predicts: bool = False) -> tuple[int, dict[str, Any]]:
    with (
        monitoring(hub, "127.0.0.1:0", Health(hub, predicts)) as port,
        httpx.Client(trust_env=False) as http,
    ):
        answer = http.get(f"http://127.0.0.1:{port}{path}")
    return answer.status_code, answer.json()


def test_a_hub_whose_loops_move_is_alive(hub: Hub, clock: FakeClock) -> None:
    object.__setattr__(hub, "heartbeats", Heartbeats(clock))
    beat = hub.heartbeats.begin("link", STILL)
    hub.heartbeats.begin("inference", 600)
    clock.advance(STILL + 1)
    assert asked(hub, "/healthz") == (503, {"healthy": False, "stopped": ["link"]})
    assert counted(hub)["thinwire_loop_seconds", "link"] == STILL + 1
    beat()
    assert asked(hub, "/healthz") == (200, {"healthy": True, "stopped": []})


def test_a_hub_that_can_take_a_study_is_ready(hub: Hub) -> None:
    assert asked(hub, "/readyz") == (503, {"ready": False, "reasons": {"started": "the process starts, or stops"}})
    hub.heartbeats.begin("link", STILL)
    assert asked(hub, "/readyz") == (200, {"ready": True, "reasons": {}})
    assert asked(hub, "/readyz", predicts=True)[1]["reasons"] == {"model": "the model is being loaded"}
    hub.heartbeats.begin(INFERENCE, STILL)
    assert asked(hub, "/readyz", predicts=True) == (200, {"ready": True, "reasons": {}})
    assert not any(hub.blobs.pages()), "the probe is removed"


@pytest.mark.parametrize(
    ("damage", "condition", "reason"),
    [
        ("UPDATE alembic_version SET version_num = '0099'", "database", "the database has version 0099"),
        ("DROP TABLE alembic_version", "database", "unexpected error (OperationalError"),
    ],
)
def test_a_hub_that_cannot_use_its_database_is_not_ready(hub: Hub, damage: str, condition: str, reason: str) -> None:
    hub.heartbeats.begin("link", STILL)
    with closing(sqlite3.connect(hub.data / "thinwire.db", isolation_level=None)) as database:
        database.execute(damage)
    code, said = asked(hub, "/readyz")
    assert (code, list(said["reasons"])) == (503, [condition])
    assert said["reasons"][condition].startswith(reason)
    assert counted(hub)["thinwire_ready", condition] == 0
    assert asked(hub, "/healthz")[0] == 200, "a restart would not help"


def test_a_hub_on_a_full_disk_is_not_ready(tmp_path: Path, bundle: Bundle) -> None:
    make_hub(tmp_path / "full", bundle.folder, Disk(), FakeClock())
    with open_hub(tmp_path / "full", FakeClock(), Disk(reserve=1 << 62)) as hub:
        hub.heartbeats.begin("link", STILL)
        code, said = asked(hub, "/readyz")
    assert (code, list(said["reasons"])) == (503, ["blobs", "disk"])


def test_what_does_not_answer_holds_no_question_up(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "PATIENCE", 0.05)
    answers = threading.Event()
    asked = Health(hub, False)
    assert asked.ask("disk", lambda: str(answers.wait())) == "it does not answer"
    answers.set()
    monkeypatch.setattr(health, "PATIENCE", 30)
    assert asked.ask("disk", lambda: "") in ("True", "")


def test_a_clinic_is_silent_from_its_last_message(hub: Hub, bundle: Bundle, clock: FakeClock) -> None:
    clinic, ridge = join(hub), join(hub, "ridge")
    hub.enrolment.enrol(SiteName("never-joined"))
    clock.advance(3600)
    keep_study(hub, clinic, bundle, image_file(1), read=False)
    clock.advance(60)
    said = {key[1]: value for key, value in counted(hub).items() if key[0] == "thinwire_site_silent_seconds"}
    assert said == {"north-valley": 60, "ridge": 3660}
    write_status(hub.data, [SiteLink(ridge.site, True, clock.now(), clock.now())], clock.now())
    assert counted(hub)["thinwire_site_silent_seconds", "ridge"] == 0


def test_a_port_that_is_taken_is_said(hub: Hub) -> None:
    with (
        monitoring(hub, "127.0.0.1:0", Health(hub, False)) as port,
        pytest.raises(BadConfiguration),
        monitoring(hub, f"127.0.0.1:{port}", Health(hub, False)),
    ):
        pass
