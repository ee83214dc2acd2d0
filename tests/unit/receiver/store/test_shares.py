"""The share of a site: counted in the transaction that stores, checked before a blob is written."""

import pytest

from tests.support.clock import FakeClock
from tests.support.hub_folder import Clinic, StudyParts, join, stored_blobs, study_parts
from thinwire.receiver.hub import Hub
from thinwire.receiver.store.history import begin_generation
from thinwire.receiver.store.records import OpenedPart
from thinwire.receiver.store.shares import OFFERED_AGAIN, Limit
from thinwire.shared.errors import LimitReached, NotEnrolled
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.identifiers import SiteName


def put(hub: Hub, clinic: Clinic, parts: StudyParts) -> None:
    graph = parts.graph
    hub.pipeline().put(clinic.site, graph.object, graph.header, graph.plaintext, False)


def test_bytes_and_studies_are_counted_once_and_limited(hub: Hub, clinic: Clinic, bundle: Bundle) -> None:
    one, two = (study_parts(clinic, bundle, seed) for seed in range(2))
    for _ in range(2):
        put(hub, clinic, one)
    used = hub.enrolment.usage(clinic.site)
    assert (used.bytes, used.studies) == (len(one.graph.sealed), 1)
    hub.enrolment.set_limits(clinic.site, {Limit.BYTES: used.bytes + len(two.graph.sealed) - 1}, lambda _: None)
    with pytest.raises(LimitReached, match="share of the hub's disk") as caught:
        put(hub, clinic, two)
    assert caught.value.limit == "bytes"
    assert len(stored_blobs(hub)) == 1
    hub.enrolment.set_limits(clinic.site, {Limit.BYTES: used.bytes + len(two.graph.sealed)}, lambda _: None)
    put(hub, clinic, two)
    hub.enrolment.forget_limits(clinic.site, lambda _: None)
    assert hub.enrolment.limits(clinic.site)[Limit.BYTES] == hub.settings.quota.bytes


def test_the_studies_of_a_day_end_with_it_and_parts_of_known_ones_go_on(
    hub: Hub, clinic: Clinic, bundle: Bundle, clock: FakeClock
) -> None:
    one, two = (study_parts(clinic, bundle, seed) for seed in range(2))
    hub.enrolment.set_limits(clinic.site, {Limit.STUDIES: 1}, lambda _: None)
    put(hub, clinic, one)
    with pytest.raises(LimitReached, match="new studies of today") as caught:
        put(hub, clinic, two)
    assert (caught.value.limit, caught.value.again_after) == ("studies", 300.0)
    hub.pipeline().put(clinic.site, one.manifest.object, one.manifest.header, one.manifest.plaintext, False)
    clock.advance(86_400)
    put(hub, clinic, two)


def test_after_a_step_back_in_time_a_site_sends_the_studies_of_many_days_at_once(
    hub: Hub, clinic: Clinic, bundle: Bundle, clock: FakeClock
) -> None:
    hub.enrolment.set_limits(clinic.site, {Limit.STUDIES: 1}, lambda _: None)
    with hub.database.write() as connection:
        begin_generation(connection, "restored", clock.now())
    graphs = [study_parts(clinic, bundle, seed) for seed in range(4)]
    for each in graphs[:3]:
        put(hub, clinic, each)
    clock.advance(OFFERED_AGAIN.total_seconds())
    put(hub, clinic, graphs[3])
    with pytest.raises(LimitReached):
        put(hub, clinic, study_parts(clinic, bundle, 4))


def test_what_was_found_on_the_disk_is_not_new_today(hub: Hub, clinic: Clinic, parts: StudyParts) -> None:
    graph = parts.graph
    found = OpenedPart(clinic.site, graph.object, graph.header, graph.plaintext, None, urgent=False)
    hub.store.put(found, found_here=True)
    used = hub.enrolment.usage(clinic.site)
    assert (used.bytes, used.studies) == (len(graph.sealed), 0)


def test_a_revoked_site_stores_nothing_and_leaves_no_blob(hub: Hub, clinic: Clinic, bundle: Bundle) -> None:
    hub.enrolment.dismiss(clinic.site)
    with pytest.raises(NotEnrolled, match="revoked"):
        put(hub, clinic, study_parts(clinic, bundle))
    with pytest.raises(NotEnrolled):
        hub.store.escalate(clinic.site, study_parts(clinic, bundle).study)
    assert len(stored_blobs(hub)) == 0
    assert list(hub.store.studies()) == []
    graph = study_parts(clinic, bundle).graph
    found = OpenedPart(clinic.site, graph.object, graph.header, graph.plaintext, None, urgent=False)
    assert hub.store.put(found, found_here=True)  # as after a restore
    other = join(hub, "south-ridge")
    put(hub, other, study_parts(other, bundle))
    assert hub.enrolment.usage(SiteName("south-ridge")).studies == 1
