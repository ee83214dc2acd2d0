"""De-identification before anything leaves the clinic: PS3.15 Annex E, Basic Application Confidentiality Profile.

Attributes outside `ACTIONS` are removed, with private attributes, overlays and text. A list of the attributes to keep
is shorter than the table of those to remove (E.1-1), and also covers attributes that the standard adds later. Options
and reasons: docs/deidentification.md. The same file, key and policy give the same bytes, so that a repeated file is
recognised.
"""

import base64
import hmac
import uuid
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum, StrEnum, unique
from io import BytesIO
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.sequence import Sequence as DicomSequence

from thinwire.sender.intake.burned_in import has_text
from thinwire.sender.intake.study import SourceFile, Study
from thinwire.shared.errors import BadConfiguration, NotChestRadiograph
from thinwire.shared.formats.manifest import IDENTITY_KEYWORDS
from thinwire.shared.formats.originals import Member, pack
from thinwire.shared.identifiers import digest, study_key
from thinwire.shared.imaging.dicom import DEFAULT_LIMITS, read_instance
from thinwire.shared.imaging.file_format import DEFLATED, EXPLICIT_BIG, IMPLICIT_LITTLE
from thinwire.shared.imaging.header import DicomHeader, FileLimits, parsing
from thinwire.shared.imaging.projection import RADIOGRAPHIC, BodyPart, Projection, part, view
from thinwire.shared.storage.durable import Disk

KEY_BYTES = 32
SOFTWARE_UID = "2.25.31879865967246401632800815167214150152"
"""Implementation Class UID (0002,0012) of files that are written here."""
_MOST_DAYS = 1826
_OLDEST = 89
"""Years: a higher age is replaced by 90 (45 CFR 164.514)."""


@unique
class Action(Enum):
    KEEP = "keep"
    UID = "replace by a keyed digest"
    DATE = "shift or empty"
    TIME = "keep with the dates or empty"
    EMPTY = "empty"  # type 2: has to be there
    PATIENT = "replace by a pseudonym"
    CHARACTERISTIC = "keep what describes the patient or empty"
    ITEMS = "keep the items, cleaned in the same way"
    CODES = "keep items of public coding schemes"


class Dates(StrEnum):
    SHIFT = "shift"
    """Shifted by a number of days of the patient: intervals between studies stay correct."""
    REMOVE = "remove"


class Uids(StrEnum):
    MAP = "map"
    KEEP = "keep"


@dataclass(frozen=True)
class Options:
    """Options of the profile (PS3.15 E.3)."""

    dates: Dates = Dates.SHIFT
    uids: Uids = Uids.MAP
    characteristics: bool = True
    """Sex, age, size and weight are kept."""


def _actions(action: Action, words: str) -> dict[str, Action]:
    return dict.fromkeys(words.split(), action)


ACTIONS: dict[str, Action] = {
    **_actions(Action.UID, "SOPInstanceUID StudyInstanceUID SeriesInstanceUID"),
    **_actions(Action.DATE, "StudyDate SeriesDate AcquisitionDate ContentDate AcquisitionDateTime"),
    **_actions(Action.TIME, "StudyTime SeriesTime AcquisitionTime ContentTime"),
    **_actions(Action.EMPTY, "AccessionNumber ReferringPhysicianName PatientBirthDate StudyID"),
    **_actions(Action.PATIENT, "PatientName PatientID"),
    **_actions(Action.CHARACTERISTIC, "PatientSex PatientAge PatientSize PatientWeight"),
    **_actions(Action.CODES, "AnatomicRegionSequence ViewCodeSequence"),
    **_actions(Action.ITEMS, "VOILUTSequence ModalityLUTSequence"),
    # The kind of object.
    **_actions(Action.KEEP, "SOPClassUID ImageType Modality ConversionType PresentationIntentType Manufacturer"),
    **_actions(Action.KEEP, "ManufacturerModelName SeriesNumber InstanceNumber AcquisitionNumber"),
    # The exposure.
    **_actions(Action.KEEP, "BodyPartExamined ViewPosition PatientOrientation Laterality ImageLaterality KVP"),
    **_actions(Action.KEEP, "ExposureTime ExposureTimeInuS XRayTubeCurrent XRayTubeCurrentInuA Exposure ExposureInuAs"),
    **_actions(Action.KEEP, "DistanceSourceToDetector DistanceSourceToPatient Grid FilterType FocalSpots Sensitivity"),
    **_actions(Action.KEEP, "EstimatedRadiographicMagnificationFactor DetectorType DetectorConfiguration"),
    **_actions(Action.KEEP, "RelativeXRayExposure ExposureIndex TargetExposureIndex DeviationIndex"),
    **_actions(Action.KEEP, "FieldOfViewShape FieldOfViewDimensions FieldOfViewRotation FieldOfViewHorizontalFlip"),
    # The interpretation of the pixels.
    **_actions(
        Action.KEEP, "SamplesPerPixel PhotometricInterpretation PlanarConfiguration NumberOfFrames Rows Columns"
    ),
    **_actions(Action.KEEP, "BitsAllocated BitsStored HighBit PixelRepresentation PixelAspectRatio PixelData"),
    **_actions(Action.KEEP, "SmallestImagePixelValue LargestImagePixelValue PixelPaddingValue PixelPaddingRangeLimit"),
    **_actions(Action.KEEP, "PixelSpacing PixelSpacingCalibrationType ImagerPixelSpacing NominalScannedPixelSpacing"),
    **_actions(Action.KEEP, "PixelIntensityRelationship PixelIntensityRelationshipSign RescaleIntercept RescaleSlope"),
    **_actions(Action.KEEP, "RescaleType WindowCenter WindowWidth VOILUTFunction PresentationLUTShape"),
    **_actions(Action.KEEP, "LUTDescriptor LUTData ModalityLUTType BurnedInAnnotation LossyImageCompression"),
    **_actions(Action.KEEP, "LossyImageCompressionRatio LossyImageCompressionMethod QualityControlImage"),
}
"""By keyword; anything else is removed."""

_VIEW_POSITIONS = {
    Projection.PA: "PA",
    Projection.AP: "AP",
    Projection.FRONTAL: "FRONTAL",
    Projection.OTHER: "LAT OR OBL",
}
_PUBLIC_CODES = frozenset(("SCT", "SRT", "SNM3", "DCM"))
_CODE_WORDS = ("CodeValue", "CodingSchemeDesignator", "CodingSchemeVersion", "CodeMeaning")


def load_key(folder: Path, disk: Disk, random_bytes: Callable[[int], bytes]) -> bytes:
    """The clinic's secret for UIDs, pseudonyms and dates, made at the first use: without it they cannot be linked to
    patients. folder: DATA/keys. Raises BadConfiguration for a damaged file."""
    path = folder / "deidentify.key"
    if not path.exists():
        disk.make_folder(folder)
        disk.write(path, random_bytes(KEY_BYTES), "deidentify.key")
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise BadConfiguration("keys/deidentify.key is damaged", "Restore keys/ from a backup.")
    return key


@dataclass(frozen=True)
class Deidentifier:
    """key: the clinic's secret. identified: DATA/originals, where studies stay as they came, identity included."""

    key: bytes = field(repr=False)
    options: Options
    identified: Path
    disk: Disk

    def released(self, study: Study) -> Study:
        """The de-identified study, with another study key; the identified study is durable when this returns.

        The text stays at the clinic: it guides the graph, which holds no text. Reports and other objects that are not
        radiographs stay too, and image files without a DICOM header. Raises NotChestRadiograph for a study of these
        only, UnreadableDicom, DiskFull.
        """
        images = [each for each in study.files if each.media == "dicom"]
        by_original = {each.digest: data for each in images if (data := self.file(each.data)) is not None}
        cleaned, read = list(by_original.values()), by_original.get(study.files[study.read].digest)
        if read is None:
            raise NotChestRadiograph(
                "it holds no frontal radiograph in DICOM, and this clinic sends only de-identified studies",
                "Give DICOM files, or send without the policy [deidentify].",
            )
        files = tuple(
            sorted((SourceFile(each, digest(each), "dicom") for each in cleaned), key=lambda file: file.digest)
        )
        new = study_key(file.digest for file in files)
        members = [Member(f"{n:04}.dcm", file.data) for n, file in enumerate(images)]
        self.disk.make_folder(self.identified)
        self.disk.write(self.identified / f"{new.hex()}.archive", pack(members, "fast"), "original")
        header = read_instance(read).header
        identity = {word: value for word in IDENTITY_KEYWORDS if (value := header.text(word))}
        stayed = len(study.files) - len(cleaned)
        notes = [f"{stayed} of {len(study.files)} files are not radiographs and stay at the clinic"] if stayed else []
        if study.frontal.burned_in == "YES":
            notes.append("text is burned into the image by its header; de-identification does not remove it")
        elif has_text(study.frontal.shown):
            notes.append(
                "text seems to be burned into the image; de-identification does not remove it: check the image"
            )
        return replace(
            study,
            key=new,
            files=files,
            read=[file.data for file in files].index(read),
            sop_instance_uid=header.text("SOPInstanceUID"),
            identity=identity,
            text_stays=True,
            warnings=(*study.warnings, *notes),
        )

    def file(self, data: bytes, limits: FileLimits = DEFAULT_LIMITS) -> bytes | None:
        """One file de-identified, its pixel data unchanged byte for byte; None for an object that is not a radiograph.

        Raises UnreadableDicom.
        """
        instance = read_instance(data, limits)
        header = instance.header
        if instance.modality not in RADIOGRAPHIC or not header.has_pixels:
            return None
        with parsing("its header cannot be read as a whole"):  # without its values in warnings
            found = self._cleaned(header, self._patient(header))
        # View and body part may be in attributes that are removed.
        if not header.text("ViewPosition") and (seen := view(header)) is not Projection.UNSTATED:
            found.ViewPosition = _VIEW_POSITIONS[seen]
        if not header.text("BodyPartExamined") and part(header) is BodyPart.CHEST:
            found.BodyPartExamined = "CHEST"
        found.PatientIdentityRemoved = "YES"
        found.DeidentificationMethod = "thinwire, PS3.15 Basic Application Confidentiality Profile"
        found.DeidentificationMethodCodeSequence = DicomSequence(self._methods())
        found.LongitudinalTemporalInformationModified = "MODIFIED" if self.options.dates is Dates.SHIFT else "REMOVED"
        return _written(found, instance.transfer_syntax)

    def uid(self, uid: str) -> str:
        """The replacement of a UID, the same for each of its occurrences (PS3.5 B.2)."""
        if self.options.uids is Uids.KEEP:
            return uid
        return f"2.25.{uuid.UUID(bytes=self._digest('uid', uid)[:16], version=4).int}"

    def _patient(self, header: DicomHeader) -> str:
        """The key of a patient; a study without Patient ID is a separate patient."""
        own = header.text("PatientID")
        return f"{header.text('IssuerOfPatientID')}\n{own}" if own else f"study\n{header.text('StudyInstanceUID')}"

    def _cleaned(self, header: DicomHeader, patient: str) -> Dataset:
        found = Dataset()
        for keyword, action in ACTIONS.items():
            element = header.element(keyword)
            if element is not None:
                value = self._value(header, keyword, action, patient)
                if value is not None:
                    found.add(pydicom.DataElement(element.tag, element.VR, value))
                    found[element.tag].is_undefined_length = element.is_undefined_length
        return found

    def _value(self, header: DicomHeader, keyword: str, action: Action, patient: str) -> object:
        """The replacement of an attribute's value; None to remove it."""
        retained = self.options.dates is Dates.SHIFT
        match action:
            case Action.KEEP:
                element = header.element(keyword)
                return None if element is None else element.value
            case Action.UID:
                return self.uid(header.text(keyword))
            case Action.DATE:
                return self._shifted(header.text(keyword), patient) if retained else ""
            case Action.TIME:
                return header.text(keyword) if retained else ""
            case Action.EMPTY:
                return ""
            case Action.PATIENT:
                return "TW" + base64.b32encode(self._digest("patient", patient)[:10]).decode()
            case Action.CHARACTERISTIC:
                return _characteristic(keyword, header.text(keyword)) if self.options.characteristics else ""
            case Action.ITEMS:
                return DicomSequence([self._cleaned(item, patient) for item in header.items(keyword)])
            case Action.CODES:
                return DicomSequence([code for item in header.items(keyword) if (code := _code(item)) is not None])

    def _shifted(self, text: str, patient: str) -> str:
        """A date, or a date and time, shifted by some days to the past; empty for any other text."""
        days = 1 + int.from_bytes(self._digest("dates", patient)[:8], "big") % _MOST_DAYS
        try:
            date = datetime.strptime(text[:8], "%Y%m%d") - timedelta(days=days)  # noqa: DTZ007 - a date alone
        except (ValueError, OverflowError):
            return ""
        return f"{date:%Y%m%d}{text[8:]}"

    def _digest(self, what: str, value: str) -> bytes:
        return hmac.digest(self.key, f"{what}\n{value}".encode(errors="replace"), "sha256")

    def _methods(self) -> list[Dataset]:
        """CID 7050."""
        codes = [("113100", "Basic Application Confidentiality Profile"), ("113105", "Clean Descriptors Option")]
        if self.options.dates is Dates.SHIFT:
            codes.append(("113107", "Retain Longitudinal Temporal Information Modified Dates Option"))
        if self.options.characteristics:
            codes.append(("113108", "Retain Patient Characteristics Option"))
        if self.options.uids is Uids.KEEP:
            codes.append(("113110", "Retain UIDs Option"))
        found = []
        for value, meaning in codes:
            item = Dataset()
            item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
            found.append(item)
        return found


def _characteristic(keyword: str, text: str) -> str:
    """Sex, age, size or weight; an age over 89 years as 90."""
    years = text.rstrip("Y") if keyword == "PatientAge" else ""
    return "090Y" if years.isdigit() and int(years) > _OLDEST else text


def _code(item: DicomHeader) -> Dataset | None:
    """A code of a public coding scheme; None for a local scheme, whose meaning is free text."""
    if item.text("CodingSchemeDesignator") not in _PUBLIC_CODES:
        return None
    found = Dataset()
    for word in _CODE_WORDS:
        if text := item.text(word):
            setattr(found, word, text)
    return found


def _written(dataset: Dataset, syntax: str) -> bytes:
    """A data set as a file (PS3.10 7.1), without the attributes of the software that wrote the original."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    meta.ImplementationClassUID = SOFTWARE_UID
    meta.FileMetaInformationVersion = b"\0\1"
    out, body = BytesIO(), DicomBytesIO()
    body.is_implicit_VR, body.is_little_endian = syntax == IMPLICIT_LITTLE, syntax != EXPLICIT_BIG
    with parsing("its header cannot be written without identity"):
        write_dataset(body, dataset)
        out.write(b"\0" * 128 + b"DICM")
        write_file_meta_info(out, meta)
    plain = bytes(body.getvalue())
    if syntax == DEFLATED:
        squeeze = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        plain = squeeze.compress(plain) + squeeze.flush()
        plain += b"\0" * (len(plain) % 2)
    return out.getvalue() + plain
