"""The signed list of a study's parts: completeness is known from it, never from a quiet timer.

Format: docs/envelope-format.md. A manifest holds the patient's identity and crosses sealed (Kind.MANIFEST).
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from thinwire.shared.crypto.keys import SIGNATURE_BYTES, sign, verify
from thinwire.shared.errors import BadManifest
from thinwire.shared.formats.positional import LAST_MOMENT, Fields, micros, moment, pack
from thinwire.shared.identifiers import (
    BUNDLE_ID_BYTES,
    DIGEST_BYTES,
    STUDY_ID_BYTES,
    BundleId,
    Digest,
    SiteName,
    StudyId,
    Tier,
    site_name,
    study_id,
)

VERSION = 1
MAX_MANIFEST = 1 << 20
MAX_FILES = 4096
MAX_SIZE = (1 << 53) - 1
IDENTITY_KEYWORDS = (
    "StudyInstanceUID",
    "AccessionNumber",
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
"""The DICOM keywords (PS3.6) of a study's identity, in the order in which the format holds them."""

_FIELDS = 8
_LONGEST_VALUE = 1024
_CONTEXT = b"thinwire manifest v1"


@dataclass(frozen=True)
class TierEntry:
    tier: Tier
    digest: Digest
    """SHA-256 of the sealed bytes: the object's identity on the link."""
    sealed_size: int
    """Bytes."""
    plain_size: int
    """Bytes."""


@dataclass(frozen=True)
class Manifest:
    study: StudyId
    site: SiteName
    created: datetime
    """UTC."""
    bundle: BundleId
    tiers: tuple[TierEntry, ...]
    """Ascending by tier, none twice."""
    files: tuple[tuple[Digest, int], ...]
    """(SHA-256, bytes) of the study's own files in the order of the archive; the study's id follows from them."""
    identity: Mapping[str, str] = field(repr=False)
    """By DICOM keyword, those of IDENTITY_KEYWORDS that the study has. Kept out of repr, and so out of logs."""


def fitting_identity(identity: Mapping[str, str]) -> dict[str, str]:
    """What of a study's identity a manifest can hold: its keywords, values cut to their longest, valid UTF-8."""
    return {
        word: identity[word].encode(errors="replace")[:_LONGEST_VALUE].decode(errors="ignore")
        for word in IDENTITY_KEYWORDS
        if word in identity
    }


def sign_manifest(manifest: Manifest, key: Ed25519PrivateKey) -> bytes:
    """The manifest with the site's signature, to be sealed. Raises BadManifest for what no reader would take."""
    body = _body(manifest)
    _read(body)
    return sign(key, _CONTEXT, body) + body


def read_manifest(data: bytes, verify_key: Ed25519PublicKey) -> Manifest:
    """The manifest in `data`. verify_key: the site's. Raises Forged for the signature, BadManifest for the rest."""
    if len(data) > MAX_MANIFEST:
        raise BadManifest(f"a manifest of {len(data)} bytes, over the limit of {MAX_MANIFEST}")
    signature, body = data[:SIGNATURE_BYTES], data[SIGNATURE_BYTES:]
    verify(verify_key, _CONTEXT, signature, body)
    return _read(body)


def kept_manifest(data: bytes) -> Manifest:
    """A manifest whose signature held when it was kept. Raises BadManifest."""
    return _read(data[SIGNATURE_BYTES:])


def _read(body: bytes) -> Manifest:
    fields = Fields.of(body, _FIELDS, MAX_MANIFEST - SIGNATURE_BYTES, BadManifest, "manifest", MAX_FILES)
    fields.integer("version", VERSION, VERSION)
    study = StudyId(fields.data("study", STUDY_ID_BYTES, STUDY_ID_BYTES))
    site = fields.text("site", 32)
    created = moment(fields.integer("created", 0, LAST_MOMENT))
    bundle = BundleId(fields.data("bundle", BUNDLE_ID_BYTES, BUNDLE_ID_BYTES))
    tiers = tuple(_tier(entry) for entry in fields.arrays("tiers", 0, len(Tier), 4))
    files = tuple(_file(entry) for entry in fields.arrays("files", 1, MAX_FILES, 2))
    values = fields.fields("identity", len(IDENTITY_KEYWORDS), len(IDENTITY_KEYWORDS))
    identity = {word: values.text(word, _LONGEST_VALUE) for word in IDENTITY_KEYWORDS if not values.absent()}
    try:
        manifest = Manifest(study, site_name(site), created, bundle, tiers, files, identity)
    except ValueError as error:
        raise BadManifest("a manifest is of no site") from error
    if any(a.tier >= b.tier for a, b in itertools.pairwise(tiers)):
        raise BadManifest("the tiers of a manifest do not ascend")
    if study_id(each for each, _ in files) != study:
        raise BadManifest("a manifest's files are not those of its study")
    if _body(manifest) != body:
        raise BadManifest("a manifest is not in its one form")
    return manifest


def _tier(entry: Fields) -> TierEntry:
    tier = Tier(entry.integer("tier", min(Tier), max(Tier)))
    digest = Digest(entry.data("digest", DIGEST_BYTES, DIGEST_BYTES))
    return TierEntry(tier, digest, entry.integer("sealed size", 0, MAX_SIZE), entry.integer("plain size", 0, MAX_SIZE))


def _file(entry: Fields) -> tuple[Digest, int]:
    return Digest(entry.data("digest", DIGEST_BYTES, DIGEST_BYTES)), entry.integer("size", 0, MAX_SIZE)


def _body(manifest: Manifest) -> bytes:
    unknown = sorted(set(manifest.identity) - set(IDENTITY_KEYWORDS))
    if unknown:
        raise BadManifest(f"a manifest has no place for {', '.join(unknown)}")
    try:
        return _packed(manifest)
    except UnicodeEncodeError as error:
        raise BadManifest("a manifest's identity is no valid text") from error


def _packed(manifest: Manifest) -> bytes:
    return pack(
        VERSION,
        bytes(manifest.study),
        str(manifest.site),
        micros(manifest.created),
        bytes(manifest.bundle),
        [[int(t.tier), t.digest, t.sealed_size, t.plain_size] for t in manifest.tiers],
        [[each, size] for each, size in manifest.files],
        [manifest.identity.get(word) for word in IDENTITY_KEYWORDS],
    )
