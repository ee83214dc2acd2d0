"""A clinic's manifest of added files takes no study off the worklist."""

import pytest

from tests.support.hub_folder import Clinic, StudyParts, sealed_manifest, study_parts
from thinwire.receiver.hub import Hub
from thinwire.receiver.store.worklist import worklist
from thinwire.shared.errors import BadManifest
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.formats.manifest import Added
from thinwire.shared.identifiers import BundleId, StudyKey

NO_BUNDLE = BundleId(bytes(16))


def put(hub: Hub, clinic: Clinic, *parts: object) -> None:
    pipeline = hub.pipeline()
    for part in parts:
        pipeline.put(clinic.site, part.object, part.header, part.plaintext, False)  # type: ignore[attr-defined]
    pipeline.predict_waiting()


@pytest.mark.parametrize("first", ["graph", "manifest"])
@pytest.mark.parametrize("base", ["another study", "itself"])
def test_a_study_of_its_own_does_not_become_an_addition(
    hub: Hub, clinic: Clinic, parts: StudyParts, first: str, base: str
) -> None:
    put(hub, clinic, getattr(parts, first))
    listed = worklist(hub.store.studies())
    assert len(listed) == 1
    to = StudyKey(b"another study 16") if base == "another study" else parts.study
    hides = sealed_manifest(clinic, parts.files, NO_BUNDLE, parts.originals, added=Added(to))
    with pytest.raises(BadManifest):
        put(hub, clinic, hides)
    assert worklist(hub.store.studies()) == listed


def test_files_are_added_to_a_study_and_not_to_additions_of_it(
    hub: Hub, clinic: Clinic, parts: StudyParts, bundle: Bundle
) -> None:
    put(hub, clinic, parts.graph, parts.manifest)
    late, later = (study_parts(clinic, bundle, seed) for seed in (1, 2))
    added = sealed_manifest(clinic, late.files, NO_BUNDLE, late.originals, added=Added(parts.study))
    again = sealed_manifest(clinic, late.files, NO_BUNDLE, added=Added(parts.study))
    put(hub, clinic, added, late.originals, again)
    (row,) = worklist(hub.store.studies())
    assert row.study.study == parts.study
    with pytest.raises(BadManifest):
        put(hub, clinic, sealed_manifest(clinic, later.files, NO_BUNDLE, later.originals, added=Added(late.study)))
