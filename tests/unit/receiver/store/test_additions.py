"""Files that are added to a study after it was sent: they belong to it, whatever arrives first."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from sqlalchemy import select

from tests.support.clock import START, FakeClock
from tests.support.dicoms import STUDY_UID
from tests.support.forwarded_hub import keep_study, next_plan
from tests.support.hub_folder import Clinic, Sealed, StudyParts
from tests.support.machine_results import image_file
from tests.support.reading_room import quiet
from tests.support.scripted_peer import ScriptedPeer
from thinwire.receiver.forward.delivery import DeliveryState
from thinwire.receiver.forward.delivery_content import DeliveryContent
from thinwire.receiver.forward.forwarder import Forwarder
from thinwire.receiver.forward.queue import queue_of
from thinwire.receiver.hub import Hub
from thinwire.receiver.operations.check import Checked, check
from thinwire.receiver.store.additions import Decision, StoredAddition, current_files
from thinwire.receiver.store.content import patient_of_number
from thinwire.receiver.store.tables import worklist, worklist_counts
from thinwire.receiver.targets import DicomTarget
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import UnknownStudy
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.formats.manifest import Added, Manifest, TierEntry, sign_manifest
from thinwire.shared.formats.originals import Member, pack
from thinwire.shared.identifiers import Digest, StudyKey, Tier, digest, study_key

PACS = DicomTarget(kind="c-store", name="pacs", host="pacs", port=104, called="PACS")
FIRST = image_file(SOPInstanceUID=f"{STUDY_UID}.1", PatientID="PHANTOM-1")
LATE = image_file(2, SOPInstanceUID=f"{STUDY_UID}.2", ViewPosition="LL", PatientID="PHANTOM-1")
RIGHT = image_file(SOPInstanceUID=f"{STUDY_UID}.1", PatientID="PHANTOM-2")


@dataclass(frozen=True)
class AddedParts:
    study: StudyKey
    manifest: Sealed
    originals: Sealed


def added_parts(
    clinic: Clinic, bundle: Bundle, base: StudyKey, files: Sequence[bytes], corrects: dict[Digest, Digest] | None = None
) -> AddedParts:
    study = study_key(digest(each) for each in files)
    archive = pack([Member(f"{n:04}.dcm", data) for n, data in enumerate(files)], "fast")
    originals = clinic.seal(Kind.ORIGINALS, study, archive)
    manifest = Manifest(
        study=study,
        site=clinic.site,
        created=clinic.epoch.created,
        bundle=bundle.id,
        tiers=(TierEntry(Tier.ORIGINALS, originals.object, len(originals.sealed), len(archive)),),
        files=tuple((digest(each), len(each)) for each in files),
        identity={"PatientID": "PHANTOM-2" if corrects else "PHANTOM-1"},
        added=Added.fitting(base, corrects or {}, ("a warning of intake",)),
    )
    return AddedParts(study, clinic.seal(Kind.MANIFEST, study, sign_manifest(manifest, clinic.signing)), originals)


def put(hub: Hub, clinic: Clinic, *parts: Sealed) -> None:
    for part in parts:
        hub.pipeline().put(clinic.site, part.object, part.header, part.plaintext, False)


def forwarded(hub: Hub) -> list[bytes]:
    """What the target is sent now; SR and capture are left out."""
    queue, peer = queue_of(hub), ScriptedPeer()
    queue.enter([PACS.name])
    each = Forwarder(PACS, peer, queue, DeliveryContent(hub.study_images(), hub.bundles), hub.clock)
    while each.work():
        pass
    return [data for data in peer.given if data in (FIRST, LATE, RIGHT)]


def planned(hub: Hub) -> None:
    """What has changed is planned for the target, which cannot be reached now."""
    queue, content = queue_of(hub), DeliveryContent(hub.study_images(), hub.bundles)
    queue.enter([PACS.name])
    while fresh := next_plan(queue, PACS.name):
        queue.plan(PACS.name, (fresh.site, fresh.upto), [(each, content.items(PACS, each)) for each in fresh.studies])


def shown(hub: Hub, clinic: Clinic, study: StudyKey) -> list[bytes]:
    return [each.data for each in hub.study_images().files(clinic.site, study)]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_files_belong_to_their_study_in_any_order_of_arrival(
    hub: Hub, clinic: Clinic, bundle: Bundle, order: tuple[int, ...]
) -> None:
    base = study_key([digest(FIRST)])
    added = added_parts(clinic, bundle, base, [LATE])
    steps: list[Callable[[], object]] = [
        lambda: keep_study(hub, clinic, bundle, FIRST),
        lambda: put(hub, clinic, added.manifest),
        lambda: put(hub, clinic, added.originals),
    ]
    sent = []
    for step in order:
        steps[step]()
        sent += forwarded(hub)
    assert shown(hub, clinic, base) == [FIRST, LATE]
    assert set(sent) == {FIRST, LATE}
    assert [study.study for study in hub.store.studies()] == [base]
    assert [each.files for each in hub.store.study(clinic.site, base).additions] == [(digest(LATE),)]
    with pytest.raises(UnknownStudy):
        hub.store.study(clinic.site, added.study)
    with hub.database.read() as connection:
        assert len(connection.execute(select(worklist)).all()) == 1
        assert sum(connection.scalars(select(worklist_counts.c.studies))) == 1
    assert list(check(hub, Checked(), lambda *_: None)) == []


def test_a_corrected_file_goes_nowhere_before_a_decision_and_then_alone(
    hub: Hub, clinic: Clinic, bundle: Bundle
) -> None:
    base = keep_study(hub, clinic, bundle, FIRST)
    added = added_parts(clinic, bundle, base, [RIGHT], {digest(FIRST): digest(RIGHT)})
    put(hub, clinic, added.manifest, added.originals)
    assert shown(hub, clinic, base) == [FIRST]
    hub.pipeline().decide(clinic.site, base, added.study, Decision.TAKEN, quiet)
    assert shown(hub, clinic, base) == [RIGHT]
    assert forwarded(hub) == [RIGHT]
    assert hub.store.study(clinic.site, base).patient == patient_of_number(clinic.site, "PHANTOM-2")
    hub.pipeline().decide(clinic.site, base, added.study, Decision.KEPT, quiet)
    assert shown(hub, clinic, base) == [FIRST]
    assert hub.store.study(clinic.site, base).patient == patient_of_number(clinic.site, "PHANTOM-1")
    with pytest.raises(UnknownStudy):
        hub.pipeline().decide(clinic.site, base, base, Decision.TAKEN, quiet)


def test_a_decision_that_is_taken_back_before_the_target_was_sent_anything(
    hub: Hub, clinic: Clinic, bundle: Bundle
) -> None:
    base = keep_study(hub, clinic, bundle, FIRST)
    planned(hub)
    added = added_parts(clinic, bundle, base, [RIGHT], {digest(FIRST): digest(RIGHT)})
    put(hub, clinic, added.manifest, added.originals)
    for decision in (Decision.TAKEN, Decision.KEPT):
        hub.pipeline().decide(clinic.site, base, added.study, decision, quiet)
        planned(hub)
    assert forwarded(hub) == [FIRST]


def test_files_that_became_part_of_another_study_are_not_planned(hub: Hub, clinic: Clinic, bundle: Bundle) -> None:
    base = keep_study(hub, clinic, bundle, FIRST)
    added = added_parts(clinic, bundle, base, [LATE])
    put(hub, clinic, added.originals)
    queue, content = queue_of(hub), DeliveryContent(hub.study_images(), hub.bundles)
    queue.enter([PACS.name])
    key = (clinic.site, added.study)
    items = content.items(PACS, key)
    assert items
    put(hub, clinic, added.manifest)
    assert content.items(PACS, key) == []
    assert queue.plan(PACS.name, None, [(key, items)]) == 0


def test_a_target_that_has_the_first_version_is_not_sent_another_under_its_uid(
    hub: Hub, clinic: Clinic, bundle: Bundle
) -> None:
    base = keep_study(hub, clinic, bundle, FIRST)
    assert forwarded(hub) == [FIRST]
    added = added_parts(clinic, bundle, base, [RIGHT], {digest(FIRST): digest(RIGHT)})
    put(hub, clinic, added.manifest, added.originals)
    assert forwarded(hub) == []
    hub.pipeline().decide(clinic.site, base, added.study, Decision.TAKEN, quiet)
    assert forwarded(hub) == []
    (refused,) = [each for each in queue_of(hub).all([DeliveryState.REFUSED]) if each.item == "file 0"]
    assert "same SOP Instance UID" in refused.reason


def test_with_the_originals_those_of_the_added_files_are_requested(hub: Hub, clinic: Clinic, bundle: Bundle) -> None:
    base = keep_study(hub, clinic, bundle, FIRST, originals=False)
    added = added_parts(clinic, bundle, base, [LATE])
    put(hub, clinic, added.manifest)
    hub.store.request(clinic.site, base, Kind.ORIGINALS)
    assert set(hub.store.requested_parts(clinic.site)) == {
        (base, Kind.ORIGINALS),
        (added.study, Kind.ORIGINALS),
    }
    put(hub, clinic, added.originals)
    assert hub.store.requested_parts(clinic.site) == [(base, Kind.ORIGINALS)]


def test_the_newest_of_several_taken_corrections_counts() -> None:
    old, one, two, more = (Digest(bytes([n]) * 32) for n in range(4))

    def correction(new: Digest, decision: Decision | None, *files: Digest) -> StoredAddition:
        return StoredAddition(StudyKey(bytes(16)), START, {old: new}, decision, files)

    first, second = correction(one, Decision.TAKEN, one), correction(two, Decision.TAKEN, two, more)
    assert current_files([old], [first, second]) == [two, more]
    assert current_files([old], [first, correction(two, None, two)]) == [one]
    assert current_files([old], [correction(one, Decision.TAKEN)]) == [old]  # its files are not here yet
    assert current_files([], [first]) == []


def test_files_whose_study_does_not_arrive_are_named(
    hub: Hub, clinic: Clinic, parts: StudyParts, bundle: Bundle, clock: FakeClock
) -> None:
    late = added_parts(clinic, bundle, parts.study, [LATE])
    for part in (late.manifest, late.originals):
        hub.pipeline().put(clinic.site, part.object, part.header, part.plaintext, False)
    assert list(check(hub, Checked(), lambda *_: None)) == []
    clock.advance(2 * 86_400)
    (finding,) = check(hub, Checked(), lambda *_: None)
    assert finding.study == late.study
    assert parts.study.hex() in finding.problem
    for part in (parts.graph, parts.manifest):
        hub.pipeline().put(clinic.site, part.object, part.header, part.plaintext, False)
    assert list(check(hub, Checked(), lambda *_: None)) == []
