"""Which image of a study is read: the same from the same files in any order, and from bytes alone."""

import itertools
from typing import Any

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.dicoms import BASIC_TEXT_SR, JPEG_2000, STUDY_UID, as_file, chest, dataset, dicom
from thinwire.shared.errors import NotChestRadiograph, UnreadableDicom
from thinwire.shared.imaging.dicom import read_instance
from thinwire.shared.imaging.frontal import Origin, choose, origin

CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
DERIVED, SECONDARY = ["DERIVED", "PRIMARY"], ["DERIVED", "SECONDARY"]
RAW = "FOR PROCESSING"
FILM: dict[str, Any] = {
    "sop_class": CAPTURE,
    "Modality": "OT",
    "ConversionType": "DF",
    "ImageType": SECONDARY,
}


def image(number: int, rows: int = 80, **attributes: Any) -> bytes:
    utf8: dict[str, Any] = {"SpecificCharacterSet": "ISO_IR 192"}
    return dicom(chest(rows, 80, seed=number), sop_uid=f"{STUDY_UID}.1.{number}", **{**utf8, **attributes})


def page(number: int) -> bytes:
    """A scanned request form: white paper with some lines, under the header of a frontal film."""
    paper = np.full((200, 160), 250, np.uint8)
    paper[20:180:16, 20:140] = 10
    paper[100, 80] = 255
    return dicom(paper, sop_uid=f"{STUDY_UID}.1.{number}", BitsStored=8, **{**FILM, "ConversionType": "SD"})


def chosen_rows(*files: bytes) -> int:
    """Rows of the image that is read, whatever the order of the files."""
    read = {files[choose(files).index] for files in itertools.permutations(files)}
    assert len(read) == 1
    return read_instance(read.pop()).rows


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({}, {"ViewPosition": "AP"}),
        ({"ViewPosition": "AP"}, {"ViewPosition": None}),
        ({"ViewPosition": None, "SeriesDescription": "de frente"}, {"ViewPosition": None}),
        ({}, {"SeriesDescription": "Chest lateral"}),
        ({}, {"ImageType": DERIVED}),
        ({"ImageType": ["ORIGINAL", "PRIMARY"]}, {"ImageType": SECONDARY}),
        ({"ImageType": DERIVED, "ViewPosition": "AP"}, {"ImageType": DERIVED, "ViewPosition": None}),
        ({"ViewPosition": "AP"}, {"ImageType": DERIVED}),
        ({"ViewPosition": None}, {"ImageType": SECONDARY}),
        ({"ViewPosition": None}, {"SeriesDescription": "Chest PA bone"}),
        ({}, {"PresentationIntentType": RAW}),
        ({"ImageType": DERIVED, "PresentationIntentType": "FOR PRESENTATION"}, {"PresentationIntentType": RAW}),
        ({"PresentationIntentType": RAW}, {"ImageType": DERIVED, "SeriesDescription": "Chest PA Bone"}),
        ({"PresentationIntentType": RAW}, {"ImageType": SECONDARY}),
        ({}, {"SeriesDescription": "Chest PA soft tissue"}),
        ({}, {"SeriesDescription": "Tórax PA hueso"}),
        ({"ImageType": DERIVED}, {"ImageType": [*DERIVED, "", "DES_BONE"]}),
        ({"ImageType": DERIVED}, {"ImageType": DERIVED, "DerivationDescription": "Bone suppressed"}),
        ({"ImageType": DERIVED}, {"ImageType": DERIVED, "SeriesDescription": "PA ES"}),
        ({"SeriesDescription": "soft"}, {"SeriesDescription": "bone"}),
        ({"ImageType": DERIVED, "SeriesDescription": "soft"}, {"ImageType": SECONDARY, "SeriesDescription": "CAD"}),
        ({"ViewPosition": "AP"}, FILM),
        ({"ViewPosition": None, "BodyPartExamined": None}, FILM),
        ({}, {"BodyPartExamined": None}),
        ({"BodyPartExamined": None}, {"BodyPartExamined": "HAND"}),
    ],
)
def test_the_better_image_is_read_though_the_other_is_larger(better: dict[str, Any], worse: dict[str, Any]) -> None:
    assert chosen_rows(image(1, 80, **better), image(2, 90, **worse)) == 80


def test_the_larger_of_equals_is_read_and_their_number_is_told() -> None:
    files = image(1, 80), image(2, 90), image(3, 70), image(4, 95, ViewPosition="LL"), image(5, 95, ImageType=DERIVED)
    assert read_instance(files[choose(files).index]).rows == 90
    assert choose(files).warnings == ("the study has 3 frontal images; one of them was read",)


def test_of_images_that_are_equal_in_all_the_same_is_read_in_any_order() -> None:
    assert chosen_rows(image(1), image(2), image(3)) == 80


@pytest.mark.parametrize(
    ("attributes", "told"),
    [
        ({}, None),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"]}, None),
        ({"ImageType": DERIVED}, "derived"),
        ({"ImageType": SECONDARY}, "secondary"),
        ({"ImageType": DERIVED, "SeriesDescription": "骨"}, "bone"),
        ({"SeriesDescription": "Weichteile"}, "soft-tissue"),
        (FILM, "scanned film"),
    ],
)
def test_what_was_read_for_want_of_an_original_is_told(attributes: dict[str, Any], told: str | None) -> None:
    warnings = choose([image(1, **attributes)]).warnings
    assert (told is None) is (warnings == ())
    assert told is None or told in " ".join(warnings)
    assert all(len(each.encode()) <= 300 for each in warnings)


def test_the_processed_form_of_raw_data_is_no_doubt() -> None:
    presented = image(1, ImageType=DERIVED, PresentationIntentType="FOR PRESENTATION")
    assert choose([presented, image(2, PresentationIntentType=RAW)]).warnings == ()


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, Origin.ORIGINAL),
        ({"ImageType": "ORIGINAL"}, Origin.ORIGINAL),
        ({"ImageType": DERIVED}, Origin.DERIVED),
        ({"ImageType": ["ORIGINAL", "SECONDARY"]}, Origin.SECONDARY),
        ({"ImageType": DERIVED, "PresentationIntentType": RAW}, Origin.RAW),
        ({"SeriesDescription": "PA, es"}, Origin.ORIGINAL),
        ({"SeriesDescription": "Carbonell"}, Origin.ORIGINAL),
    ],
)
def test_origin(attributes: dict[str, Any], expected: Origin) -> None:
    assert origin(read_instance(image(1, **attributes)).header) is expected


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"ConversionType": "SD", "Modality": "SC"},
        {"Modality": None},
        {"ViewPosition": None, "SeriesDescription": "tórax de frente"},
    ],
)
def test_a_scanned_film_whose_header_says_frontal_chest_is_read(attributes: dict[str, Any]) -> None:
    assert choose([image(1, **{**FILM, **attributes})]).radiograph.pixels.shape == (80, 80)


@pytest.mark.parametrize(
    "attributes",
    [{"ViewPosition": None}, {"ViewPosition": None, "StudyDescription": "CHEST PA"}, {"BodyPartExamined": None}],
)
def test_a_page_that_does_not_say_frontal_chest_is_refused(attributes: dict[str, Any]) -> None:
    with pytest.raises(NotChestRadiograph, match="scanned page or film"):
        choose([image(1, **{**FILM, **attributes})])


def test_a_page_is_not_read_though_its_header_is_that_of_a_film() -> None:
    with pytest.raises(NotChestRadiograph, match="scanned page"):
        choose([page(1)])
    assert chosen_rows(page(1), image(2, 80, ViewPosition=None)) == 80


def test_a_picture_is_read_only_for_want_of_dicom() -> None:
    picture = bytes(imagecodecs.png_encode(chest(120, 120, 8)))
    assert choose([picture]).instance is None
    assert chosen_rows(picture, image(1, 80, **FILM)) == 80


def test_an_image_that_does_not_decode_gives_way_and_is_told() -> None:
    broken = image(1, 90, syntax=JPEG_2000).replace(b"\xff\x93", b"\xff\x94")
    for files in itertools.permutations((broken, image(2, 80))):
        found = choose(files)
        assert found.radiograph.pixels.shape[0] == 80
        (told,) = found.warnings
        assert "cannot be decoded" in told
    with pytest.raises(UnreadableDicom, match="JPEG 2000"):
        choose([broken])


def test_the_instance_that_was_read_comes_with_it() -> None:
    files = [as_file(dataset(BASIC_TEXT_SR, Modality="SR")), image(1, ViewPosition="LL"), image(2)]
    found = choose(files)
    assert (found.index, found.instance and found.instance.sop_instance_uid) == (2, f"{STUDY_UID}.1.2")


_KINDS = st.fixed_dictionaries(
    {},
    optional={
        "ViewPosition": st.sampled_from(["PA", "AP", "LL", None]),
        "ImageType": st.sampled_from([DERIVED, SECONDARY, ["ORIGINAL", "PRIMARY"]]),
        "PresentationIntentType": st.sampled_from(["FOR PRESENTATION", RAW]),
        "SeriesDescription": st.sampled_from(["Chest PA", "Chest lateral", "bone", "soft tissue", "胸部正位"]),
        "BodyPartExamined": st.sampled_from(["CHEST", "HAND", None]),
        "Modality": st.sampled_from(["DX", "CR", "OT"]),
        "rows": st.sampled_from([70, 80]),
    },
)


@given(kinds=st.lists(_KINDS, min_size=1, max_size=5), data=st.data())
@settings(max_examples=30, deadline=None, derandomize=True, database=None)
def test_the_order_of_files_does_not_matter(kinds: list[dict[str, Any]], data: st.DataObject) -> None:
    films = {"sop_class": CAPTURE, "ConversionType": "DF"}
    files = [image(n, **{**(films if kind.get("Modality") == "OT" else {}), **kind}) for n, kind in enumerate(kinds)]
    assert outcome(files) == outcome(data.draw(st.permutations(files)))


def outcome(files: list[bytes]) -> object:
    """The file that is read and the warnings, or None where none is a frontal chest."""
    try:
        found = choose(files)
    except NotChestRadiograph:
        return None
    return files[found.index], found.warnings, found.radiograph.warnings
