"""What a person at the clinic decides of studies that are here: pause, resume, urgent, retry."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.support.power import Fuse, PowerCut
from tests.support.real_link import as_joined
from tests.support.two_ends import SITE, TwoEnds, samples
from thinwire.sender.cli import app
from thinwire.sender.outbox.entries import EntryState
from thinwire.sender.outbox.policy import CurrentPolicy
from thinwire.sender.outbox.tiers import TierPolicy
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import UnknownStudy
from thinwire.shared.identifiers import StudyKey

FIRST, SECOND = samples(2)


@pytest.fixture
def ends(tmp_path: Path) -> TwoEnds:
    found = TwoEnds(tmp_path)
    for sample in (FIRST, SECOND):
        found.accept(sample)
    found.make_parts()
    return found


def there(ends: TwoEnds) -> set[StudyKey]:
    return {study for study, _ in ends.store.parts(SITE)}


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
    assert ends.store.urgent(SITE, FIRST.study)


def test_a_study_that_is_not_here_cannot_be_paused(ends: TwoEnds) -> None:
    for act in (ends.outbox.pause, ends.outbox.resume, ends.outbox.make_urgent):
        with pytest.raises(UnknownStudy):
            act(StudyKey(b"?" * 16))


def retry(ends: TwoEnds, study: str) -> Result:
    """The command, on the clinic's real folder."""
    as_joined(ends.folder / "clinic")
    return CliRunner().invoke(app, ["retry", study, "--data", str(ends.folder / "clinic")], catch_exceptions=False)


def test_a_refused_part_is_sent_again_when_a_person_says_so(ends: TwoEnds) -> None:
    graph = next(due for due in ends.outbox.due() if (due.study, due.kind) == (FIRST.study, Kind.GRAPH))
    ends.outbox.refused(graph, "unknown bundle")
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
