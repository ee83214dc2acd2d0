"""The files of a study in its originals archive."""

import re

from thinwire.shared.errors import BadArchive, BadInput, OverLimits
from thinwire.shared.formats.originals import Member, each_member, unpack
from thinwire.shared.identifiers import Digest, StudyKey, digest, study_key
from thinwire.shared.imaging.radiograph import require_bounded

_OWN_FILE = re.compile(r"[0-9]{4}\.[a-z0-9]+")
"""Names of the study's files in its archive; the text beside them is not part of the study key."""


def study_files(archive: bytes, study: StudyKey, max_bytes: int) -> list[Member]:
    """The study's files from its originals archive, byte for byte. Raises BadArchive.

    max_bytes: limit of the unpacked archive. The study key is computed from the files' digests, so an archive of other
    files is refused.
    """
    members = [each for each in unpack(archive, max_bytes) if _OWN_FILE.fullmatch(each.name)]
    _require(study, [digest(each.data) for each in members])
    return members


def examined(archive: bytes, study: StudyKey, max_bytes: int) -> list[tuple[Digest, int]]:
    """Digest and bytes of each of the study's files, each within the limits of one file; one is in memory at a time.

    Raises BadArchive. A file that cannot be read is stored as it is: it takes no more memory than it has bytes.
    """
    entries = []
    for number, member in enumerate(each_member(archive, max_bytes), 1):
        if not _OWN_FILE.fullmatch(member.name):
            continue
        entries.append((digest(member.data), len(member.data)))
        try:
            require_bounded(member.data)
        except OverLimits as error:
            raise BadArchive(f"file {number} of the study: {error}", error.remedy) from error
        except BadInput:
            continue
    _require(study, [each for each, _ in entries])
    return entries


def _require(study: StudyKey, digests: list[Digest]) -> None:
    if study_key(digests) != study:
        raise BadArchive("an archive holds other files than its study's")
