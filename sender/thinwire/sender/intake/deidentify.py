"""De-identification before anything leaves the clinic: PS3.15 Annex E, Basic Application Confidentiality Profile.

A released file is made anew: its attributes by the closed grammars of `attributes`, its image from the stored values
by `samples`, its identifiers here. Nothing of the original's bytes is copied. A list of the attributes to keep is
shorter than the table of those to remove (E.1-1), and also covers attributes that the standard adds later. Options and
reasons: docs/deidentification.md. The same file, key and policy give the same bytes, so that a repeated file is
recognised.
"""

import base64
import hmac
import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from io import BytesIO
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.uid import UID

from thinwire.sender.intake.attributes import (
    CHARACTERISTICS,
    DESCRIPTION,
    code,
    is_uid,
    region_codes,
    shifted_date,
    time,
    view_codes,
)
from thinwire.sender.intake.burned_in import has_text
from thinwire.sender.intake.samples import Blanking, rewritten
from thinwire.sender.intake.study import LARGEST_SOURCE, Study, load_study
from thinwire.shared.errors import BadConfiguration, BadInput, NotChestRadiograph, ThinwireError, UnreadableDicom, told
from thinwire.shared.formats.manifest import IDENTITY_KEYWORDS
from thinwire.shared.formats.originals import Member, pack, unpack
from thinwire.shared.identifiers import StudyKey, digest
from thinwire.shared.imaging.dicom import DEFAULT_LIMITS, as_warnings, read_instance
from thinwire.shared.imaging.file_format import EXPLICIT_LITTLE
from thinwire.shared.imaging.frontal import candidate, rank
from thinwire.shared.imaging.header import DicomHeader, FileLimits, parsing
from thinwire.shared.imaging.projection import RADIOGRAPHIC
from thinwire.shared.storage.durable import Disk

log = logging.getLogger(__name__)

KEY_BYTES = 32
IDENTIFIED = "originals"
"""The folder below DATA of de-identified studies as they came."""
SOFTWARE_UID = "2.25.31879865967246401632800815167214150152"
"""Implementation Class UID (0002,0012) of files that are written here."""
_MOST_DAYS = 1826
_TEXT = "text seems to be burned into the image; de-identification does not remove it: check the image"
_NOT_LOOKED = "no detector looked for text in the image, because it is not installed: check the image"
STAY = "files are no radiographs, or cannot be written without identity, and stay at the clinic"


class Identity(StrEnum):
    """Where the patient's identity goes. Glossary: docs/glossary.md."""

    FULL = "full"
    """The files cross as they came, and the manifest names the patient."""
    SEALED = "sealed"
    """The files are de-identified; the sealed manifest alone names the patient."""
    NONE = "none"
    """The files are de-identified, and the manifest has their pseudonyms."""


MEANINGS = {
    Identity.FULL: "files cross as they came, and the manifest names the patient; both sealed for the hub",
    Identity.SEALED: "files are de-identified; the sealed manifest alone names the patient",
    Identity.NONE: "files are de-identified, and nothing that crosses names the patient",
}
"""As the page and `status` show them."""


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
    blank: tuple[Blanking, ...] = ()
    """Regions whose pixels are blanked."""
    identity: Identity = Identity.NONE
    """SEALED or NONE."""


_NAMED = Member("sealed.txt", b"the manifest names the patient\n")
"""In the archive of the original: the study keeps the word under which it was accepted."""
_UIDS = "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"
_DATES = "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate", "AcquisitionDateTime"
_TIMES = "StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime"
_EMPTY = (
    *("StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyID", "Manufacturer"),
    *("PatientBirthDate", "PatientSex"),
)
"""Type 2: present in every radiograph, if only empty."""


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


def archive_of(identified: Path, study: StudyKey) -> Path:
    """The file of a de-identified study as it came. identified: DATA/originals."""
    return identified / f"{study.hex()}.archive"


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
        radiographs stay too, image files without a DICOM header, and files of which no image can be written anew.
        Raises NotChestRadiograph for a study of these only, UnreadableDicom, DiskFull.
        """
        images = [each for each in study.files if each.media == "dicom"]
        chosen = study.files[study.read]
        notes = list(study.warnings)
        read = self.file(chosen.data, notes=notes) if chosen.media == "dicom" else None
        if read is None:
            raise NotChestRadiograph(
                "it holds no frontal radiograph in DICOM, and this clinic sends only de-identified studies",
                'Give DICOM files, or set identity = "full".',
            )
        came = {data: each.data for each in images if each is not chosen and (data := self._other(each.data))}
        made, stayed = load_study([read, *came]), len(study.files) - 1 - len(came)
        now = made.files[made.read].data
        if now != read and rank(candidate(came[now])) == rank(candidate(chosen.data)):
            notes += made.warnings  # of two such images the digest chooses
        elif now != read:  # without the descriptions
            made, stayed = load_study([read]), len(study.files) - 1
        if stayed:
            notes.append(f"{stayed} of {len(study.files)} {STAY}")
        if made.frontal.burned_in == "YES":
            notes.append("text is burned into the image by its header; de-identification does not remove it")
        elif (seen := has_text(made.frontal.shown)) is not False:
            notes.append(_TEXT if seen else _NOT_LOOKED)
        members = [Member(f"{n:04}.dcm", file.data) for n, file in enumerate(images)]
        if self.options.identity is Identity.SEALED:
            members.append(_NAMED)
        self.disk.make_folder(self.identified)
        self.disk.write(self._archive(made.key), pack(members, "fast"), "original")
        return replace(
            made, text=study.text, text_source=study.text_source, text_stays=True, warnings=as_warnings(notes)
        )

    def identity(self, released: Study) -> dict[str, str]:
        """The identity in a study's manifest, by DICOM keyword: pseudonyms, or if it was accepted as SEALED that of the
        file as it came, with the released Study Instance UID, under which the hub stores the files."""
        chosen, sealed = released.files[released.read], self.options.identity is Identity.SEALED
        if chosen.media != "dicom" or read_instance(chosen.data).header.code("PatientIdentityRemoved") != "YES":
            return released.identity if sealed else {}  # accepted as FULL, before the setting was changed
        if not sealed:
            return released.identity
        try:
            members = unpack(self._archive(released.key).read_bytes(), LARGEST_SOURCE)
            if _NAMED.name not in [each.name for each in members]:
                return released.identity
            for each in members[:-1]:
                header = read_instance(each.data).header
                if self._identifier(header, "SOPInstanceUID", each.data) == released.sop_instance_uid:
                    found = {word: value for word in IDENTITY_KEYWORDS if (value := header.text(word))}
                    return {**found, "StudyInstanceUID": released.identity["StudyInstanceUID"]}
        except (ThinwireError, OSError) as error:
            log.error("the original of study %s cannot be read: %s", released.key.hex(), told(error))
        log.warning("study %s goes under its pseudonym: its original is not found", released.key.hex())
        return released.identity

    def file(self, data: bytes, limits: FileLimits = DEFAULT_LIMITS, notes: list[str] | None = None) -> bytes | None:
        """One file de-identified; None for an object that is not a radiograph. notes: receives the warnings.

        Raises UnreadableDicom, NotChestRadiograph for no single image.
        """
        instance = read_instance(data, limits)
        header = instance.header
        if instance.modality not in RADIOGRAPHIC or not header.has_pixels:
            return None
        rules = [each for each in self.options.blank if each.applies(header)]
        rectangles = [rectangle for each in rules for rectangle in each.rectangles]
        found, warnings = rewritten(instance, rectangles, limits)
        if notes is not None:
            notes += warnings
            if rectangles:
                notes.append(f"{len(rectangles)} regions of the image are blanked by the clinic's settings")
        with parsing("its header cannot be written without identity"):  # without its values in warnings
            self._describe(found, header, data)
            return _written(found)

    def uid(self, uid: str) -> str:
        """The replacement of a UID, the same for each of its occurrences (PS3.5 B.2)."""
        if self.options.uids is Uids.KEEP and is_uid(uid):
            return uid
        return f"2.25.{uuid.UUID(bytes=self._digest('uid', uid)[:16], version=4).int}"

    def _other(self, data: bytes) -> bytes | None:
        """A file beside the frontal image; None if it stays at the clinic."""
        try:
            return self.file(data)
        except BadInput:
            return None

    def _archive(self, study: StudyKey) -> Path:
        return archive_of(self.identified, study)

    def _identifier(self, header: DicomHeader, keyword: str, data: bytes) -> str:
        """A UID's replacement; of an absent one, by the file."""
        return self.uid(header.text(keyword) or f"{keyword} of {digest(data).hex()}")

    def _describe(self, found: Dataset, header: DicomHeader, data: bytes) -> None:
        """The attributes beside those of the image."""
        for keyword in _EMPTY:
            setattr(found, keyword, "")
        for keyword, law in {**DESCRIPTION, **(CHARACTERISTICS if self.options.characteristics else {})}.items():
            if (value := law(header, keyword)) is not None:
                setattr(found, keyword, value)
        if "SOPClassUID" not in found:
            raise UnreadableDicom("its SOP class is none of the standard, so it cannot be sent de-identified")
        for keyword in _UIDS:
            setattr(found, keyword, self._identifier(header, keyword, data))
        patient = self._patient(header, data)
        found.PatientName = found.PatientID = "TW" + base64.b32encode(self._digest("patient", patient)[:10]).decode()
        if self.options.dates is Dates.SHIFT:
            days = 1 + int.from_bytes(self._digest("dates", patient)[:8], "big") % _MOST_DAYS
            shifted = {keyword: shifted_date(header.text(keyword), days) for keyword in _DATES}
            for keyword, value in {**shifted, **{keyword: time(header.text(keyword)) for keyword in _TIMES}}.items():
                if value:
                    setattr(found, keyword, value)
        for keyword, codes in (("AnatomicRegionSequence", region_codes), ("ViewCodeSequence", view_codes)):
            if items := codes(header):
                setattr(found, keyword, items)
        found.PatientIdentityRemoved = "YES"
        found.DeidentificationMethod = "thinwire, PS3.15 Basic Application Confidentiality Profile"
        found.DeidentificationMethodCodeSequence = self._methods()
        found.LongitudinalTemporalInformationModified = "MODIFIED" if self.options.dates is Dates.SHIFT else "REMOVED"

    def _patient(self, header: DicomHeader, data: bytes) -> str:
        """The key of a patient; a study without Patient ID is a separate patient."""
        own = header.text("PatientID")
        if own:
            return f"{header.text('IssuerOfPatientID')}\n{own}"
        return f"study\n{header.text('StudyInstanceUID') or digest(data).hex()}"

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
        return [code(value, "DCM", meaning) for value, meaning in codes]


def _written(dataset: Dataset) -> bytes:
    """A data set as a file (PS3.10 7.1), without the attributes of the software that wrote the original."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = UID(EXPLICIT_LITTLE)
    meta.ImplementationClassUID = UID(SOFTWARE_UID)
    meta.FileMetaInformationVersion = b"\0\1"
    out, body = BytesIO(), DicomBytesIO()
    body.is_implicit_VR, body.is_little_endian = False, True
    write_dataset(body, dataset)
    out.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(out, meta)
    return out.getvalue() + bytes(body.getvalue())
