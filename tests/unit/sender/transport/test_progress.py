"""The displayed state of the clinic's studies and its link."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.clock import START
from tests.support.two_ends import Sample, TwoEnds, samples
from thinwire.sender.outbox.policy import CurrentPolicy
from thinwire.sender.outbox.tiers import TierPolicy, When
from thinwire.sender.transport import link_status
from thinwire.sender.transport.link_status import LinkState, LinkStatus, TransferProgress
from thinwire.sender.transport.progress import as_json, by_tier
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.identifiers import Digest

NIGHTLY = TierPolicy({**TierPolicy().when, Kind.ORIGINALS: When.IN_WINDOW})


@pytest.fixture
def ends(tmp_path: Path) -> TwoEnds:
    ends = TwoEnds(tmp_path)
    for sample in samples(2, size=50_000):
        ends.accept(sample)
    ends.make_parts()
    return ends


def crossing(ends: TwoEnds, kind: Kind, sent: int, durable: int) -> TransferProgress:
    due = next(due for due in ends.outbox.due() if due.kind is kind)
    return TransferProgress(due.study, kind, due.object, sent, durable, due.size)


def test_each_tier_says_what_is_sent_durable_and_until_when(ends: TwoEnds) -> None:
    link = LinkStatus(LinkState.CONNECTED, "", 10_000.0, 0.5, (crossing(ends, Kind.ORIGINALS, 20_000, 15_000),))
    totals = ends.outbox.overview.totals()
    graph, manifest, originals = by_tier(totals, ends.outbox.due(), link, CurrentPolicy(TierPolicy(), START, 0))
    assert [each.kind for each in (graph, manifest, originals)] == [Kind.GRAPH, Kind.MANIFEST, Kind.ORIGINALS]
    assert (originals.stored, originals.open, originals.sent, originals.durable) == (0, 2, 20_000, 15_000)
    assert originals.size > 100_000
    everything = graph.size + manifest.size + originals.size - 15_000
    assert originals.seconds == pytest.approx(everything / 10_000 + 0.5)
    assert graph.seconds == pytest.approx(graph.size / 10_000 + 0.5)
    assert as_json(originals)["durable"] == 15_000
    link = replace(link, state=LinkState.WAITING)
    stopped = by_tier(totals, ends.outbox.due(), link, CurrentPolicy(TierPolicy(), START, 0))
    assert {each.seconds for each in stopped} == {None}


def test_what_waits_says_why(ends: TwoEnds) -> None:
    entries = ends.outbox.entries()
    current_policy = CurrentPolicy(NIGHTLY, START, 0)
    totals, link = ends.outbox.overview.totals(), LinkStatus(LinkState.CONNECTED, "", 10_000.0, 0.5)
    graph, _, originals = by_tier(totals, ends.outbox.due(), link, current_policy)
    assert (graph.waits, originals.waits) == ({}, {"until 20:00": 2})
    assert originals.seconds is None
    assert set(current_policy.waits(entries)) == {(entry.study, Kind.ORIGINALS) for entry in entries}
    assert not current_policy.sends_soon(entries[0], entries[0].part(Kind.ORIGINALS))
    assert current_policy.sends_soon(entries[0], entries[0].part(Kind.GRAPH))


def test_what_goes_when_idle_goes_when_all_else_has_gone(ends: TwoEnds) -> None:
    idle = TierPolicy({**TierPolicy().when, Kind.ORIGINALS: When.WHEN_IDLE})
    current_policy = CurrentPolicy(idle, START, 0)
    going, waiting = current_policy.partition(ends.outbox.due(), {})
    assert {due.kind for due in going} == {Kind.GRAPH, Kind.MANIFEST}
    assert {reason for _, reason in waiting} == {"until nothing else is to be sent"}
    going, waiting = current_policy.partition([due for due in ends.outbox.due() if due.kind is Kind.ORIGINALS], {})
    assert (len(going), waiting) == (2, [])


def test_what_the_hub_has_of_an_object_needs_no_budget(ends: TwoEnds) -> None:
    (due, *_) = [due for due in ends.outbox.due() if due.kind is Kind.ORIGINALS]
    current_policy = CurrentPolicy(TierPolicy(budget=60_000), START, 30_000)
    assert current_policy.partition([due], {})[0] == []
    assert current_policy.partition([due], {due.object: 30_000})[0] == [due]


def test_a_study_of_its_own_choice(tmp_path: Path) -> None:
    ends = TwoEnds(tmp_path)
    sample = Sample(b"own choice" * 1000)
    ends.outbox.accept(sample.study, sample.source, TierPolicy().plan, overrides={Kind.ORIGINALS: When.IN_WINDOW})
    ends.make_parts()
    current_policy = CurrentPolicy(TierPolicy(), START, 0)
    assert {due.kind for due in current_policy.partition(ends.outbox.due(), {})[0]} == {Kind.GRAPH, Kind.MANIFEST}
    ends.outbox.accept(sample.study, sample.source, TierPolicy().plan, overrides={Kind.ORIGINALS: When.ALWAYS})
    ends.switch_on()
    assert {due.kind for due in current_policy.partition(ends.outbox.due(), {})[0]} == {
        Kind.GRAPH,
        Kind.MANIFEST,
        Kind.ORIGINALS,
    }


def test_another_process_sees_the_link_while_it_is_fresh(ends: TwoEnds) -> None:
    status = LinkStatus(LinkState.CONNECTED, "why", 8_000.0, 0.7, (crossing(ends, Kind.GRAPH, 700, 0),))
    folder = ends.outbox.folder
    assert link_status.read_status(folder, START) == LinkStatus(LinkState.STOPPED)
    link_status.write_status(folder, status, START)
    assert link_status.read_status(folder, START + timedelta(seconds=5)) == status
    late = link_status.read_status(folder, START + timedelta(minutes=5))
    assert late == LinkStatus(LinkState.STOPPED, rate=8_000.0, round_trip=0.7)
    assert late.measured is not None
    assert link_status.read_status(folder, START + timedelta(days=2)) == LinkStatus(LinkState.STOPPED)
    assert link_status.read_status(folder, START - timedelta(seconds=5)) == LinkStatus(LinkState.STOPPED)
    none = replace(status.transfers[0], kind=None, object=Digest(b"o" * 32))
    link_status.write_status(folder, replace(status, rate=None, transfers=(none,)), START)
    assert link_status.read_status(folder, START).transfers == (none,)
    for damaged in (b"", b"[]", b"{}", b'{"at": 7}'):
        (folder / link_status.FILE).write_bytes(damaged)
        assert link_status.read_status(folder, START) == LinkStatus(LinkState.STOPPED)
