from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from tests.support.dicoms import BASIC_TEXT_SR, DX_RAW, JPEG_2000, STUDY_UID, as_file, chest, dataset, dicom
from tests.support.real_data import REAL_DATA, needs
from thinwire.sender.intake.study import load_study
from thinwire.shared.errors import NotChestRadiograph, UnreadableDicom
from thinwire.shared.identifiers import TextSource, digest, study_key
from thinwire.shared.imaging.frontal import choose


@pytest.fixture
def files(tmp_path: Path) -> "Files":
    return Files(tmp_path)


class Files:
    """Files below a folder, named by number."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *contents: bytes) -> list[Path]:
        paths = [self.folder / f"DOE_JANE_{number}" for number in range(len(contents))]
        for path, data in zip(paths, contents, strict=True):
            path.write_bytes(data)
        return paths


def image(uid: int, rows: int = 96, seed: int = 0, **attributes: Any) -> bytes:
    return dicom(chest(rows, seed=seed), sop_uid=f"{STUDY_UID}.1.{uid}", **attributes)


def test_a_study_is_its_files_byte_for_byte(files: Files) -> None:
    contents = [image(1), image(2, ViewPosition="LL"), as_file(dataset(BASIC_TEXT_SR, Modality="SR"))]
    study = load_study(files(*contents))
    assert sorted(each.data for each in study.files) == sorted(contents)
    assert [each.digest for each in study.files] == sorted(digest(data) for data in contents)
    assert study.key == study_key(digest(data) for data in contents)
    assert {each.media for each in study.files} == {"dicom"}


def test_the_order_of_files_and_repeats_make_no_other_study(files: Files) -> None:
    a, b = image(1), image(2, ViewPosition="LL")
    assert load_study(files(a, b)).key == load_study(files(b, a, b)).key


@pytest.mark.parametrize(
    ("chosen", "other"),
    [
        ({"ViewPosition": "PA"}, {"ViewPosition": "AP"}),
        ({"ViewPosition": "AP"}, {"ViewPosition": None}),
        ({"ViewPosition": None}, {"ViewPosition": "LL"}),
        (
            {"ViewPosition": "PA"},
            {"ViewPosition": "PA", "sop_class": DX_RAW, "PresentationIntentType": "FOR PROCESSING"},
        ),
        ({"ViewPosition": None}, {"ViewPosition": None, "BodyPartExamined": None}),
        ({"ViewPosition": "PA"}, {"ViewPosition": "PA", "BodyPartExamined": "HAND"}),
    ],
)
def test_the_frontal_image_is_chosen_by_its_header(files: Files, chosen: dict[str, Any], other: dict[str, Any]) -> None:
    a, b = image(1, rows=80, **chosen), image(2, rows=90, seed=1, **other)
    for contents in ((a, b), (b, a)):
        assert load_study(files(*contents)).frontal.pixels.shape[0] == 80


def test_the_larger_of_two_equals_is_chosen(files: Files) -> None:
    assert load_study(files(image(1, rows=80), image(2, rows=90))).frontal.pixels.shape[0] == 90


def test_a_frontal_image_that_does_not_decode_gives_way(files: Files) -> None:
    broken = image(1, syntax=JPEG_2000).replace(b"\xff\x93", b"\xff\x94")
    study = load_study(files(broken, image(2, rows=90, ViewPosition="AP")))
    assert study.frontal.pixels.shape[0] == 90
    assert any("cannot be decoded" in note for note in study.warnings)
    with pytest.raises(UnreadableDicom, match="JPEG 2000"):
        load_study(files(broken))


def test_a_study_of_lateral_images_is_refused_with_that_reason(files: Files) -> None:
    with pytest.raises(NotChestRadiograph, match="lateral"):
        load_study(files(image(1, ViewPosition="LL")))
    with pytest.raises(NotChestRadiograph, match="of each of its files: it is a lateral"):
        load_study(files(image(1, ViewPosition="LL"), image(2, ViewPosition="RL")))


def test_each_reason_is_told_where_they_differ(files: Files) -> None:
    with pytest.raises(NotChestRadiograph, match=r"file 1: .*lateral.*file 2: .*not the chest.*and 1 more"):
        load_study(
            files(
                image(1, ViewPosition="LL"),
                *(image(n, BodyPartExamined="HAND") for n in (2, 3, 4)),
                as_file(dataset(BASIC_TEXT_SR, Modality="SR")),
            )
        )


def test_errors_and_representations_name_no_file_and_no_patient(files: Files) -> None:
    with pytest.raises(UnreadableDicom, match=r"^file 2 of 2: ") as refused:
        load_study(files(image(1), b"no image"))
    assert "DOE" not in str(refused.value)
    with pytest.raises(UnreadableDicom) as missing:
        load_study([files.folder / "DOE"])
    assert "DOE" not in str(missing.value)
    study = load_study(files(image(1, AdditionalPatientHistory="Mrs Doe coughs")))
    assert "Doe" not in repr(study)
    assert "SYNTHETIC" not in repr(study)


def test_identity_is_what_the_frontal_header_says(files: Files) -> None:
    study = load_study(files(image(1, AccessionNumber="A1", StudyDate="20260304")))
    assert study.identity == {
        "StudyInstanceUID": STUDY_UID,
        "AccessionNumber": "A1",
        "PatientID": "SYNTHETIC-1",
        "PatientName": "SYNTHETIC^ONE",
        "StudyDate": "20260304",
    }


def test_files_of_different_patients_are_told_and_the_one_that_is_read_is_named(files: Files) -> None:
    other = image(2, PatientID="SYNTHETIC-2", ViewPosition="LL", AdditionalPatientHistory="Smoker")
    study = load_study(files(other, image(1)))
    (told,) = [note for note in study.warnings if "different patients" in note]
    assert "Patient ID" in told
    assert "SYNTHETIC" not in told
    assert len(told.encode()) <= 300
    assert study.identity["PatientID"] == "SYNTHETIC-1"
    assert study.text is None  # words about the other patient


def test_the_file_that_was_read_is_named(files: Files) -> None:
    contents = [image(1, ViewPosition="LL"), image(2), as_file(dataset(BASIC_TEXT_SR, Modality="SR"))]
    for ordered in (contents, contents[::-1]):
        study = load_study(files(*ordered))
        assert study.files[study.read].data == contents[1]
        assert study.sop_instance_uid == f"{STUDY_UID}.1.2"
        assert choose([each.data for each in study.files]).index == study.read


def test_given_text_comes_before_that_of_the_files(files: Files) -> None:
    paths = files(image(1, AdditionalPatientHistory="Smoker"))
    assert load_study(paths).text_source is TextSource.INDICATION
    study = load_study(paths, "Normal.", TextSource.REPORT)
    assert (study.text, study.text_source) == ("Normal.", TextSource.REPORT)


# --- pictures without a header


def picture(media: str, samples: np.ndarray) -> bytes:
    encode = imagecodecs.png_encode if media == "png" else imagecodecs.jpeg8_encode
    return bytes(encode(samples))


@pytest.mark.parametrize("media", ["png", "jpeg"])
def test_a_picture_is_a_study_of_unknown_view(files: Files, media: str) -> None:
    samples = chest(bits=8)
    study = load_study(files(picture(media, samples)))
    assert study.files[0].media == media
    assert (study.frontal.view_position, study.frontal.modality, study.frontal.spacing_mm) == ("", "OT", None)
    assert abs(study.frontal.pixels - (samples - samples.min()) / np.ptp(samples)).mean() < 0.05
    assert study.identity["StudyInstanceUID"].startswith("2.25.")
    assert study.identity == load_study(files(picture(media, samples))).identity
    assert any("without a header" in note for note in study.warnings)


@pytest.mark.parametrize("shape", ["LA", "RGB", "RGBA"])
def test_a_picture_with_more_channels_is_grey(files: Files, shape: str, tmp_path: Path) -> None:
    Image.fromarray(chest(bits=8)).convert(shape).save(tmp_path / "a.png")
    plain = load_study(files(picture("png", chest(bits=8)))).frontal.pixels
    assert np.array_equal(load_study([tmp_path / "a.png"]).frontal.pixels, plain)


def test_a_deep_png_keeps_its_depth(files: Files) -> None:
    found = load_study(files(picture("png", chest(bits=16)))).frontal.pixels
    assert len(np.unique(found)) > 300


@pytest.mark.parametrize("media", ["png", "jpeg"])
def test_a_picture_that_is_cut_or_small_is_refused(files: Files, media: str) -> None:
    whole = picture(media, chest(bits=8))
    for share in (0.01, 0.5, 0.95):
        with pytest.raises(UnreadableDicom):
            load_study(files(whole[: max(8, int(len(whole) * share))]))
    with pytest.raises(NotChestRadiograph, match="too small"):
        load_study(files(picture(media, chest(40, 40, 8))))


def test_real_files_are_studies() -> None:
    for path in sorted((REAL_DATA / "dicom").glob("*.dcm")):
        study = load_study([path])
        assert study.text is None
        assert study.identity["StudyInstanceUID"]


for _mark in needs("dicom"):
    _mark(test_real_files_are_studies)
