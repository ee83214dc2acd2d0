"""An erased study leaves its tombstone alone on both databases, and does not come back."""

from datetime import timedelta
from functools import partial

import pytest
from sqlalchemy import select

from tests.support.clock import FakeClock
from tests.support.hub_folder import Clinic, StudyParts, join, stored_blobs, study_parts
from tests.support.removals import (
    OLD_LOCAL,
    TEXT,
    arrives,
    ask,
    forwarded,
    found,
    listed,
    rows_of,
    signed,
    with_settings,
)
from thinwire.receiver.access.audit_message import Act, Message
from thinwire.receiver.hub import Hub
from thinwire.receiver.operations.retention import Retention
from thinwire.receiver.store.erasure import _STAYS
from thinwire.receiver.store.tables import TABLES, removed_blobs
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import BadInput, HubBusy, StudyErased
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.identifiers import digest


def test_a_mark_falls_with_its_rule_and_a_hold_keeps_the_study(
    hub: Hub, clinic: Clinic, bundle: Bundle, clock: FakeClock
) -> None:
    first, second = (study_parts(clinic, bundle, seed) for seed in range(2))
    with_settings(hub, OLD_LOCAL)
    for each in (first, second):
        arrives(hub, clinic, each)
        signed(hub, clinic.site, each.study)
    clock.advance(timedelta(days=31).total_seconds())
    retention = Retention(hub)
    assert retention.run().marked == {"old": 2}
    held = partial(hub.audit.append, message=Message(Act.HELD, clock.now(), "os:root"))
    assert retention.hold(clinic.site, first.study, "case 12", held)
    assert not retention.hold(clinic.site, first.study, "case 12", held)
    with pytest.raises(BadInput, match="legal hold"):
        ask(hub, (clinic.site, first.study))
    clock.advance(timedelta(days=14).total_seconds())
    with_settings(hub)
    assert retention.run().unmarked == 1
    with_settings(hub, OLD_LOCAL, waiting_days=0)
    assert retention.run().removed == 1
    assert listed(hub) == {first.study}
    assert retention.release(clinic.site, first.study, held)
    assert retention.run().removed == 1


@pytest.mark.parametrize("keep", [True, False])
def test_an_erased_study_leaves_its_tombstone_alone(
    hub: Hub, clinic: Clinic, parts: StudyParts, bundle: Bundle, keep: bool
) -> None:
    with_settings(hub, target=True, signed_reports="keep" if keep else "remove")
    arrives(hub, clinic, parts)
    other = study_parts(clinic, bundle, 1)
    arrives(hub, clinic, other)
    before = stored_blobs(hub)
    signed(hub, clinic.site, parts.study)
    forwarded(hub, clinic.site, parts.study)
    hub.store.request(clinic.site, parts.study, Kind.PREVIEW)
    ask(hub, (clinic.site, parts.study), unread=False)
    assert hub.store.study(clinic.site, parts.study).complete
    done = Retention(hub).run()
    assert (done.removed, done.blobs) == (1, 3)

    assert len(before - stored_blobs(hub)) == 3
    stays = {"studies": 1, "tombstones": 1, "events": 1 + keep, "deliveries": 1}
    assert rows_of(hub, parts.study) == stays | ({"reports": 1, "receipts": 1} if keep else {})
    assert found(hub) == []
    if hub.database.shared:
        return
    content = b"".join(path.read_bytes() for path in hub.data.glob("thinwire.db*"))
    assert (TEXT.encode() in content) is keep, "not even in the free pages of the file"
    assert b"2.25.7" not in content
    assert listed(hub) == {other.study}
    with pytest.raises(StudyErased, match="at a person's request"):
        hub.store.find(parts.study.hex()[:8])


def test_every_table_that_names_a_study_is_cleaned_or_has_a_rule() -> None:
    """A new table with a study needs no thought, and one that stays is a decision."""
    assert set(TABLES.tables) >= _STAYS
    assert {"studies", "tombstones", "events", "receipts", "reports", "deliveries"} == _STAYS
    named = [table for table in TABLES.sorted_tables if "study" in table.c]
    assert [table.name for table in named if "site" not in table.c] == []


def test_a_blob_of_two_studies_stays_and_is_named_again(
    hub: Hub, clinic: Clinic, bundle: Bundle, clock: FakeClock
) -> None:
    files = (b"the same files", b"of two clinics")
    ridge = join(hub, "ridge")
    here, there = study_parts(clinic, bundle, files=files), study_parts(ridge, bundle, files=files)
    arrives(hub, clinic, here)
    arrives(hub, ridge, there)
    ask(hub, (clinic.site, here.study))
    Retention(hub).run()
    assert found(hub) == []
    assert hub.store.plaintext(ridge.site, there.study, Kind.ORIGINALS) == there.originals.plaintext
    ask(hub, (ridge.site, there.study))
    Retention(hub).run()
    assert hub.store.plaintext(ridge.site, there.study, Kind.ORIGINALS) is None

    third = join(hub, "delta")
    again = study_parts(third, bundle, files=files)
    with pytest.raises(HubBusy):
        arrives(hub, third, again)
    clock.advance(301)
    arrives(hub, third, again)
    Retention(hub).run()
    assert found(hub) == []


def test_a_blob_that_waits_for_its_removal_is_saved_by_an_object_that_names_it(
    hub: Hub, clinic: Clinic, bundle: Bundle
) -> None:
    files = (b"the same files", b"of two clinics")
    here, ridge = study_parts(clinic, bundle, files=files), join(hub, "ridge")
    arrives(hub, clinic, here)
    ask(hub, (clinic.site, here.study))
    Retention(hub).run(stopped=iter([False, True]).__next__)
    with hub.database.read() as connection:
        assert set(connection.scalars(select(removed_blobs.c.state))) == {"waiting"}
    arrives(hub, ridge, study_parts(ridge, bundle, files=files))
    Retention(hub).run()
    assert found(hub) == []
    assert digest(here.originals.plaintext) in stored_blobs(hub)


def test_an_erased_study_is_refused_for_good(hub: Hub, clinic: Clinic, parts: StudyParts) -> None:
    arrives(hub, clinic, parts)
    ask(hub, (clinic.site, parts.study))
    Retention(hub).run()
    pipeline, part = hub.pipeline(), parts.originals
    with pytest.raises(StudyErased):
        pipeline.admit(clinic.site, part.object, parts.study, len(part.sealed))
    with pytest.raises(StudyErased):
        pipeline.put(clinic.site, part.object, part.header, part.plaintext, True)
    with pytest.raises(StudyErased):
        pipeline.record_opened(clinic.site, parts.study)
    with pytest.raises(StudyErased):
        signed(hub, clinic.site, parts.study)
    with pytest.raises(StudyErased):
        hub.store.request(clinic.site, parts.study, Kind.PREVIEW)
    assert pipeline.escalate(clinic.site, parts.study) is False
    assert listed(hub) == set()


def test_what_is_predicted_meanwhile_has_no_effect(hub: Hub, clinic: Clinic, parts: StudyParts) -> None:
    pipeline, graph = hub.pipeline(), parts.graph
    pipeline.put(clinic.site, graph.object, graph.header, graph.plaintext, False)
    waiting = hub.store.untriaged()
    ask(hub, (clinic.site, parts.study))
    Retention(hub).run()
    hub.store.add_draft(waiting[0], b"{}")
    pipeline.predict_waiting()
    assert rows_of(hub, parts.study) == {"studies": 1, "tombstones": 1, "events": 1}
