from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from thinwire.sender.outbox.entries import TRANSITIONS, EntryState, OutboxEntry, Part, PartEvent, PartState
from thinwire.sender.outbox.rows import add_entry, read_due, read_entry, write_entry
from thinwire.sender.outbox.tables import CLINIC
from thinwire.sender.outbox.tiers import When
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.formats.receipts import StudyStatus
from thinwire.shared.identifiers import EpochId, StudyKey, digest
from thinwire.shared.storage.migrations import create_database, open_database

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


def test_an_entry_returns_from_its_rows(tmp_path: Path) -> None:
    create_database(tmp_path / "clinic.db", CLINIC)
    database = open_database(tmp_path / "clinic.db", CLINIC)
    changed = replace(ENTRY.with_part(Part(Kind.PREVIEW)), paused=True, source=digest(b"files"), effort="small")
    with database.write() as connection:
        add_entry(connection, ENTRY)
        assert read_entry(connection, ENTRY.study) == ENTRY
        write_entry(connection, ENTRY, changed)
    with database.read() as connection:
        assert read_entry(connection, ENTRY.study) == changed
        assert read_due(connection) == changed.due()


@pytest.mark.parametrize("state", PartState)
@pytest.mark.parametrize("event", PartEvent)
def test_a_part_changes_as_the_table_says_and_in_no_other_way(state: PartState, event: PartEvent) -> None:
    part = Part(Kind.ORIGINALS, state)
    if (state, event) in TRANSITIONS:
        assert part.after(event).state is TRANSITIONS[state, event]
    else:
        with pytest.raises(ValueError, match=f"a part that is {state} cannot be {event}"):
            part.after(event)


def test_nothing_but_a_hub_that_lost_it_leaves_stored() -> None:
    leaves = {event for (state, event), after in TRANSITIONS.items() if state is PartState.STORED is not after}
    assert leaves == {PartEvent.RESENT, PartEvent.REMADE, PartEvent.OFFERED_AGAIN, PartEvent.MADE_AGAIN}


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
