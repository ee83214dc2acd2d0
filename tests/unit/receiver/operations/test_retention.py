"""Retention: a rule takes what is old, read and forwarded, and nothing else; an erased study leaves its tombstone
alone, also after a power cut at any step, and does not come back."""

import contextlib
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, select
from typer.testing import CliRunner

from tests.support.both_databases import ENGINES, copied, hub_on
from tests.support.clock import FakeClock
from tests.support.hub_folder import Clinic, StudyParts, join, study_parts
from tests.support.power import Cutoff, LossyDisk, PowerCut
from tests.support.removals import (
    OLD,
    OLD_LOCAL,
    arrives,
    ask,
    blobs,
    forwarded,
    found,
    listed,
    signed,
    with_settings,
)
from thinwire.receiver.cli.main import app
from thinwire.receiver.config import RetentionRule
from thinwire.receiver.hub import Hub, open_hub
from thinwire.receiver.operations.backup import back_up
from thinwire.receiver.operations.retention import Retention
from thinwire.receiver.store.quarantine import FolderQuarantine
from thinwire.receiver.store.tables import TABLES, removed_blobs, tombstones
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import BadInput, BadPayload, StudyErased, UnknownStudy
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.identifiers import SiteName, StudyKey, digest
from thinwire.shared.storage.durable import Disk


@pytest.mark.parametrize(
    ("rule", "read", "sent", "taken"),
    [
        (OLD, True, True, True),
        (OLD, True, False, False),
        (OLD, False, True, False),
        (OLD_LOCAL, True, False, True),
        (OLD_LOCAL, False, False, False),
        (RetentionRule(name="old", days=30, read=False, forwarded=False), False, False, True),
        (
            RetentionRule(name="old", days=30, read=False, forwarded=False, sites=(SiteName("ridge"),)),
            True,
            True,
            False,
        ),
        (RetentionRule(name="old", days=32, read=False, forwarded=False), True, True, False),
    ],
)
def test_a_rule_takes_what_it_names_and_nothing_else(
    hub: Hub,
    clinic: Clinic,
    parts: StudyParts,
    clock: FakeClock,
    rule: RetentionRule,
    read: bool,
    sent: bool,
    taken: bool,
) -> None:
    with_settings(hub, rule, target=sent or rule.forwarded)
    arrives(hub, clinic, parts)
    if read:
        signed(hub, clinic.site, parts.study)
    if sent:
        forwarded(hub, clinic.site, parts.study)
    clock.advance(timedelta(days=31).total_seconds())
    retention = Retention(hub)
    assert bool(retention.expected(rule)) is taken
    assert retention.run().marked.total() == int(taken)
    assert (retention.run().removed, listed(hub)) == (0, {parts.study}), "the waiting time goes on"
    clock.advance(timedelta(days=14).total_seconds())
    assert retention.run().removed == int(taken)
    assert listed(hub) == (set() if taken else {parts.study})
    assert found(hub) == []


def test_without_a_target_nothing_counts_as_forwarded(
    hub: Hub, clinic: Clinic, parts: StudyParts, clock: FakeClock
) -> None:
    with_settings(hub, OLD)
    arrives(hub, clinic, parts)
    signed(hub, clinic.site, parts.study)
    clock.advance(timedelta(days=31).total_seconds())
    assert Retention(hub).run().marked.total() == 0


def test_what_is_planned_anew_for_a_target_is_not_forwarded(
    hub: Hub, clinic: Clinic, parts: StudyParts, clock: FakeClock
) -> None:
    """The report was signed after the last planning."""
    with_settings(hub, OLD, target=True)
    arrives(hub, clinic, parts)
    forwarded(hub, clinic.site, parts.study)
    signed(hub, clinic.site, parts.study)
    clock.advance(timedelta(days=31).total_seconds())
    assert Retention(hub).run().marked.total() == 0


def test_parts_in_transfer_and_refused_ones_go_too(hub: Hub, clinic: Clinic, parts: StudyParts, bundle: Bundle) -> None:
    arrives(hub, clinic, parts)
    other = study_parts(clinic, bundle, 1)
    for each, part in ((parts, parts.originals), (other, other.originals)):
        folder = hub.data / "inbox" / clinic.site
        folder.mkdir(parents=True, exist_ok=True)
        (folder / part.object.hex()).write_bytes(part.sealed[:-1])
        refused = clinic.seal(Kind.GRAPH, each.study, b"no graph" + each.study)
        with pytest.raises(BadPayload):
            hub.pipeline().put(clinic.site, refused.object, refused.header, refused.plaintext, False)
    ask(hub, (clinic.site, parts.study))
    Retention(hub).run()
    assert [path.name for path in (hub.data / "inbox").rglob("?" * 64)] == [other.originals.object.hex()]
    left = {path.suffix for path in (hub.data / "quarantine" / clinic.site).iterdir()}
    assert left == {".json", ".bin"}
    assert len(list((hub.data / "quarantine" / clinic.site).iterdir())) == 2


def test_refused_objects_are_read_again_only_after_a_removal(
    hub: Hub, clinic: Clinic, parts: StudyParts, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(study: StudyKey) -> None:
        refused = clinic.seal(Kind.GRAPH, study, b"no graph" + study)
        with pytest.raises(BadPayload):
            hub.pipeline().put(clinic.site, refused.object, refused.header, refused.plaintext, False)

    def read(quarantine: FolderQuarantine, site: SiteName, name: str) -> bytes:
        names.append(name)
        return whole(quarantine, site, name)

    names, whole, retention = list[str](), FolderQuarantine._read, Retention(hub)
    monkeypatch.setattr(FolderQuarantine, "_read", read)
    other = study_parts(clinic, bundle, 1)
    arrives(hub, clinic, parts)
    refuse(other.study)
    for _ in range(3):
        retention.run()
    assert len(names) == 2
    ask(hub, (clinic.site, parts.study))
    for _ in range(3):
        retention.run()
    assert len(names) == 4
    refuse(parts.study)  # it is removed: nothing of it is set aside
    assert len(list((hub.data / "quarantine" / clinic.site).iterdir())) == 2


def test_a_removal_leaves_the_connection_as_it_was(hub: Hub, clinic: Clinic, parts: StudyParts) -> None:
    """To overwrite what is removed makes every other transaction slow."""
    arrives(hub, clinic, parts)
    ask(hub, (clinic.site, parts.study))
    with hub.database.read() as connection:
        connection.exec_driver_sql("PRAGMA secure_delete = OFF")
    assert Retention(hub).run().removed == 1
    with hub.database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA secure_delete").scalar() == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_the_power_may_fail_at_every_step(engine: str, tmp_path: Path, bundle: Bundle, clock: FakeClock) -> None:
    with contextlib.ExitStack() as stack:
        data = stack.enter_context(hub_on(engine, tmp_path / "hub", bundle, clock))
        with open_hub(data, clock) as hub:
            clinic = join(hub)
            parts, other = (study_parts(clinic, bundle, seed) for seed in range(2))
            for each in (parts, other):
                arrives(hub, clinic, each)
            ask(hub, (clinic.site, parts.study))
        steps, whole = -1, False
        while not whole:
            steps += 1
            copy = stack.enter_context(copied(data, tmp_path / f"after-{steps}"))
            with contextlib.suppress(PowerCut), open_hub(copy, clock, LossyDisk(Cutoff(steps))) as hub:
                Retention(hub).run()
                whole = True
            with open_hub(copy, clock) as hub:
                assert found(hub) == []
                Retention(hub).run()
                assert (found(hub), listed(hub)) == ([], {other.study})
                with hub.database.read() as connection:
                    assert len(connection.scalars(select(tombstones.c.study)).all()) == 1
                    assert set(connection.scalars(select(removed_blobs.c.state))) == {"gone"}
                assert all(hub.blobs.size(digest(each.plaintext)) is None for each in (parts.graph, parts.originals))
        assert steps > (8 if engine == "sqlite" else 2)


def test_a_restored_backup_brings_no_erased_study_back(
    data: Path, tmp_path: Path, bundle: Bundle, clock: FakeClock
) -> None:
    nothing = lambda *_: None  # noqa: E731
    with open_hub(data, clock) as hub:
        clinic = join(hub)
        parts, late = (study_parts(clinic, bundle, seed) for seed in range(2))
        arrives(hub, clinic, parts)
        back_up(hub.database, hub.blobs, data, tmp_path / "backup", Disk(), clock, nothing, nothing)
        arrives(hub, clinic, late)
        ask(hub, (clinic.site, parts.study), (clinic.site, late.study))
        Retention(hub).run()
    assert CliRunner().invoke(app, ["restore", str(tmp_path / "backup"), "--data", str(data)]).exit_code == 0
    with open_hub(data, clock) as hub:
        assert listed(hub) == set()
        for each in (parts, late):
            with pytest.raises(StudyErased):
                hub.store.admit(clinic.site, each.graph.object, each.study, 1)
        assert digest(parts.originals.plaintext).hex() not in blobs(data)
        assert found(hub) == []
        # The next backup loses the parts as well.
        assert digest(parts.originals.plaintext).hex() in blobs(tmp_path / "backup")
        back_up(hub.database, hub.blobs, data, tmp_path / "backup", Disk(), clock, nothing, nothing)
        assert blobs(tmp_path / "backup") == blobs(data)


def test_a_patient_is_erased_from_the_command_line(hub: Hub, clinic: Clinic, bundle: Bundle) -> None:
    first, second = (study_parts(clinic, bundle, seed) for seed in range(2))
    other = study_parts(clinic, bundle, 2, identity={"PatientID": "PHANTOM-2"})
    for each in (first, second, other):
        arrives(hub, clinic, each)

    def run(*words: str, given: str = "", error: type[Exception] | None = None) -> str:
        done = CliRunner().invoke(app, ["retention", *words, "--data", str(hub.data)], input=given)
        assert type(done.exception) is (error or type(None)), done.output
        return done.output

    patient = ("erase", "--patient", "--site", clinic.site, "--reason", "request 7")
    run(*patient, "--days", "0", given="PHANTOM-1\n", error=BadInput)
    run(*patient, given="PHANTOM-9\n", error=UnknownStudy)
    run(*patient, "--also-unread", given=" PHANTOM-1\n")
    assert first.study.hex() in run("plan")
    run("undo", first.study.hex()[:8])
    run("undo", first.study.hex()[:8], error=BadInput)
    run(*patient, "--also-unread", "--days", "0", given="PHANTOM-1\n")
    assert "2 removed with 6 parts" in run("run")
    assert listed(hub) == {other.study}
    log = "".join(entry.message for entry in hub.audit.entries())
    assert log.count("DICOM Study Deleted") == 2
    assert "PHANTOM" not in log


def test_a_removal_reads_no_table_from_its_beginning(
    hub: Hub, clinic: Clinic, parts: StudyParts, clock: FakeClock
) -> None:
    """With millions of studies it takes as long as with one."""
    with_settings(hub, OLD, target=True, waiting_days=0)
    arrives(hub, clinic, parts)
    signed(hub, clinic.site, parts.study)
    forwarded(hub, clinic.site, parts.study)
    clock.advance(timedelta(days=31).total_seconds())
    asked: list[tuple[str, Any]] = []

    def note(_c: object, _cursor: object, statement: str, parameters: object, _context: object, _many: bool) -> None:
        asked.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", note)
    try:
        assert Retention(hub).run().removed == 1
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    # Few rows, or the last one alone.
    small = {"sites", "targets", "parked", "tombstones", "removed_blobs", "claims", "audit"}
    large = {table.name for table in TABLES.sorted_tables} - small
    scans = set()
    with hub.database.read() as connection:
        for statement, parameters in asked:
            if statement.startswith(("SELECT", "DELETE", "UPDATE")):
                for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters):
                    found = re.match(r"SCAN (\w+)|SEARCH (\w+) USING.*\((?:site|target)=\?\)$", str(row[3]))
                    if found and (found[1] or found[2]) in large:
                        scans.add((row[3], statement))
    assert scans == set()
