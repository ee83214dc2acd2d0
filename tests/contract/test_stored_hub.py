"""A hub's folder that an earlier version left behind: this version loses and hides nothing of it."""

import json
import re
import shutil
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pydicom
import pytest
from sqlalchemy import delete, select
from typer.testing import CliRunner

from tests.support.clock import START, FakeClock
from tests.support.forwarded_hub import next_plan
from tests.support.power import Fuse, PowerCut
from tests.support.programs import command
from tests.support.worklist_histories import defined
from thinwire.receiver.access.audit import read_head
from thinwire.receiver.access.audit_message import Act, Message
from thinwire.receiver.cli.main import app
from thinwire.receiver.forward.forwarding import forwarders
from thinwire.receiver.forward.queue import queue_of
from thinwire.receiver.hub import Hub, bring_forward, offline_lock, open_hub
from thinwire.receiver.operations.check import Checked, check
from thinwire.receiver.store import full_text
from thinwire.receiver.store.events import EVENT_OF
from thinwire.receiver.store.tables import (
    HUB,
    events,
    generations,
    objects,
    positions,
    receipts,
    worklist,
    worklist_counts,
    worklist_vocabulary,
)
from thinwire.receiver.store.worklist_order import ListState, Selection
from thinwire.receiver.store.worklist_rows import keep
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import BadConfiguration, BadFormat, HubBusy, exit_code
from thinwire.shared.formats.positional import moment
from thinwire.shared.formats.receipts import StudyStatus, read_receipt
from thinwire.shared.identifiers import SiteName, StudyKey
from thinwire.shared.storage.durable import Disk
from thinwire.shared.storage.migrations import create_database, found_version

SAMPLE = Path(__file__).parent / "samples" / "hub-6"
VALLEY, RIDGE = SiteName("north-valley"), SiteName("ridge")
COMPLETE = StudyKey(bytes.fromhex("682e5c57ee760b3d044ab40e17e59e6e"))
"""All tiers, a prediction, a draft and a signed report."""
REQUESTED = StudyKey(bytes.fromhex("e5ef2aa5802e74499aea285fbc54243a"))
"""Graph and preview; crops and originals are requested; its report is preliminary."""
URGENT = StudyKey(bytes.fromhex("69a3fdeb1d2358394139c23ff7e50786"))
"""A graph alone, without a prediction."""
LISTED = StudyKey(bytes.fromhex("627cd86b4478dcd87c83b65b02e1c4d6"))
"""A manifest alone, of a site whose access is revoked."""
HEAD = "13:81daab7938587061e5530853f90eb3ff8e0c37acdf8f2ae387ee5e5c50ae55a7"


def as_it_was(data: Path, also: str = "") -> Path:
    """The folder as version 6 left it. also: SQL that changes it."""
    shutil.copytree(SAMPLE, data)
    (data / "keys").chmod(0o700)
    for key in (data / "keys").iterdir():
        key.chmod(0o600)
    with closing(sqlite3.connect(data / "thinwire.db")) as database:
        database.executescript((data / "thinwire.sql").read_text(encoding="utf-8") + also)
    (data / "thinwire.sql").unlink()
    return data


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = as_it_was(tmp_path_factory.mktemp("hub") / "hub")
    bring_forward(data)
    return data


@pytest.fixture
def data(sample: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sample, tmp_path / "hub")


@pytest.fixture
def hub(data: Path) -> Iterator[Hub]:
    with open_hub(data, FakeClock(START + timedelta(hours=1))) as hub:
        yield hub


def run(data: Path, *words: str) -> str:
    done = CliRunner().invoke(app, [*words, "--data", str(data)])
    assert done.exit_code == 0, done.output
    return done.stdout


def tables(path: Path) -> set[str]:
    """The statements that make the tables, indices and triggers of a database, without layout."""
    with sqlite3.connect(path) as database:
        made = database.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    return {re.sub(r"\s+", " ", sql).strip() for (sql,) in made}


def test_a_new_database_has_the_same_tables(data: Path, tmp_path: Path) -> None:
    create_database(tmp_path / "new.db", HUB)
    assert tables(tmp_path / "new.db") == tables(data / "thinwire.db")


def test_no_row_is_lost(hub: Hub, data: Path) -> None:
    inserted = re.findall(r"^INSERT INTO \"(\w+)\"", (SAMPLE / "thinwire.sql").read_text(encoding="utf-8"), re.M)
    run(data, "worklist")
    hub.store.sweep()
    with hub.database.read() as connection:
        left = {name: connection.exec_driver_sql(f"SELECT count(*) FROM {name}").scalar_one() for name in set(inserted)}
    assert left == Counter(inserted)


def test_every_object_has_a_position_in_the_order_of_arrival(hub: Hub) -> None:
    arrived = select(objects.c.site, objects.c.object).order_by(objects.c.site, objects.c.number)
    counted = select(positions.c.site, positions.c.object, positions.c.position)
    with hub.database.read() as connection:
        stored = connection.execute(arrived).all()
        given = connection.execute(counted.order_by(positions.c.site, positions.c.position)).all()
        assert connection.scalars(select(generations.c.reason)).all() == ["first"]
    assert [(row.site, row.object) for row in given] == [tuple(row) for row in stored]
    for site in {row.site for row in given}:
        mine = [row.position for row in given if row.site == site]
        assert mine == list(range(1, len(mine) + 1))


def events_of(hub: Hub) -> list[tuple[int, datetime, StudyKey, str]]:
    with hub.database.read() as connection:
        rows = connection.execute(select(events).order_by(events.c.number)).all()
    return [(row.number, moment(row.at), StudyKey(row.study), row.event) for row in rows]


def test_every_receipt_is_an_event_of_the_same_number_and_time(hub: Hub) -> None:
    with hub.database.read() as connection:
        signed = connection.execute(select(receipts.c.number, receipts.c.signed).order_by(receipts.c.number)).all()
    read = [(number, read_receipt(each, hub.keys.signing.public_key())) for number, each in signed]
    told = [(number, each.at, each.study, str(EVENT_OF[each.status])) for number, each in read]
    assert len(told) == 14
    assert events_of(hub) == told


def test_a_target_that_had_planned_everything_plans_nothing_and_another_skips_nothing(hub: Hub) -> None:
    queue = queue_of(hub)
    assert next_plan(queue, "pacs") is None
    (site, last, studies), rest = next_plan(queue, "fhir") or (None, 0, []), next_plan(queue, "fhir", VALLEY)
    assert (site, last) == (VALLEY, 14)
    assert rest is not None
    assert {study for _, study in (*studies, *rest.studies)} == {COMPLETE, REQUESTED, URGENT, LISTED}
    before = queue.all()
    (pacs,) = forwarders(hub)
    assert not pacs._plan()
    assert queue.all() == before


def test_a_study_that_was_forwarded_is_told_after_all_receipts(tmp_path: Path) -> None:
    data = as_it_was(
        tmp_path / "hub",
        "UPDATE deliveries SET state = 'confirmed' WHERE state <> 'overtaken';"
        "INSERT INTO deliveries SELECT 7, 'fhir', site, study, item, version, 'refused', 0, due_at, '', NULL, NULL, "
        "planned_at FROM deliveries WHERE number = 1;"
        f"INSERT INTO deliveries SELECT 8, 'fhir', site, x'{REQUESTED.hex()}', item, version, 'overtaken', 0, due_at, "
        "'', NULL, NULL, planned_at FROM deliveries WHERE number = 1;",
    )
    bring_forward(data)
    with open_hub(data, FakeClock()) as hub:
        number, at, study, event = events_of(hub)[-1]
        assert (number, study, event) == (15, COMPLETE, "forwarded")
        assert at == max(each.due for each in queue_of(hub).all() if each.target == "pacs")
        assert next_plan(queue_of(hub), "pacs") is None


def test_the_migrated_hub_has_no_finding(hub: Hub) -> None:
    hub.audit.record(Message(Act.STARTED, hub.clock.now(), "serve"))
    assert list(check(hub, Checked(), lambda *_: None)) == []


def test_a_damaged_receipt_stops_no_migration(tmp_path: Path) -> None:
    data = as_it_was(tmp_path / "hub", "UPDATE receipts SET signed = x'00' WHERE number IN (3, 14);")
    bring_forward(data)
    with open_hub(data, FakeClock()) as hub:
        assert [number for number, *_ in events_of(hub)] == list(range(1, 15))


def test_an_interrupted_migration_starts_again(data: Path, tmp_path: Path) -> None:
    steps: list[str] = []
    bring_forward(as_it_was(tmp_path / "rehearsed"), Disk(steps.append))
    assert {"migrate.copy.before_write", "migrate.before_commit", "migrate.committed"} <= set(steps)
    cut_short = as_it_was(tmp_path / "cut")
    for step in steps:
        with pytest.raises(PowerCut):
            bring_forward(cut_short, Disk(Fuse((step, 1))))
        assert found_version(cut_short / "thinwire.db") == (HUB.version if step == "migrate.committed" else 6)
    assert f"version {HUB.version}" in run(cut_short, "migrate")
    with open_hub(data, FakeClock()) as whole, open_hub(cut_short, FakeClock()) as hub:
        assert events_of(hub) == events_of(whole)


def test_an_import_of_the_earlier_version_ends_before_the_migration(tmp_path: Path) -> None:
    data = as_it_was(tmp_path / "hub")
    with offline_lock(data):
        with pytest.raises(HubBusy):
            bring_forward(data)
        assert found_version(data / "thinwire.db") == 6
    assert bring_forward(data) is not None
    with offline_lock(data):
        assert bring_forward(data) is None


def test_a_newer_hub_is_refused_with_words_and_untouched(data: Path) -> None:
    with closing(sqlite3.connect(data / "thinwire.db", isolation_level=None)) as database:
        database.execute("UPDATE alembic_version SET version_num = '0099'")
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    for words in (["serve", "--listen", "127.0.0.1:0"], ["migrate"], ["migrate", "--check"], ["worklist"]):
        started = command("thinwire-receiver", *words, "--data", data)
        done = subprocess.run(started, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == exit_code(BadConfiguration("newer")), done.stderr
        assert f"version 99, which is newer than this program (version {HUB.version})" in done.stderr
        assert "Install the version of thinwire that wrote it" in done.stderr
    left = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    assert left == before


def test_the_worklist_has_every_study_with_its_tiers(data: Path) -> None:
    rows = {row["study"]: row for row in json.loads(run(data, "worklist", "--all", "--json"))}
    here = {study: [name for name, size in row["tiers"].items() if size is not None] for study, row in rows.items()}
    assert here == {
        COMPLETE.hex(): ["graph", "preview", "crops", "originals"],
        REQUESTED.hex(): ["graph", "preview"],
        URGENT.hex(): ["graph"],
        LISTED.hex(): [],
    }
    assert [rows[study.hex()]["report"] for study in (COMPLETE, REQUESTED, URGENT)] == ["final", "preliminary", None]
    assert [rows[study.hex()]["urgency"] is None for study in (COMPLETE, REQUESTED, URGENT)] == [False, False, True]
    assert rows[URGENT.hex()]["urgent_asked"] is True
    assert rows[COMPLETE.hex()]["complete"] is True
    assert rows[LISTED.hex()]["site"] == RIDGE


def test_the_migrated_worklist_is_the_one_that_this_version_would_have_kept(hub: Hub) -> None:
    now, cap = hub.clock.now(), hub.settings.cap
    listed = [entry for page in hub.worklist.stream(Selection(ListState.ALL), now, 2) for entry in page]
    assert [entry.study.study for entry in listed] == [REQUESTED, URGENT, LISTED, COMPLETE]
    assert listed == defined(hub, cap)
    found = {query: hub.worklist.search(query, now, 9).entries for query in ("ridge", "not triaged", "signed", "pa")}
    kept = _worklist_rows(hub)
    with hub.database.write() as connection:
        for table in (worklist, worklist_counts, worklist_vocabulary):
            connection.execute(delete(table))
        full_text.rebuild(connection)
        for entry in listed:
            keep(connection, entry.study.site, entry.study.study)
    assert _worklist_rows(hub) == kept
    assert {query: hub.worklist.search(query, now, 9).entries for query in found} == found
    assert all(found.values())


def _worklist_rows(hub: Hub) -> list[list[tuple[object, ...]]]:
    with hub.database.read() as connection:
        tables = [
            select(*(column for column in table.c if column.name != "number"))
            for table in (worklist, worklist_counts, worklist_vocabulary)
        ]
        return [sorted(map(tuple, connection.execute(table)), key=repr) for table in tables]


def test_studies_predictions_requests_and_receipts_read_as_they_were(hub: Hub) -> None:
    study = hub.store.study(VALLEY, COMPLETE)
    assert study.prediction is not None
    assert set(study.prediction.findings) == {"consolidation", "effusion", "pneumothorax", "cardiomegaly", "nodule"}
    assert study.opened
    draft = hub.store.draft(VALLEY, COMPLETE)
    assert draft is not None
    assert json.loads(draft)["sentences"][0]["text"] == "No pneumothorax."
    report = hub.store.report(VALLEY, COMPLETE)
    assert report is not None
    assert (report.version, report.text, report.reader) == (2, "No pneumothorax. Small effusion.", "anna")
    assert (report.reader_name, report.from_draft) == ("Dr. Anna", True)
    assert sorted(hub.store.requested_parts(VALLEY)) == [(REQUESTED, Kind.CROPS), (REQUESTED, Kind.ORIGINALS)]
    key = hub.keys.signing.public_key()
    statuses = Counter(read_receipt(each, key).status for each in hub.store.undelivered_receipts(VALLEY))
    assert statuses == {
        StudyStatus.STORED: 5,
        StudyStatus.TRIAGED: 2,
        StudyStatus.OPENED: 1,
        StudyStatus.REPORTED: 1,
    }
    assert [waiting.study for waiting in hub.store.untriaged()] == [URGENT]
    assert hub.pipeline().predict_waiting() == 1
    assert (events_of(hub)[-1][0], hub.store.untriaged()) == (15, [])


def test_the_complete_study_is_shown_and_exported(data: Path, tmp_path: Path) -> None:
    shown = json.loads(run(data, "show", COMPLETE.hex(), "--json", "--png", str(tmp_path / "picture.png")))
    assert shown["picture"].startswith("the original file")
    assert shown["draft"]["sentences"]
    out = tmp_path / "out"
    run(data, "export", COMPLETE.hex(), "--to", str(out))
    stem = COMPLETE.hex()[:16]
    ends = ("thinwire", "graphml", "pyg.safetensors", "png", "preview.png", "crops.png", "crops.json", "draft.json")
    for end in (*ends, "sr.dcm", "capture.dcm"):
        assert (out / f"{stem}.{end}").stat().st_size, end
    assert pydicom.dcmread(next((out / stem).glob("*.dcm"))).pixel_array.shape == (300, 280)


def test_accounts_audit_log_and_deliveries_are_whole(hub: Hub, data: Path) -> None:
    listed = [line.split("\t") for line in run(data, "account", "list").splitlines()]
    assert [(name, full_name, state) for name, _, full_name, state in listed] == [
        ("anna", "Dr. Anna", "open"),
        ("bert", "Dr. Bert", "link not used yet"),
        ("carl", "Dr. Carl", "closed"),
        ("olga", "Dr. Olga", "open"),
        ("root", "Ada Root", "open"),
    ]
    assert hub.accounts.check("anna", "correct horse battery") is not None
    with pytest.raises(BadFormat, match="signature of message 13"):
        hub.audit.verify([read_head(HEAD)])
    hub.audit.record(Message(Act.STARTED, hub.clock.now(), "serve"))
    assert run(data, "audit", "verify", "--head", HEAD).startswith("14:")
    states = {each.item: str(each.state) for each in queue_of(hub).all() if str(each.state) != "overtaken"}
    assert states == {
        "file 0": "asked",
        "sr": "unconfirmed",
        "capture": "refused",
        "fhir": "confirmed",
        "report": "waiting",
    }
    assert len(queue_of(hub).all()) == 6
    assert hub.enrolment.served() == [VALLEY]  # the third site has not used its token
