from dataclasses import replace
from datetime import UTC, datetime

import pytest

from thinwire.sender.outbox.entries import TRANSITIONS, EntryState, OutboxEntry, Part, PartEvent, PartState
from thinwire.sender.outbox.tiers import When
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.formats.receipts import StudyStatus
from thinwire.shared.identifiers import EpochId, StudyKey, digest

ENTRY = OutboxEntry(
    study=StudyKey(b"s" * 16),
    accepted=datetime(2026, 3, 4, 12, tzinfo=UTC),
    urgent=True,
    epoch=EpochId(b"e" * 8),
    text_mac=b"m" * 16,
    parts=(
        Part(Kind.GRAPH, PartState.STORED, digest(b"graph"), 700, 639),
        Part(Kind.ORIGINALS, PartState.WAITING, digest(b"pixels"), 9000, 8900, requested=True),
        Part(Kind.MANIFEST, reason="not yet"),
    ),
    status=StudyStatus.TRIAGED,
    overrides={Kind.ORIGINALS: When.WHEN_IDLE},
    escalated=False,
    paused=True,
    warnings=("the file states no pixel spacing",),
)


def test_json_returns() -> None:
    assert OutboxEntry.from_json(ENTRY.to_json()) == ENTRY


@pytest.mark.parametrize("broken", [b"", b"[]", b"{}", b"\xff", ENTRY.to_json().replace(b"waiting", b"wating")])
def test_other_bytes_are_refused(broken: bytes) -> None:
    with pytest.raises(ValueError):
        OutboxEntry.from_json(broken)


@pytest.mark.parametrize("state", PartState)
@pytest.mark.parametrize("event", PartEvent)
def test_a_part_changes_as_the_table_says_and_in_no_other_way(state: PartState, event: PartEvent) -> None:
    part = Part(Kind.ORIGINALS, state)
    if (state, event) in TRANSITIONS:
        assert part.after(event).state is TRANSITIONS[state, event]
    else:
        with pytest.raises(ValueError, match=f"a part that is {state} cannot be {event}"):
            part.after(event)


def test_nothing_leaves_stored() -> None:
    assert {after for (before, _), after in TRANSITIONS.items() if before is PartState.STORED} == {PartState.STORED}


def test_the_state_of_a_study_follows_from_its_parts() -> None:
    def state(*states: PartState) -> EntryState:
        kinds = (Kind.GRAPH, Kind.ORIGINALS, Kind.MANIFEST)
        return replace(ENTRY, parts=tuple(Part(k, s) for k, s in zip(kinds, states, strict=True))).state

    missing, waiting, stored = PartState.MISSING, PartState.WAITING, PartState.STORED
    assert state(stored, waiting, missing) is EntryState.ACCEPTED
    assert state(stored, waiting, stored) is EntryState.SENDING
    assert state(PartState.REFUSED, waiting, stored) is EntryState.SENDING
    assert state(PartState.REFUSED, stored, stored) is EntryState.REFUSED
    assert state(PartState.ABSENT, stored, stored) is EntryState.ARRIVED
    assert state(stored, PartState.HELD, stored) is EntryState.ARRIVED


def test_what_is_due() -> None:
    (due,) = ENTRY.due()
    assert (due.object, due.size, due.kind, due.urgent) == (digest(b"pixels"), 9000, Kind.ORIGINALS, True)
    calm = replace(ENTRY, urgent=False)
    assert calm.due()[0].first  # a reader asked for it
    assert not calm.due()[0].urgent
    assert calm.missing == (Kind.MANIFEST,)


def test_a_request_is_remembered() -> None:
    part = Part(Kind.PREVIEW).after(PartEvent.REQUESTED)
    assert part.requested
    assert part.after(PartEvent.ADDED).requested
