"""Checks of a part's content before it is stored, and the facts that the hub takes from it."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from thinwire.shared.crypto.envelope import EnvelopeHeader, Kind
from thinwire.shared.errors import BadArchive, BadFormat, BadInput, Forged, OverLimits
from thinwire.shared.formats import crops, preview
from thinwire.shared.formats.coder import Coder
from thinwire.shared.formats.crops import Crops
from thinwire.shared.formats.graph import FusedGraph
from thinwire.shared.formats.manifest import Manifest, read_manifest
from thinwire.shared.formats.originals import Member, each_member, unpack
from thinwire.shared.formats.payload import decode
from thinwire.shared.formats.preview import Preview
from thinwire.shared.identifiers import BundleId, Digest, SiteName, StudyKey, digest, study_key
from thinwire.shared.imaging.radiograph import require_bounded

_OWN_FILE = re.compile(r"[0-9]{4}\.[a-z0-9]+")
"""Names of the study's files in its archive; the text beside them is not part of the study key."""


@dataclass(frozen=True)
class Files:
    """The study's files in an originals archive, in its order."""

    entries: tuple[tuple[Digest, int], ...]
    """(SHA-256, bytes)"""


Content = FusedGraph | Preview | Crops | Files | Manifest


def study_files(archive: bytes, study: StudyKey, max_bytes: int) -> list[Member]:
    """The study's files from its originals archive, byte for byte. Raises BadArchive.

    max_bytes: limit of the unpacked archive. The study key is computed from the files' digests, so an archive of other
    files is refused.
    """
    members = [each for each in unpack(archive, max_bytes) if _OWN_FILE.fullmatch(each.name)]
    if study_key(digest(each.data) for each in members) != study:
        raise BadArchive("an archive holds other files than its study's")
    return members


def examined(archive: bytes, study: StudyKey, max_bytes: int) -> Files:
    """The study's files, each within the limits of one file; one is in memory at a time. Raises BadArchive.

    A file that cannot be read is stored as it is: it takes no more memory than it has bytes.
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
    if study_key(each for each, _ in entries) != study:
        raise BadArchive("an archive holds other files than its study's")
    return Files(tuple(entries))


def patient_of(manifest: Manifest) -> bytes | None:
    """16 bytes, the same for all studies of one patient of one site; None for a manifest without Patient ID."""
    number = manifest.identity.get("PatientID", "").strip()
    return patient_of_number(manifest.site, number) if number else None


def patient_of_number(site: SiteName, number: str) -> bytes:
    """As `patient_of`, from a Patient ID (0010,0020), which is unique within its site."""
    return digest("\0".join(("thinwire patient v1", site, number)).encode())[:16]


@dataclass(frozen=True)
class Examiner:
    """Checks the content of parts. coder_of: a bundle's coder. max_bytes: limit of unpacked originals and crops."""

    coder_of: Callable[[BundleId], Coder]
    max_bytes: int = 2 << 30

    def examine(
        self, site: SiteName, header: EnvelopeHeader, plaintext: bytes, verify_key: Ed25519PublicKey
    ) -> Content:
        """The content of a part. verify_key: the site's key at the time of the part's epoch.

        Raises BadPayload, UnknownBundle, BadPreview, BadCrops, BadArchive, BadManifest, Forged; BadFormat for a kind
        that never crosses.
        """
        match header.kind:
            case Kind.GRAPH:
                return decode(plaintext, header.study, self.coder_of)
            case Kind.PREVIEW:
                return preview.decode(plaintext)
            case Kind.CROPS:
                return crops.decode(plaintext, self.max_bytes)
            case Kind.ORIGINALS:
                return examined(plaintext, header.study, self.max_bytes)
            case Kind.MANIFEST:
                manifest = read_manifest(plaintext, verify_key)
                if (manifest.study, manifest.site) != (header.study, site):
                    raise Forged("a manifest names another study or site")
                return manifest
            case _:
                raise BadFormat(f"this hub has no format for the part {header.kind.name.lower()}")
