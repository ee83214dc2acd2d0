"""A file's form: its meta information, its data set, and the file that is sent to a PACS."""

import gzip
import struct
import zlib
from io import BytesIO
from itertools import product

import numpy as np
import pydicom
import pytest

from tests.support.dicoms import (
    BIG,
    DEFLATED,
    ENCODERS,
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
ENCAPSULATED = "1.2.840.10008.1.2.1.98"


def called(data: bytes, syntax: str) -> bytes:
    """A data set, or that of a file, below meta information that names this transfer syntax."""
    meta = pydicom.dcmread(BytesIO(as_file(dataset(), EXPLICIT))).file_meta
    header = as_file(dataset(), EXPLICIT)[: 144 + meta.FileMetaInformationGroupLength]
    stated = EXPLICIT.encode() + b"\0"
    value = syntax.encode() + b"\0" * (len(syntax) % 2)
    at = header.index(b"\x02\x00\x10\x00UI") + 6
    header = header[:at] + len(value).to_bytes(2, "little") + value + header[at + 2 + len(stated) + len(stated) % 2 :]
    length = len(header) - 144
    return (
        header[:140]
        + length.to_bytes(4, "little")
        + header[144:]
        + (after_meta(data) if data[128:132] == b"DICM" else data)
    )


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
    assert "states Explicit VR Little Endian, but the data set is Implicit VR Little Endian" in told


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


def big_endian(group: bytes) -> bytes:
    """Group 0002 in big endian."""
    out, at = b"", 0
    while at < len(group):
        number, element, vr, length = struct.unpack_from("<HH2sH", group, at)
        long = vr == b"OB"
        value = at + (12 if long else 8)
        length = int.from_bytes(group[at + 8 : at + 12], "little") if long else length
        out += struct.pack(">HH2s", number, element, vr) + struct.pack(
            *((">HL", 0, length) if long else (">H", length))
        )
        out += group[value : value + length]
        at = value + length
    return out


def encapsulated(*items: bytes, ended: bool = True) -> bytes:
    """Pixel Data (7FE0,0010) of undefined length, explicit VR."""
    parts = [struct.pack("<HHL", 0xFFFE, 0xE000, len(each)) + each for each in items]
    end = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0) if ended else b""
    return b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff" + b"".join(parts) + end


def odd_forms() -> dict[str, bytes]:
    """Files of EIGHT as devices and archives have been seen to write them."""
    plain, body = dicom(EIGHT), after_meta(dicom(EIGHT))
    start, group, _ = meta_of(plain)
    frame = bytes(ENCODERS[JPEG_LS](EIGHT))
    frame += b"\0" * (len(frame) % 2)
    header = after_meta(dicom(EIGHT, JPEG_LS)).partition(b"\xe0\x7f\x10\x00OB")[0]
    bare_implicit = after_meta(dicom(EIGHT, IMPLICIT))
    implicit_header = bare_implicit[: bare_implicit.rindex(b"\xe0\x7f\x10\x00")]
    size = struct.pack("<L", EIGHT.size)
    samples = EIGHT.tobytes()
    pixels = body.rindex(b"\xe0\x7f\x10\x00OB")
    return {
        "meta information in big endian": start + big_endian(group) + body,
        "a preamble without prefix": bytes(128) + body,
        "a preamble that is a TIFF header": b"II*\0" + bytes(124) + plain[128:],
        "a group length in the data set": b"\x08\x00\x00\x00UL\x04\x00\x0f\x27\x00\x00" + body,
        "a command group before the data set": struct.pack("<HHLLHHLH", 0, 0, 4, 10, 0, 0x0100, 2, 1) + bare_implicit,
        "a transfer syntax padded by a blank": plain.replace(EXPLICIT.encode() + b"\0", EXPLICIT.encode() + b" "),
        "pixel data too long": body[: pixels + 8] + struct.pack("<L", EIGHT.size + 10) + samples + bytes(10),
        "pixel data as OW": body.replace(b"\xe0\x7f\x10\x00OB", b"\xe0\x7f\x10\x00OW"),
        "pixel data as UN": body.replace(b"\xe0\x7f\x10\x00OB", b"\xe0\x7f\x10\x00UN"),
        "uncompressed pixels in an item": called(header + encapsulated(b"", samples), ENCAPSULATED),
        "an offset table": header + encapsulated(bytes(4), frame),
        "no offset table": header + encapsulated(frame),
        "an empty fragment": header + encapsulated(b"", b"", frame),
        "no end mark": header + encapsulated(b"", frame, ended=False),
        "items in pixel data of defined length": called(
            header + b"\xe0\x7f\x10\x00OB\0\0" + struct.pack("<L", len(frame) + 16) + encapsulated(b"", frame)[12:-8],
            JPEG_LS,
        ),
        "compressed pixels in an implicit data set": called(
            implicit_header + b"\xe0\x7f\x10\x00" + encapsulated(b"", frame)[8:], JPEG_LS
        ),
        "zlib's wrapper": called(zlib.compress(body), DEFLATED),
        "gzip's wrapper": called(gzip.compress(body), DEFLATED),
        "bytes after deflated data": dicom(EIGHT, DEFLATED) + bytes(9),
        "rows as a long": body.replace(b"\x28\0\x10\0US\2\0\x42\0", b"\x28\0\x10\0UL\4\0\x42\0\0\0"),
        "odd length": body[: pixels + 8] + size + samples,
    }


@pytest.mark.parametrize("form", sorted(odd_forms()))
def test_odd_forms_are_read_and_sent(form: str) -> None:
    data = odd_forms()[form]
    found = read(data)
    assert np.array_equal(found.stored, EIGHT)
    sent = part10(data, DEFAULT_LIMITS)
    assert np.array_equal(read(sent).stored, EIGHT)
    assert not any("meta information" in each for each in read(sent).warnings)
    if form not in ("uncompressed pixels in an item", "no offset table", "pixel data too long"):  # pydicom cannot
        assert np.array_equal(pydicom.dcmread(BytesIO(sent)).pixel_array, EIGHT)


def test_a_compressed_file_that_has_nothing_to_do_with_dicom_is_not_inflated() -> None:
    with pytest.raises(UnreadableDicom, match="not a DICOM file"):
        read_instance(gzip.compress(bytes(1 << 20)))
