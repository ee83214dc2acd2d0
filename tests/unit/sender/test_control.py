"""A person's actions on the clinic's studies: pause, resume, escalate, retry, export."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.support.dicoms import chest, dicom
from tests.support.power import Fuse, PowerCut
from tests.support.real_link import as_joined
from tests.support.two_ends import PLAN, TwoEnds, samples
from thinwire.sender import cli
from thinwire.sender.cli import app
from thinwire.sender.outbox.entries import EntryState
from thinwire.sender.outbox.policy import CurrentPolicy
from thinwire.sender.outbox.tiers import TierPolicy, When
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import UnknownStudy
from thinwire.shared.identifiers import StudyKey

FIRST, SECOND, THIRD = samples(3)


@pytest.fixture
def ends(tmp_path: Path) -> TwoEnds:
    found = TwoEnds(tmp_path)
    for sample in (FIRST, SECOND):
        found.accept(sample)
    found.make_parts()
    return found


def there(ends: TwoEnds) -> set[StudyKey]:
    return {study for study, _ in ends.parts()}


def test_a_paused_study_stays_while_the_others_go(ends: TwoEnds) -> None:
    ends.new_outbox().pause(FIRST.study)
    ends.carry()
    assert there(ends) == {SECOND.study}
    waits = CurrentPolicy(TierPolicy(), ends.clock.now(), 0).waits(ends.outbox.entries())
    assert waits[FIRST.study, Kind.GRAPH] == "paused, until it is resumed"
    ends.new_outbox().resume(FIRST.study)
    ends.carry()
    ends.assert_arrived([FIRST, SECOND])


def test_when_all_is_paused_not_even_an_urgent_graph_goes(ends: TwoEnds) -> None:
    ends.outbox.pause()
    ends.outbox.make_urgent(FIRST.study)
    ends.carry()
    assert there(ends) == set()
    ends.outbox.resume()
    ends.carry()
    ends.assert_arrived([FIRST, SECOND])


def test_a_pause_stops_what_is_under_way_and_it_goes_on_from_there(ends: TwoEnds) -> None:
    uplink, ingest = ends.uplink(), ends.ingest()
    sent = ends.carry("." * 14 + "x", rate=4_000.0).object_bytes
    assert sent > 0
    ends.outbox.pause()
    ends.carry_on(uplink, ingest)
    assert ends.outbox.due()
    ends.outbox.resume()
    uplink.refresh()
    ends.carry_on(uplink, ingest, greet=False)
    ends.assert_arrived([FIRST, SECOND])


def test_a_study_becomes_urgent_and_the_hub_learns_it(ends: TwoEnds) -> None:
    ends.carry()
    ends.outbox.make_urgent(FIRST.study)
    assert ends.outbox.pending_escalations() == [FIRST.study]
    ends.carry()
    assert ends.outbox.pending_escalations() == []
    assert ends.urgent(FIRST.study)


def test_a_study_that_is_not_here_cannot_be_paused(ends: TwoEnds) -> None:
    for act in (ends.outbox.pause, ends.outbox.resume, ends.outbox.make_urgent):
        with pytest.raises(UnknownStudy):
            act(StudyKey(b"?" * 16))


def command(ends: TwoEnds, *arguments: str) -> Result:
    """A command, on the clinic's real folder."""
    as_joined(ends.folder / "clinic")
    return CliRunner().invoke(app, [*arguments, "--data", str(ends.folder / "clinic")], catch_exceptions=False)


def retry(ends: TwoEnds, study: str) -> Result:
    return command(ends, "retry", study)


def status(ends: TwoEnds, *words: str) -> Result:
    as_joined(ends.folder / "clinic")
    return CliRunner().invoke(app, ["status", "--data", str(ends.folder / "clinic"), *words], catch_exceptions=False)


def test_status_lists_the_newest_studies_and_counts_all(ends: TwoEnds, monkeypatch: pytest.MonkeyPatch) -> None:
    ends.clock.advance(1)
    ends.accept(THIRD)
    monkeypatch.setattr(cli, "SHOWN", 1)
    told = status(ends).stdout
    assert [sample.study.hex()[:12] in told for sample in (FIRST, SECOND, THIRD)] == [False, False, True]
    assert "3 studies: 1 accepted, 2 sending; the newest 1 are shown, all with --all" in " ".join(told.split())
    told = status(ends, "--all").stdout
    assert [told.count(sample.study.hex()[:12]) for sample in (FIRST, SECOND, THIRD)] == [1, 1, 1]
    assert status(ends, "--all", "--watch").exit_code == 2
    found = json.loads(status(ends, "--json").stdout)
    assert {each["study"] for each in found["studies"]} == {each.study.hex() for each in (FIRST, SECOND, THIRD)}
    assert found["tiers"]["originals"]["waits"] == {"to be made": 1}


@pytest.mark.parametrize("name", ["escalate", "urgent"])
def test_a_study_is_escalated_by_the_command_and_by_its_former_name(ends: TwoEnds, name: str) -> None:
    assert "is urgent" in command(ends, name, FIRST.study.hex()[:6]).stdout
    assert [entry.study for entry in ends.outbox.entries() if entry.urgent] == [FIRST.study]


@pytest.mark.parametrize("option", ["--include-held", "--held"])
def test_held_parts_are_exported_where_a_person_includes_them(ends: TwoEnds, option: str) -> None:
    ends.accept(THIRD)
    for kind in PLAN:
        ends.outbox.add(THIRD.study, kind, THIRD.source, hold=kind is Kind.ORIGINALS)

    def exported(*options: str) -> set[str]:
        told = command(ends, "export", "--to", str(ends.folder / "stick"), "--json", *options)
        return {row["kind"] for row in json.loads(told.stdout)["written"] if row["study"] == THIRD.study.hex()}

    assert exported() >= {"graph", "manifest"}
    assert exported(option) == {"originals"}


@pytest.mark.parametrize("words", ["crops=always,originals=on-request", "evidence=always, pixels=on-request"])
def test_a_study_s_own_tiers_are_named_as_today_or_as_before(tmp_path: Path, words: str) -> None:
    ends = TwoEnds(tmp_path)
    (tmp_path / "study.dcm").write_bytes(dicom(chest(96, 112)))
    command(ends, "send", str(tmp_path / "study.dcm"), "--tiers", words)
    (entry,) = ends.outbox.entries()
    assert entry.overrides == {Kind.CROPS: When.ALWAYS, Kind.ORIGINALS: When.ON_REQUEST}


def test_former_names_are_not_in_the_help() -> None:
    commands, options = (CliRunner().invoke(app, words).output for words in (["--help"], ["export", "--help"]))
    assert re.search(r"^\W*escalate\s", commands, re.MULTILINE)
    assert not re.search(r"^\W*urgent\s", commands, re.MULTILINE)
    assert "--include-held" in options
    assert "--held" not in options


def test_a_refused_part_is_sent_again_when_a_person_says_so(ends: TwoEnds) -> None:
    graph = next(due for due in ends.outbox.due() if (due.study, due.kind) == (FIRST.study, Kind.GRAPH))
    ends.outbox.record_refusal(graph, "unknown bundle")
    ends.carry()
    assert ends.outbox.entry(FIRST.study).state is EntryState.REFUSED
    assert retry(ends, FIRST.study.hex()[:6]).stdout == "Tried again: graph\n"
    ends.carry()
    ends.assert_arrived([FIRST, SECOND])
    assert retry(ends, FIRST.study.hex()).stdout == "No part of this study can be tried again\n"


def test_a_part_that_could_not_be_made_is_made_while_its_files_are_here(tmp_path: Path) -> None:
    ends = TwoEnds(tmp_path)
    ends.accept(FIRST)
    ends.outbox.give_up(FIRST.study, Kind.GRAPH, "the encoder could not run")
    assert retry(ends, FIRST.study.hex()).stdout == "Tried again: graph\n"
    ends.make_parts()
    ends.carry()
    ends.assert_arrived([FIRST])


def test_a_part_whose_files_are_at_the_hub_alone_stays_as_it_is(tmp_path: Path) -> None:
    ends = TwoEnds(tmp_path)
    ends.accept(FIRST)
    ends.outbox.give_up(FIRST.study, Kind.GRAPH, "the encoder could not run")
    ends.make_parts()
    ends.carry()
    before = ends.outbox.entry(FIRST.study)
    told = retry(ends, FIRST.study.hex())
    assert "Not tried again: graph" in told.stderr
    assert ends.outbox.entry(FIRST.study) == before


def test_a_retry_of_a_study_that_is_not_here_is_refused(ends: TwoEnds) -> None:
    with pytest.raises(UnknownStudy):
        retry(ends, "ffff")


@pytest.mark.parametrize("act", ["pause", "resume", "make_urgent"])
def test_wherever_the_power_is_cut_a_decision_holds_or_is_not_made(tmp_path: Path, act: str) -> None:
    def decide(ends: TwoEnds) -> None:
        getattr(ends.outbox, act)(FIRST.study)
        if act != "make_urgent":
            getattr(ends.outbox, act)()

    def begun(name: str) -> TwoEnds:
        ends = TwoEnds(tmp_path / name)
        ends.accept(FIRST)
        if act == "resume":
            ends.outbox.pause(FIRST.study)
            ends.outbox.pause()
        ends.switch_on(ends.fuse)
        return ends

    watched = begun("whole")
    watched.fuse.passed.clear()
    decide(watched)
    for step in dict.fromkeys(watched.fuse.passed):
        ends = begun(step)
        ends.switch_on(Fuse((step, 1)))
        with pytest.raises(PowerCut):
            decide(ends)
        ends.switch_on()
        decide(ends)
        entry = ends.outbox.entry(FIRST.study)
        assert (entry.paused, ends.outbox.paused, entry.urgent) == (
            act == "pause",
            act == "pause",
            act == "make_urgent",
        )
