"""A file's form: what its meta information says, what its data set is, and the file that a PACS is sent."""

from io import BytesIO
from itertools import product

import numpy as np
import pydicom
import pytest

from tests.support.dicoms import (
    BIG,
    DEFLATED,
    EXPLICIT,
    HTJ2K,
    IMPLICIT,
    JPEG,
    JPEG_2000,
    JPEG_LOSSLESS,
    JPEG_LOSSLESS_SV1,
    JPEG_LS,
    JPEG_XL,
    RLE,
    after_meta,
    as_file,
    chest,
    dataset,
    dicom,
)
from tests.support.radiographs import read
from thinwire.shared.errors import UnreadableDicom
from thinwire.shared.imaging.dicom import DEFAULT_LIMITS, read_instance
from thinwire.shared.imaging.header import part10

NATIVE = (IMPLICIT, EXPLICIT, BIG, DEFLATED)
SYNTAXES = (*NATIVE, RLE, JPEG, JPEG_LOSSLESS, JPEG_LS, JPEG_2000, HTJ2K, JPEG_XL)
EIGHT = chest(66, 70, 8)


def called(data: bytes, syntax: str) -> bytes:
    """A file whose meta information names another transfer syntax than its data set has."""
    meta = pydicom.dcmread(BytesIO(as_file(dataset(), EXPLICIT))).file_meta
    header = as_file(dataset(), EXPLICIT)[: 144 + meta.FileMetaInformationGroupLength]
    stated = EXPLICIT.encode() + b"\0"
    value = syntax.encode() + b"\0" * (len(syntax) % 2)
    at = header.index(b"\x02\x00\x10\x00UI") + 6
    header = header[:at] + len(value).to_bytes(2, "little") + value + header[at + 2 + len(stated) + len(stated) % 2 :]
    length = len(header) - 144
    return header[:140] + length.to_bytes(4, "little") + header[144:] + after_meta(data)


@pytest.mark.parametrize(("true", "stated"), list(product(SYNTAXES, SYNTAXES)))
def test_the_data_set_is_believed_against_its_meta_information(true: str, stated: str) -> None:
    data = called(dicom(EIGHT, true), stated)
    found, header = read(data), read_instance(data).header
    plain = read(dicom(EIGHT, true))
    assert header.transfer_syntax == true
    assert np.array_equal(found.pixels, plain.pixels)
    assert sum("meta information" in each for each in found.warnings) == (true != stated)
    sent = part10(data, DEFAULT_LIMITS)
    assert after_meta(sent) == after_meta(data)
    if true != JPEG_XL:  # unknown to pydicom
        assert pydicom.dcmread(BytesIO(sent)).file_meta.TransferSyntaxUID == true
    assert read(sent).warnings == plain.warnings


def test_the_contradiction_is_named() -> None:
    told = " ".join(read(called(dicom(syntax=IMPLICIT), EXPLICIT)).warnings)
    assert "says Explicit VR Little Endian, but the data set is Implicit VR Little Endian" in told


def test_an_unknown_name_for_a_known_stream_is_told() -> None:
    found = read(called(dicom(EIGHT, JPEG_LS), "1.2.840.10008.1.2.4.99"))
    assert np.array_equal(found.stored, EIGHT)
    assert any("JPEG-LS" in each for each in found.warnings)


@pytest.mark.parametrize("syntax", [JPEG_LOSSLESS, JPEG_LOSSLESS_SV1, JPEG_LS])
def test_a_syntax_that_allows_the_stream_is_kept(syntax: str) -> None:
    assert read_instance(dicom(syntax=syntax)).transfer_syntax == syntax


@pytest.mark.parametrize("syntax", SYNTAXES[:3] + SYNTAXES[4:])
def test_a_file_without_meta_information_is_sent_with_it(syntax: str) -> None:
    bare = dicom(EIGHT, syntax, preamble=False)
    sent = part10(bare, DEFAULT_LIMITS)
    assert sent.endswith(bare)
    assert np.array_equal(read(bare).pixels, read(sent).pixels)
    file = read_instance(sent)
    assert (file.transfer_syntax, file.header.notes) == (syntax, ())
    if syntax != JPEG_XL:
        meta = pydicom.dcmread(BytesIO(sent)).file_meta
        assert (meta.MediaStorageSOPInstanceUID, meta.MediaStorageSOPClassUID) == (
            file.sop_instance_uid,
            file.sop_class_uid,
        )


def test_a_file_that_is_right_is_sent_as_it_is() -> None:
    for syntax in SYNTAXES:
        assert part10(dicom(EIGHT, syntax), DEFAULT_LIMITS) == dicom(EIGHT, syntax)


def test_the_data_sets_own_uid_is_announced() -> None:
    data = dicom(sop_uid="1.2.3.4.5")
    stale = data.replace(b"1.2.3.4.5", b"1.2.3.4.6", 1)
    assert any("SOPInstanceUID" in each for each in read(stale).warnings)
    sent = pydicom.dcmread(BytesIO(part10(stale, DEFAULT_LIMITS)))
    assert sent.file_meta.MediaStorageSOPInstanceUID == sent.SOPInstanceUID == "1.2.3.4.5"


def test_an_object_without_a_uid_cannot_be_sent() -> None:
    with pytest.raises(UnreadableDicom, match="SOP Instance UID"):
        part10(after_meta(dicom()).replace(b"\x08\x00\x18\x00UI", b"\x08\x00\x19\x00UI"), DEFAULT_LIMITS)


def meta_of(data: bytes) -> tuple[bytes, bytes, bytes]:
    """(preamble and prefix, group 0002 after its length, data set)."""
    body = after_meta(data)
    return data[:132], data[144 : len(data) - len(body)], body


def implicit(group: bytes) -> bytes:
    """Group 0002 with its explicit VRs left out."""
    out, at = b"", 0
    while at < len(group):
        long = group[at + 4 : at + 6] == b"OB"
        length = int.from_bytes(group[at + 8 : at + 12] if long else group[at + 6 : at + 8], "little")
        value = at + (12 if long else 8)
        out += group[at : at + 4] + length.to_bytes(4, "little") + group[value : value + length]
        at = value + length
    return out


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG, JPEG_LS])
def test_meta_information_in_odd_forms_is_read(syntax: str) -> None:
    data = dicom(EIGHT, syntax)
    start, group, body = meta_of(data)
    private = b"\x02\x00\x00\x01UI\x06\x001.2.3\x00\x02\x00\x02\x01OB\x00\x00\x04\x00\x00\x00abcd"
    wrong_length = b"\x02\x00\x00\x00UL\x04\x00" + (7).to_bytes(4, "little")
    for odd in (
        start + group + body,  # no group length
        start + wrong_length + group + body,
        start + group + private + body,
        start + implicit(group) + body,
        data[128:],  # the prefix without its preamble
        group + body,  # neither
    ):
        assert np.array_equal(read(odd).stored, EIGHT)
        assert np.array_equal(read(part10(odd, DEFAULT_LIMITS)).stored, EIGHT)


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG, JPEG_LS])
@pytest.mark.parametrize("tail", [b"\0", b"\0" * 513, b"\n", b"end of file, written by a device", b"\xff" * 64])
def test_bytes_after_the_pixels_are_no_loss(syntax: str, tail: bytes) -> None:
    assert np.array_equal(read(dicom(EIGHT, syntax) + tail).stored, EIGHT)
