"""Further files of a study that was accepted before: a view that comes late, or a file with a corrected header.

They travel as an addition to their study: their files and manifest, without a graph of their own.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from thinwire.sender.intake.patients import patients_differ
from thinwire.sender.intake.study import SourceFile, doubts_of_files, identity_of, source_files
from thinwire.shared.errors import UnreadableDicom
from thinwire.shared.formats.originals import Member
from thinwire.shared.identifiers import DIGEST_BYTES, STUDY_KEY_BYTES, Digest, StudyKey, study_key
from thinwire.shared.imaging.dicom import as_warnings
from thinwire.shared.imaging.frontal import Candidate, candidate
from thinwire.shared.imaging.header import DicomHeader

NOTE = "addition.json"
"""The member of the archive that names the study of these files."""

_COMPARED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyDate", "StudyTime"),
    *("StudyDescription", "ReferringPhysicianName", "BodyPartExamined", "ViewPosition", "Laterality"),
    *("ImageLaterality", "PatientOrientation", "StudyInstanceUID", "SeriesInstanceUID"),
)
"""The attributes of a header that people correct, with the identity."""


@dataclass(frozen=True)
class Addition:
    """Files of a study that was accepted before."""

    key: StudyKey
    """Of these files alone."""
    files: tuple[SourceFile, ...]
    """Ascending by digest, none twice."""
    adds_to: StudyKey
    corrects: Mapping[Digest, Digest]
    """By the digest of an earlier file of the study: the file here with the same SOP Instance UID."""
    identity: dict[str, str] = field(repr=False)
    """As `Study.identity`."""
    warnings: tuple[str, ...]

    @property
    def note(self) -> Member:
        """The archive's member that names the study."""
        corrects = {old.hex(): new.hex() for old, new in sorted(self.corrects.items())}
        return Member(NOTE, json.dumps({"study": self.adds_to.hex(), "corrects": corrects}).encode())


def addition_of(
    read: Sequence[Candidate], adds_to: StudyKey, corrects: Mapping[Digest, Digest], notes: Sequence[str] = ()
) -> Addition:
    """read: the files. notes: further warnings."""
    headers = [each.instance.header for each in read if each.instance is not None]
    notes = [*notes, *doubts_of_files(headers), *(note for each in headers for note in each.notes)]
    if differing := patients_differ(headers):
        notes.append(f"the added files name different patients (by {' and '.join(differing)})")
    files = source_files(read)
    first = next((each for each in read if each.instance is not None), read[0])
    return Addition(
        study_key(file.digest for file in files), files, adds_to, corrects, identity_of(first), as_warnings(notes)
    )


def opened_addition(members: Sequence[Member], note: Member) -> Addition:
    """The addition in its archive. Raises UnreadableDicom."""
    adds_to, corrects = read_note(note.data)
    return addition_of([candidate(each.data) for each in members], adds_to, corrects)


def read_note(data: bytes) -> tuple[StudyKey, dict[Digest, Digest]]:
    """The study and the corrected files in a note. Raises UnreadableDicom."""
    try:
        found = json.loads(data)
        corrects = {bytes.fromhex(old): bytes.fromhex(new) for old, new in found["corrects"].items()}
        adds_to = bytes.fromhex(found["study"])
        if len(adds_to) != STUDY_KEY_BYTES or {*map(len, corrects), *map(len, corrects.values())} - {DIGEST_BYTES}:
            raise ValueError
    except (ValueError, LookupError, TypeError, AttributeError):
        raise UnreadableDicom("an archive does not name the study of its files") from None
    return StudyKey(adds_to), {Digest(old): Digest(new) for old, new in corrects.items()}


def headers_differ(before: DicomHeader, now: DicomHeader) -> list[str]:
    """The keywords of the attributes that people correct in which two headers of one image differ."""
    return [keyword for keyword in _COMPARED if before.text(keyword) != now.text(keyword)]
