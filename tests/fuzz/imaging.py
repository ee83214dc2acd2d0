"""Targets: DICOM files from their first byte to the radiograph, pictures, text, and the files of a medium."""

import struct
import tempfile
import zlib
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset

from tests.fuzz.target import Target, both
from tests.support.dicoms import (
    BASIC_TEXT_SR,
    BIG,
    DEFLATED,
    EIGHT_BITS_ONLY,
    ENCODERS,
    EXPLICIT,
    IMPLICIT,
    RLE,
    STUDY_UID,
    as_file,
    chest,
    dataset,
    dicom,
)
from thinwire.receiver.decoding.copied_header import dataset_of, fields_of
from thinwire.receiver.decoding.dicom_object import dicom_object, same_object
from thinwire.sender.graph.report_graph import extract
from thinwire.sender.graph.vocabulary import Vocabulary, load_vocabulary
from thinwire.sender.intake.deidentify import Deidentifier, Options
from thinwire.sender.intake.media import Failed, find_studies
from thinwire.sender.intake.patients import patients_differ
from thinwire.sender.intake.study import load_study
from thinwire.sender.intake.text import decode_text, text_of_study
from thinwire.shared.errors import ThinwireError
from thinwire.shared.identifiers import TextSource
from thinwire.shared.imaging import codestream, geometry, projection
from thinwire.shared.imaging.charset import encodings_of
from thinwire.shared.imaging.codestream import FrameShape
from thinwire.shared.imaging.dicom import image, radiograph, read_instance
from thinwire.shared.imaging.frontal import choose
from thinwire.shared.imaging.header import FileLimits, parse, part10
from thinwire.shared.imaging.radiograph import open_radiograph, require_bounded
from thinwire.shared.storage.durable import Disk

LIMITS = FileLimits(file_bytes=1 << 20, pixels=1 << 16, shortest_side=4, elements=2000, sequence_bytes=1 << 16)
"""Small, so that small files reach what stands behind a limit."""
SIDES = 12, 10
_SYNTAXES = (IMPLICIT, EXPLICIT, BIG, DEFLATED, RLE, *sorted(ENCODERS))


def _file(syntax: str, **more: Any) -> bytes:
    bits = 8 if syntax in EIGHT_BITS_ONLY else 12
    facts: dict[str, Any] = {
        "BitsStored": bits,
        "PixelPaddingValue": 0,
        "WindowCenter": "2000",
        "WindowWidth": "3000",
        "RescaleSlope": "1",
        "RescaleIntercept": "0",
        "ImagerPixelSpacing": ["0.1", "0.1"],
        "PatientOrientation": ["L", "F"],
        "AdditionalPatientHistory": "cough",
        "StudyDate": "20260304",
        "PatientBirthDate": "19600203",
        "PatientAge": "066Y",
    }
    return dicom(chest(*SIDES, bits), syntax, **{**facts, **more})


def _item(**values: object) -> Dataset:
    found = Dataset()
    for keyword, value in values.items():
        setattr(found, keyword, value)
    return found


def _headers() -> list[bytes]:
    """Implicit, explicit and big endian, without preamble, with sequences, with a lookup table, and a report."""
    code = _item(CodeValue="399061007", CodingSchemeDesignator="SCT", CodeMeaning="postero-anterior")
    table = _item(LUTDescriptor=[64, 0, 12], LUTData=bytes(128))
    section = _item(
        ValueType="TEXT",
        TextValue="No effusion.",
        ConceptNameCodeSequence=[_item(CodeValue="121071", CodingSchemeDesignator="DCM", CodeMeaning="Finding")],
    )
    report = dataset(
        BASIC_TEXT_SR, Modality="SR", ContentSequence=[_item(ValueType="CONTAINER", ContentSequence=[section])]
    )
    return [
        *(_file(syntax) for syntax in (IMPLICIT, EXPLICIT, BIG, DEFLATED)),
        _file(EXPLICIT, ViewCodeSequence=[code], ReasonForVisitCodeSequence=[code], SpecificCharacterSet="ISO_IR 192"),
        _file(EXPLICIT, VOILUTSequence=[table], PhotometricInterpretation="MONOCHROME1"),
        _file(EXPLICIT)[132:],
        as_file(report),
    ]


def _header(data: bytes) -> None:
    instance = read_instance(data, LIMITS)
    header = instance.header
    text_of_study([header])
    patients_differ([header, header])
    geometry.spacing(header)
    stated, _ = geometry.orientation(header)
    geometry.sides(stated)
    projection.view(header)
    projection.part(header)
    projection.doubts(header)
    projection.scanned(header)


def _copied(data: bytes) -> None:
    """What new objects take over from a header must be what a file can hold."""
    made = dataset_of(fields_of(parse(data, LIMITS)))
    made.setdefault("SOPClassUID", "1.2.840.10008.5.1.4.1.1.7")
    made.setdefault("SOPInstanceUID", "1.2.3")
    as_file(made)


def _pixels(data: bytes) -> None:
    instance = read_instance(data, LIMITS)
    for read in (radiograph, image):
        try:
            found = read(instance, LIMITS)
        except ThinwireError:
            continue
        # The promises on which encoder, crops and reading room rely.
        if found.pixels.dtype != np.float32 or not 0.0 <= found.pixels.min() <= found.pixels.max() <= 1.0:
            raise AssertionError("pixels outside 0 to 1")
        if not np.array_equal(found.tone[found.samples], found.shown):
            raise AssertionError("the crops would show other greys than the preview")


def _codestreams() -> list[bytes]:
    """By one byte the transfer syntax, by another the shape, and the frame."""
    found = []
    for number, syntax in enumerate(_SYNTAXES):
        whole = _file(syntax)
        at = whole.rindex(b"\xe0\x7f\x10\x00") if syntax not in (DEFLATED, BIG) else len(whole)
        found.append(bytes([number, syntax not in EIGHT_BITS_ONLY]) + whole[at + 12 :])
    return found


def _codestream(data: bytes) -> None:
    if len(data) < 2:
        return
    facts = data[1]
    rows, columns = (11, 13) if facts & 64 else SIDES
    shape = FrameShape(
        rows, columns, 3 if facts & 2 else 1, 16 if facts & 1 else 8, bool(facts & 4), bool(facts & 8), bool(facts & 16)
    )
    codestream.decode(data[2:], _SYNTAXES[data[0] % len(_SYNTAXES)], shape, bool(facts & 32) and not facts & 1)


def _pictures() -> list[bytes]:
    found, exif = [], Image.Exif()
    exif[0x0112] = 6  # Orientation
    for media, options in (("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True})):
        out = BytesIO()
        Image.fromarray(chest(*SIDES, 8)).save(out, media, exif=exif, **options)
        found.append(out.getvalue())
    return found


def _picture(data: bytes) -> None:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        data = data[:8] + _checked(data[8:])
    open_radiograph(data, LIMITS)


def _checked(data: bytes) -> bytes:
    """The chunks of a PNG with the checksums that their bytes have."""
    out, at = b"", 0
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">L", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            break
        out += data[at:end] + struct.pack(">L", zlib.crc32(data[at + 4 : end]))
        at = end + 4
    return out + data[at:]


def _charset(data: bytes) -> None:
    terms, _, text = data.partition(b"\n")
    encodings_of(terms.decode("latin-1").split("\\"), text.split(b"\0"))


_vocabulary = cache(load_vocabulary)


def _text(data: bytes) -> None:
    vocabulary: Vocabulary = _vocabulary()
    text = decode_text(data)
    for source in (TextSource.REPORT, TextSource.INDICATION):
        extract(text, vocabulary, source)


@cache
def _deidentifier() -> Deidentifier:
    return Deidentifier(bytes(range(32)), Options(), Path(tempfile.mkdtemp(prefix="thinwire-fuzz-")), Disk())


def _deidentified(data: bytes) -> None:
    made = _deidentifier().file(data, LIMITS)
    if made is not None and b"PRIVATE" in made:
        raise AssertionError("a private attribute crosses")


@cache
def _medium() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="thinwire-fuzz-"))
    (folder / "IMAGES").mkdir()
    (folder / "IMAGES" / "A1").write_bytes(_file(EXPLICIT))
    return folder


def _directories() -> list[bytes]:
    record = _item(DirectoryRecordType="IMAGE", ReferencedFileID=["IMAGES", "A1"])
    found = dataset("1.2.840.10008.1.3.10", STUDY_UID, DirectoryRecordSequence=[record], Modality=None)
    return [as_file(found)]


def _directory(data: bytes) -> None:
    path = _medium() / "DICOMDIR"
    path.write_bytes(data)
    for each in find_studies([path], LIMITS):
        if isinstance(each, Failed):
            raise each.error


TARGETS = {
    "dicom_header": Target(
        both(_header, lambda b: parse(b, LIMITS), lambda b: part10(b, LIMITS)),
        _headers,
        weight=0.5,
    ),
    "dicom_copied": Target(_copied, _headers, weight=0.3),
    "dicom_object": Target(
        both(dicom_object, lambda b: same_object(b, _file(EXPLICIT)), lambda b: same_object(_file(EXPLICIT), b)),
        _headers,
        weight=0.2,
    ),
    "dicom_pixels": Target(_pixels, lambda: [_file(each) for each in _SYNTAXES] + _headers(), weight=0.4),
    "dicom_bounds": Target(lambda b: require_bounded(b, LIMITS), lambda: _headers() + _pictures(), weight=0.5),
    "dicom_study": Target(
        both(lambda b: choose([b, _file(EXPLICIT)], LIMITS), lambda b: load_study([b], limits=LIMITS)),
        _headers,
        weight=0.2,
    ),
    "dicom_directory": Target(_directory, _directories, weight=0.3),
    "codestream": Target(_codestream, _codestreams, weight=1),
    "picture": Target(_picture, _pictures, weight=0.5),
    "charset": Target(
        _charset,
        lambda: [
            b"ISO_IR 100\nM\xfcller\0",
            b"ISO 2022 IR 6\\ISO 2022 IR 87\n\x1b$B;3ED\x1b(B",
            "ISO_IR 192\nДа\0山".encode(),
        ],
        longest=512,
        weight=3,
    ),
    "text": Target(
        _text,
        lambda: [
            b"FINDINGS: Small left pleural effusion. No pneumothorax.\nIMPRESSION: Possible pneumonia.",
            "\ufeffCough, fever; rule out tuberculosis.".encode("utf-16"),
        ],
        longest=1024,
        weight=0.5,
    ),
    "deidentified": Target(_deidentified, _headers, weight=0.3),
}
