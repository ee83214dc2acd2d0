"""A study in the viewer: the very file that the manifest names, and its known geometry."""

import re
from collections.abc import Callable

import numpy as np
import pytest

from tests.support.dicoms import chest, dicom
from tests.support.hub_folder import Clinic, StudyParts, study_parts
from tests.support.reading_room import ReadingRoom
from thinwire.receiver.export.best_image import Original
from thinwire.receiver.hub import Hub
from thinwire.receiver.web.frame import ViewerImage
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.formats.display import SpacingKind
from thinwire.shared.formats.manifest import FileRead
from thinwire.shared.imaging.radiograph import open_radiograph

SIZE = (300, 280)
FIRST = dicom(chest(*SIZE, seed=1), SOPInstanceUID="1.2.3.1", ImagerPixelSpacing=[0.14, 0.14])
SECOND = dicom(
    chest(*SIZE, seed=2), SOPInstanceUID="1.2.3.2", PatientOrientation=["R", "F"], ImagerPixelSpacing=[0.2, 0.2]
)
"""As large as the first, and mirrored."""

Made = Callable[[int | None], tuple[ReadingRoom, StudyParts]]


@pytest.fixture
def made(hub: Hub, clinic: Clinic, bundle: Bundle) -> Made:
    """A study of two frontal files, all of it at the hub. named: the place of the file that the manifest names."""

    def make(named: int | None) -> tuple[ReadingRoom, StudyParts]:
        files = (FIRST, SECOND)
        read = None
        if named is not None:
            found = open_radiograph(files[named])
            read = FileRead.fitting(named, f"1.2.3.{named + 1}", found.display, ["the header is doubted"])
        parts = study_parts(clinic, bundle, files=files, read=read)
        room = ReadingRoom(hub)
        room.put(clinic, parts.graph, parts.manifest, parts.originals)
        return room, parts

    return make


def view_of(room: ReadingRoom, clinic: Clinic, parts: StudyParts) -> ViewerImage:
    return room.room.frames.view(room.hub.store.study(clinic.site, parts.study))


def original_of(room: ReadingRoom, clinic: Clinic, parts: StudyParts) -> Original:
    study_images, graph = (
        room.hub.study_images(),
        room.room.frames.graph(room.hub.store.study(clinic.site, parts.study)),
    )
    assert graph is not None
    found = study_images.original(clinic.site, parts.study, graph.grid, study_images.files(clinic.site, parts.study))
    assert found is not None
    return found


@pytest.mark.parametrize("named", [0, 1])
def test_the_file_that_the_manifest_names_is_shown(made: Made, clinic: Clinic, named: int) -> None:
    room, parts = made(named)
    base = view_of(room, clinic, parts).base
    assert base is not None
    assert base.exact
    expected = open_radiograph((FIRST, SECOND)[named])
    tone = np.frombuffer(base.tone, np.uint8)
    samples = np.frombuffer(base.samples, "<u2").reshape(SIZE)
    np.testing.assert_array_equal(tone[samples], expected.shown)
    assert original_of(room, clinic, parts).member.data == (FIRST, SECOND)[named]


def test_a_file_that_no_manifest_names_is_not_said_to_be_exact(made: Made, clinic: Clinic) -> None:
    room, parts = made(None)
    base = view_of(room, clinic, parts).base
    assert base is not None
    assert not base.exact
    assert "the clinic named none" in base.label


def test_spacing_and_sides_are_the_file_s(made: Made, clinic: Clinic) -> None:
    room, parts = made(1)
    view = view_of(room, clinic, parts)
    assert (view.spacing_mm, view.spacing_kind) == ((0.2, 0.2), SpacingKind.DETECTOR)
    assert view.sides is not None
    assert (view.sides.left, view.sides.right) == ("L", "R")


def test_before_the_originals_the_manifest_says_where_a_distance_holds(
    hub: Hub, clinic: Clinic, bundle: Bundle
) -> None:
    found = open_radiograph(FIRST)
    read = FileRead.fitting(0, "1.2.3.1", found.display, ())
    parts = study_parts(clinic, bundle, files=(FIRST,), read=read)
    room = ReadingRoom(hub)
    room.put(clinic, parts.graph, parts.manifest)
    view = view_of(room, clinic, parts)
    assert (view.base, view.spacing_mm, view.spacing_kind) == (None, (0.14, 0.14), SpacingKind.DETECTOR)


def test_a_manifest_that_comes_after_the_originals_names_the_file(hub: Hub, clinic: Clinic, bundle: Bundle) -> None:
    read = FileRead.fitting(1, "1.2.3.2", open_radiograph(SECOND).display, ())
    parts = study_parts(clinic, bundle, files=(FIRST, SECOND), read=read)
    room = ReadingRoom(hub)
    room.put(clinic, parts.graph, parts.originals)
    before = view_of(room, clinic, parts).base
    room.put(clinic, parts.manifest)
    after = view_of(room, clinic, parts).base
    assert before is not None
    assert after is not None
    assert (before.exact, after.exact) == (False, True)


def test_the_reader_sees_the_warnings(made: Made, clinic: Clinic) -> None:
    room, parts = made(0)
    page = room.person("anna").get(f"/studies/{clinic.site}/{parts.study.hex()}")
    assert re.search(r"<li>the header is doubted</li>", page)


def test_an_original_that_cannot_be_shown_costs_itself_alone(hub: Hub, clinic: Clinic, bundle: Bundle) -> None:
    broken = FIRST[: len(FIRST) // 2]
    read = FileRead.fitting(0, "1.2.3.1", open_radiograph(FIRST).display, ())
    parts = study_parts(clinic, bundle, files=(broken,), read=read)
    room = ReadingRoom(hub)
    room.put(clinic, parts.graph, parts.manifest, parts.originals)
    view = view_of(room, clinic, parts)
    assert view.base is None
    assert view.trouble.startswith("the original is received and cannot be shown")
    address = f"/studies/{clinic.site}/{parts.study.hex()}"
    assert "cannot be shown" in room.person("anna").get(f"{address}/view")
