"""The manifest: the signed list of a study's files and tiers, by which the hub knows that a study is complete.

Format: docs/envelope-format.md. A manifest holds the patient's identity and is sent sealed (Kind.MANIFEST).
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from thinwire.shared.crypto.keys import SIGNATURE_BYTES, sign, verify
from thinwire.shared.errors import BadManifest
from thinwire.shared.formats.display import DISPLAY_BYTES, Display
from thinwire.shared.formats.positional import LAST_MOMENT, Fields, micros, moment, pack
from thinwire.shared.identifiers import (
    BUNDLE_ID_BYTES,
    DIGEST_BYTES,
    STUDY_KEY_BYTES,
    BundleId,
    Digest,
    SiteName,
    StudyKey,
    Tier,
    site_name,
    study_key,
)

VERSION = 3
"""Version 3 names the study to which the files are added. Version 2 names the file of the frontal image and is written
for a study of its own; version 1, from older clinics, does not name it."""
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
"""The DICOM keywords (PS3.6) of a study's identity, in the order of the format."""

MAX_WARNINGS = 32
LONGEST_WARNING = 300
"""Bytes of UTF-8."""

_FIELDS = {1: 8, 2: 9, 3: 9}
_LONGEST_VALUE = 1024
_LONGEST_UID = 128
"""Bytes; DICOM allows 64 (PS3.5 9.1), and files with longer ones exist."""
_LONGEST_ORIENTATION = 32
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
class FileRead:
    """The file of the frontal image, and its display facts."""

    place: int
    """Index into the manifest's files, from 0."""
    sop_instance_uid: str
    """Empty for an image file without a header, and if the clinic sends no identity."""
    display: Display
    warnings: tuple[str, ...] = ()
    """The warnings of intake, as text for the reader, without identity."""

    @classmethod
    def fitting(cls, place: int, sop_instance_uid: str, display: Display, warnings: Sequence[str]) -> "FileRead":
        """With texts cut to the manifest's limits, and each warning once."""
        unique = dict.fromkeys(_cut(each, LONGEST_WARNING) for each in warnings if each)
        shown = replace(display, orientation=_cut(display.orientation, _LONGEST_ORIENTATION))
        return cls(place, _cut(sop_instance_uid, _LONGEST_UID), shown, tuple(unique)[:MAX_WARNINGS])


@dataclass(frozen=True)
class Added:
    """The study to which files are added, and the files of it that they correct."""

    study: StudyKey
    corrects: tuple[tuple[Digest, Digest], ...] = ()
    """(an earlier file of the study, the file here with the same SOP Instance UID), ascending. The earlier one counts
    until a person at the hub decides."""
    warnings: tuple[str, ...] = ()
    """As `FileRead.warnings`."""

    @classmethod
    def fitting(cls, study: StudyKey, corrects: Mapping[Digest, Digest], warnings: Sequence[str]) -> "Added":
        """With texts cut to the manifest's limits."""
        unique = dict.fromkeys(_cut(each, LONGEST_WARNING) for each in warnings if each)
        return cls(study, tuple(sorted(corrects.items())), tuple(unique)[:MAX_WARNINGS])


@dataclass(frozen=True)
class Manifest:
    study: StudyKey
    site: SiteName
    created: datetime
    """UTC."""
    bundle: BundleId
    tiers: tuple[TierEntry, ...]
    """Ascending by tier, none twice."""
    files: tuple[tuple[Digest, int], ...]
    """(SHA-256, bytes) of the study's files in the order of the archive; the study key is computed from them."""
    identity: Mapping[str, str] = field(repr=False)
    """By DICOM keyword, those of IDENTITY_KEYWORDS that the study has. Kept out of repr, and so out of logs."""
    read: FileRead | None = None
    """None in a manifest of version 1 and of an addition."""
    added: Added | None = None
    """None for a study of its own."""

    @property
    def read_digest(self) -> Digest | None:
        """SHA-256 of the file that was read."""
        return None if self.read is None else self.files[self.read.place][0]


def fitting_identity(identity: Mapping[str, str]) -> dict[str, str]:
    """The part of a study's identity that a manifest can hold: its keywords, values cut to the limit, valid UTF-8."""
    return {keyword: _cut(identity[keyword], _LONGEST_VALUE) for keyword in IDENTITY_KEYWORDS if keyword in identity}


def _cut(text: str, most: int) -> str:
    """Valid UTF-8 of at most `most` bytes."""
    return text.encode(errors="replace")[:most].decode(errors="ignore")


def sign_manifest(manifest: Manifest, key: Ed25519PrivateKey) -> bytes:
    """The manifest with the site's signature, to be sealed. Raises BadManifest if `read_manifest` would refuse it."""
    body = _body(manifest)
    _read(body)
    return sign(key, _CONTEXT, body) + body


def read_manifest(data: bytes, verify_key: Ed25519PublicKey) -> Manifest:
    """The manifest in `data`. verify_key: the site's. Raises Forged: the signature. Raises BadManifest: the content."""
    if len(data) > MAX_MANIFEST:
        raise BadManifest(f"a manifest of {len(data)} bytes, over the limit of {MAX_MANIFEST}")
    signature, body = data[:SIGNATURE_BYTES], data[SIGNATURE_BYTES:]
    verify(verify_key, _CONTEXT, signature, body)
    return _read(body)


def stored_manifest(data: bytes) -> Manifest:
    """A stored manifest, whose signature was verified before. Raises BadManifest."""
    return _read(data[SIGNATURE_BYTES:])


def _read(body: bytes) -> Manifest:
    longest = MAX_MANIFEST - SIGNATURE_BYTES
    fields = Fields.of(body, min(_FIELDS.values()), longest, BadManifest, "manifest", MAX_FILES, max(_FIELDS.values()))
    count = len(fields)
    version = fields.integer("version", 1, VERSION)
    if count != _FIELDS[version]:
        raise BadManifest(f"a manifest of version {version} does not have {_FIELDS[version]} fields")
    study = StudyKey(fields.data("study", STUDY_KEY_BYTES, STUDY_KEY_BYTES))
    site = fields.text("site", 32)
    created = moment(fields.integer("created", 0, LAST_MOMENT))
    bundle = BundleId(fields.data("bundle", BUNDLE_ID_BYTES, BUNDLE_ID_BYTES))
    tiers = tuple(_tier(entry) for entry in fields.arrays("tiers", 0, len(Tier), 4))
    files = tuple(_file(entry) for entry in fields.arrays("files", 1, MAX_FILES, 2))
    values = fields.fields("identity", len(IDENTITY_KEYWORDS), len(IDENTITY_KEYWORDS))
    identity = {keyword: values.text(keyword, _LONGEST_VALUE) for keyword in IDENTITY_KEYWORDS if not values.absent()}
    read = _file_read(fields.fields("read", 5, 5), len(files)) if version == 2 else None
    added = _added(fields.fields("added", 3, 3)) if version == VERSION else None
    try:
        manifest = Manifest(study, site_name(site), created, bundle, tiers, files, identity, read, added)
    except ValueError as error:
        raise BadManifest("a manifest has no valid site name") from error
    if any(a.tier >= b.tier for a, b in itertools.pairwise(tiers)):
        raise BadManifest("the tiers of a manifest are not in ascending order")
    if added is not None and not {new for _, new in added.corrects} <= {each for each, _ in files}:
        raise BadManifest("a manifest corrects a file by one that it does not list")
    if study_key(each for each, _ in files) != study:
        raise BadManifest("a manifest's files are not those of its study")
    if _body(manifest) != body:
        raise BadManifest("a manifest is not in canonical form")
    return manifest


def _tier(entry: Fields) -> TierEntry:
    tier = Tier(entry.integer("tier", min(Tier), max(Tier)))
    digest = Digest(entry.data("digest", DIGEST_BYTES, DIGEST_BYTES))
    return TierEntry(tier, digest, entry.integer("sealed size", 0, MAX_SIZE), entry.integer("plain size", 0, MAX_SIZE))


def _file(entry: Fields) -> tuple[Digest, int]:
    return Digest(entry.data("digest", DIGEST_BYTES, DIGEST_BYTES)), entry.integer("size", 0, MAX_SIZE)


def _file_read(entry: Fields, files: int) -> FileRead:
    place = entry.integer("place", 0, files - 1)
    uid = entry.text("SOP Instance UID", _LONGEST_UID)
    facts = entry.data("display", DISPLAY_BYTES, DISPLAY_BYTES)
    orientation = entry.text("orientation", _LONGEST_ORIENTATION)
    return FileRead(place, uid, Display.from_bytes(facts, orientation), _warnings(entry))


def _added(entry: Fields) -> Added:
    study = StudyKey(entry.data("study", STUDY_KEY_BYTES, STUDY_KEY_BYTES))
    corrects = tuple(
        (
            Digest(pair.data("earlier", DIGEST_BYTES, DIGEST_BYTES)),
            Digest(pair.data("corrected", DIGEST_BYTES, DIGEST_BYTES)),
        )
        for pair in entry.arrays("corrects", 0, MAX_FILES, 2)
    )
    if any(a[0] >= b[0] for a, b in itertools.pairwise(corrects)):
        raise BadManifest("the corrected files of a manifest are not in ascending order")
    return Added(study, corrects, _warnings(entry))


def _warnings(entry: Fields) -> tuple[str, ...]:
    listed = entry.fields("warnings", 0, MAX_WARNINGS)
    return tuple(listed.text("warning", LONGEST_WARNING) for _ in range(len(listed)))


def _body(manifest: Manifest) -> bytes:
    unknown = sorted(set(manifest.identity) - set(IDENTITY_KEYWORDS))
    if unknown:
        raise BadManifest(f"a manifest has no field for {', '.join(unknown)}")
    try:
        return _packed(manifest)
    except UnicodeEncodeError as error:
        raise BadManifest("a manifest's identity is not valid text") from error


def _packed(manifest: Manifest) -> bytes:
    read, added = manifest.read, manifest.added
    if read is not None and added is not None:
        raise BadManifest("a manifest of added files names no frontal image")
    version = 1
    last: tuple[object, ...] = ()
    if read is not None:
        version, last = 2, (_packed_read(read),)
    elif added is not None:
        pairs = [list(pair) for pair in added.corrects]
        version, last = VERSION, ([bytes(added.study), pairs, list(added.warnings)],)
    return pack(
        version,
        bytes(manifest.study),
        str(manifest.site),
        micros(manifest.created),
        bytes(manifest.bundle),
        [[int(t.tier), t.digest, t.sealed_size, t.plain_size] for t in manifest.tiers],
        [[each, size] for each, size in manifest.files],
        [manifest.identity.get(keyword) for keyword in IDENTITY_KEYWORDS],
        *last,
    )


def _packed_read(read: FileRead) -> list[object]:
    display = read.display
    return [read.place, read.sop_instance_uid, display.to_bytes(), display.orientation, list(read.warnings)]
