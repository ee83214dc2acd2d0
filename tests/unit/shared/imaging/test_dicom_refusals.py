"""Files that are no frontal chest radiograph, contradictory or damaged are refused, without a name in the reason."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.support.dicoms import (
    BASIC_TEXT_SR,
    BIG,
    DEFLATED,
    EIGHT_BITS_ONLY,
    ENCODERS,
    EXPLICIT,
    IMPLICIT,
    JPEG,
    JPEG_XL,
    RLE,
    as_file,
    chest,
    dataset,
    dicom,
)
from tests.support.radiographs import item, read
from thinwire.shared.errors import NotChestRadiograph, UnreadableDicom
from thinwire.shared.imaging.dicom import DEFAULT_LIMITS, read_instance


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"Modality": "CT"}, "modality is CT"),
        ({"Modality": None}, "modality is unstated"),
        ({"BodyPartExamined": "HAND"}, "not the chest"),
        (
            {"BodyPartExamined": None, "AnatomicRegionSequence": [item(CodeValue="1", CodeMeaning="Hand")]},
            "not the chest",
        ),
        ({"ViewPosition": "LL"}, "lateral"),
        ({"ViewPosition": "LATERAL"}, "lateral"),
        ({"ViewPosition": "RLD"}, "lateral"),
        ({"ViewPosition": None, "PatientOrientation": ["A", "F"]}, "lateral"),
        ({"ViewPosition": None, "ViewCodeSequence": [item(CodeValue="399173006", CodeMeaning="")]}, "lateral"),
        ({"ViewPosition": None, "SeriesDescription": "view: LATERAL"}, "lateral"),
        ({"NumberOfFrames": "2"}, "2 frames"),
    ],
)
def test_what_is_no_frontal_chest_is_refused(attributes: dict[str, Any], reason: str) -> None:
    with pytest.raises(NotChestRadiograph, match=reason):
        read(dicom(**attributes))


def test_a_thumbnail_is_refused() -> None:
    with pytest.raises(NotChestRadiograph, match="too small"):
        read(dicom(chest(40, 200)))


def test_a_report_holds_no_image() -> None:
    with pytest.raises(NotChestRadiograph, match="no image"):
        read(as_file(dataset(BASIC_TEXT_SR)))


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "photometric"),
        ({"BitsAllocated": 32}, "cut short"),
        ({"Rows": 200}, "cut short"),
        ({"Rows": 65535, "Columns": 65535}, "over the limit"),
    ],
)
def test_a_header_that_lies_is_refused(attributes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnreadableDicom, match=reason):
        read(dicom(**attributes))


@pytest.mark.parametrize("syntax", sorted(ENCODERS))
def test_a_stream_of_another_size_is_refused(syntax: str) -> None:
    bits = 8 if syntax in EIGHT_BITS_ONLY else 12
    with pytest.raises(UnreadableDicom):
        read(dicom(chest(bits=bits), syntax, BitsStored=bits, Rows=97))


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG, DEFLATED, RLE, *sorted(ENCODERS)])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_file_that_was_cut_is_refused(syntax: str, share: float) -> None:
    bits = 8 if syntax in EIGHT_BITS_ONLY else 12
    data = dicom(chest(bits=bits), syntax, BitsStored=bits)
    with pytest.raises((UnreadableDicom, NotChestRadiograph)):
        read(data[: int(len(data) * share)])


@pytest.mark.parametrize("syntax", sorted(set(ENCODERS) - {JPEG_XL}))
def test_a_stream_that_was_cut_is_refused_though_the_file_is_whole(syntax: str) -> None:
    bits = 8 if syntax in EIGHT_BITS_ONLY else 12
    whole = bytes(ENCODERS[syntax](chest(bits=bits)))  # without a JPEG XL whose codes cannot tell zeros from pixels
    half = whole[: len(whole) // 2]
    data = dicom(chest(bits=bits), syntax, BitsStored=bits)
    at = data.rindex(whole[:64])
    padded = half + bytes(len(whole) - len(half))
    with pytest.raises(UnreadableDicom):
        read(data[:at] + padded + data[at + len(whole) :])


def test_a_damaged_jpeg_scan_is_refused() -> None:
    data = bytearray(dicom(chest(bits=8), JPEG, BitsStored=8))
    scan = data.rindex(b"\xff\xda")
    del data[scan + 300 : scan + 400]
    data += b"\0" * 100
    with pytest.raises(UnreadableDicom):
        read(bytes(data))


def test_a_deflated_bomb_is_refused() -> None:
    limits = replace(DEFAULT_LIMITS, file_bytes=1 << 20)
    bomb = dicom(np.zeros((2000, 2000), np.uint16), DEFLATED)
    assert len(bomb) < limits.file_bytes
    with pytest.raises(UnreadableDicom, match="inflates"):
        read_instance(bomb, limits)


def test_a_blank_image_is_refused() -> None:
    with pytest.raises(UnreadableDicom, match="blank"):
        read(dicom(np.full((96, 96), 7, np.uint16)))


def test_an_unknown_transfer_syntax_is_refused_with_advice() -> None:
    data = dicom(syntax=IMPLICIT).replace(b"1.2.840.10008.1.2\0", b"1.2.840.113619.5.2")
    with pytest.raises(UnreadableDicom, match="transfer syntax") as refused:
        read(data)
    assert "uncompressed" in refused.value.remedy


@pytest.mark.parametrize("data", [b"", b"\0" * 200, b"%PDF-1.7 " + b"x" * 500, b"DICM", b"a,b\n1,2\n" * 40])
def test_what_is_not_dicom_is_refused(data: bytes) -> None:
    with pytest.raises(UnreadableDicom, match=r"not a DICOM file|cut short"):
        read_instance(data)


def test_refusals_and_representations_quote_no_patient() -> None:
    data = dicom(PixelSpacing=["0.15", "0.15"], PatientBirthDate="19700101").replace(b"19700101", b"DOE^JANE")
    instance = read_instance(data)
    assert instance.header.text("PatientBirthDate") in ("", "DOE^JANE")
    assert "SYNTHETIC" not in repr(instance)
    with pytest.raises(UnreadableDicom) as refused:
        read_instance(data[: data.index(b"SYNTHETIC^ONE") + 5])
    assert "SYNTH" not in str(refused.value)
    assert refused.value.__cause__ is None
