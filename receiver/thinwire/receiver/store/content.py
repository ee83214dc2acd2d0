"""Checks of a part's content before it is stored, and the facts that the hub takes from it."""

from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from thinwire.receiver.decoding.decoder import Decoder
from thinwire.shared.crypto.envelope import EnvelopeHeader, Kind
from thinwire.shared.errors import BadFormat, Forged
from thinwire.shared.formats.coder import Coder
from thinwire.shared.formats.graph import FusedGraph
from thinwire.shared.formats.manifest import Manifest, read_manifest
from thinwire.shared.formats.payload import decode
from thinwire.shared.identifiers import BundleId, Digest, SiteName, digest


@dataclass(frozen=True)
class Files:
    """The study's files in an originals archive, in its order."""

    entries: tuple[tuple[Digest, int], ...]
    """(SHA-256, bytes)"""


Content = FusedGraph | Files | Manifest | None


def patient_of(manifest: Manifest) -> bytes | None:
    """16 bytes, the same for all studies of one patient of one site; None for a manifest without Patient ID."""
    number = manifest.identity.get("PatientID", "").strip()
    return patient_of_number(manifest.site, number) if number else None


def patient_of_number(site: SiteName, number: str) -> bytes:
    """As `patient_of`, from a Patient ID (0010,0020), which is unique within its site."""
    return digest("\0".join(("thinwire patient v1", site, number)).encode())[:16]


@dataclass(frozen=True)
class Examiner:
    """Checks the content of parts. coder_of: a bundle's coder. decoder: opens what holds images and files."""

    coder_of: Callable[[BundleId], Coder]
    decoder: Decoder

    def examine(
        self, site: SiteName, header: EnvelopeHeader, plaintext: bytes, verify_key: Ed25519PublicKey
    ) -> Content:
        """The content of a part. verify_key: the site's key at the time of the part's epoch.

        None for previews and crops, of which nothing is stored but their bytes. Raises BadPayload, UnknownBundle,
        BadPreview, BadCrops, BadArchive, BadManifest, Forged; BadFormat for a kind that never crosses.
        """
        match header.kind:
            case Kind.GRAPH:
                return decode(plaintext, header.study, self.coder_of)
            case Kind.PREVIEW:
                self.decoder.preview(plaintext, whole=True)
                return None
            case Kind.CROPS:
                self.decoder.crops(plaintext, whole=True)
                return None
            case Kind.ORIGINALS:
                return Files(self.decoder.examine(plaintext, header.study))
            case Kind.MANIFEST:
                manifest = read_manifest(plaintext, verify_key)
                if (manifest.study, manifest.site) != (header.study, site):
                    raise Forged("a manifest names another study or site")
                return manifest
            case _:
                raise BadFormat(f"this hub has no format for the part {header.kind.name.lower()}")
