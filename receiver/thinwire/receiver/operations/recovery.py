"""Parts on the disk that no row names are put back on the worklist after a restore, where it is proven whose they are.

A blob alone does not tell its clinic or study. A manifest does, and is signed by the clinic: it lists the sealed
objects of its study. Originals prove themselves by the study key, which is computed from their files. Any other part is
sealed again with the keys of the site's epochs, which gives the same bytes: it is proven if their digest is in the
manifest. What cannot be proven stays on the disk.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import select

from thinwire.receiver.decoding.decoder import Decoder
from thinwire.receiver.decoding.process import EXAMINING
from thinwire.receiver.hub import Hub
from thinwire.receiver.store.content import Examiner
from thinwire.receiver.store.records import OpenedPart
from thinwire.receiver.store.tables import epochs, sites
from thinwire.shared.crypto.envelope import EnvelopeHeader, EpochKey, Kind, chunk_log2_of, seal
from thinwire.shared.errors import BadFormat, Forged, Retryable, StudyErased, UnknownBundle, told
from thinwire.shared.formats.manifest import MAX_MANIFEST, Manifest, TierEntry, read_manifest, stored_manifest
from thinwire.shared.identifiers import EPOCH_ID_BYTES, Digest, EpochId, digest
from thinwire.shared.storage.blobs import Blobs

log = logging.getLogger(__name__)


@dataclass
class Recovered:
    """The blobs without a row, and how many of them have one now."""

    studies: int = 0
    parts: int = 0
    left: int = 0
    """Not proven, or proven to be nothing: they stay on the disk."""


def recover(hub: Hub) -> Recovered:
    """Put back what is proven; durable when this returns. A repeat goes on after a power cut. The caller holds
    `offline_lock`."""
    blobs, done = hub.blobs, Recovered()
    unnamed = {name: blobs.size(name) or 0 for page in blobs.pages() for name in _unnamed(hub, page)}
    by_size: dict[int, list[Digest]] = {}
    for name, size in unnamed.items():
        by_size.setdefault(size, []).append(name)
    for name, size in sorted(unnamed.items()):
        if size <= MAX_MANIFEST:
            try:
                for manifest, key in _manifest(hub, blobs, name):
                    put_back = _Study(hub, blobs, manifest, key).put_back(name, by_size)
                    done.parts += put_back
                    done.studies += put_back > 0
            except Retryable:
                raise
            except Exception as error:  # noqa: BLE001 - whatever one study does, the others come back
                log.error("a study is not put back, and its parts stay: %s", told(error))
    done.left = sum(len(_unnamed(hub, page)) for page in blobs.pages())
    return done


def _unnamed(hub: Hub, page: list[Digest]) -> list[Digest]:
    named = hub.store.named(page)
    return [name for name in page if name not in named]


def _manifest(hub: Hub, blobs: Blobs, name: Digest) -> Iterator[tuple[Manifest, Ed25519PublicKey]]:
    """The manifest in a blob with the key that signed it, if it is one of a site of this hub."""
    try:
        data = blobs.read(name)
        site = stored_manifest(data).site
    except BadFormat:
        return
    of_epochs = select(epochs.c.signing_key).where(epochs.c.site == site)
    present = select(sites.c.signing_key).where(sites.c.name == site, sites.c.signing_key.is_not(None))
    with hub.database.read() as connection:
        keys = set(connection.scalars(of_epochs)) | set(connection.scalars(present))
    for raw in sorted(keys):
        key = Ed25519PublicKey.from_public_bytes(raw)
        try:
            yield read_manifest(data, key), key
        except Forged:
            continue
        return


class _Study:
    """One study whose manifest has no row."""

    def __init__(self, hub: Hub, blobs: Blobs, manifest: Manifest, key: Ed25519PublicKey) -> None:
        self._hub = hub
        self._blobs = blobs
        self._manifest = manifest
        self._key = key
        self._examiner = Examiner(hub.bundles.coder, Decoder(EXAMINING, hub.settings.largest_study))
        with hub.database.read() as connection:
            known = connection.scalars(select(epochs.c.epoch).where(epochs.c.site == manifest.site)).all()
        keys = [hub.enrolment.epoch_key(manifest.site, EpochId(each)) for each in known]
        # All parts of a study are sealed in the epoch of its acceptance, shortly before its manifest.
        self._keys = sorted(filter(None, keys), key=lambda each: abs(each.created - manifest.created))

    def put_back(self, name: Digest, by_size: dict[int, list[Digest]]) -> int:
        """Put back the manifest in a blob and the parts that it lists; returns their number."""
        put = 0
        for entry in self._manifest.tiers:
            if self._hub.store.stored_receipt(self._manifest.site, entry.digest) is None:
                put += any(self._put_tier(entry, blob) for blob in by_size.get(entry.plain_size, ()))
        # The manifest last: a power cut before it leaves it without a row, and the next run goes on.
        plaintext = self._blobs.read(name)
        # Without the epoch its object is known to the clinic alone, which offers it again if it has no receipt.
        identity = digest(self._sealed(self._keys[0], Kind.MANIFEST, plaintext) if self._keys else plaintext)
        return put + self._put(Kind.MANIFEST, plaintext, identity)

    def _put_tier(self, entry: TierEntry, blob: Digest) -> bool:
        kind = Kind(entry.tier)
        try:
            plaintext = self._blobs.read(blob)
        except BadFormat:
            return False
        if kind is not Kind.ORIGINALS and not self._proves(entry, kind, plaintext):
            return False
        return self._put(kind, plaintext, entry.digest)

    def _proves(self, entry: TierEntry, kind: Kind, plaintext: bytes) -> bool:
        """Whether these bytes, sealed, are the object in the manifest; the epoch comes first from then on."""
        for place, key in enumerate(self._keys):
            if digest(self._sealed(key, kind, plaintext)) == entry.digest:
                self._keys.insert(0, self._keys.pop(place))
                return True
        return False

    def _sealed(self, key: EpochKey, kind: Kind, plaintext: bytes) -> bytes:
        return seal(key, kind, self._manifest.study, plaintext)

    def _put(self, kind: Kind, plaintext: bytes, object: Digest) -> bool:
        """Store a part that is proven, if its content is sound."""
        site, study = self._manifest.site, self._manifest.study
        header = EnvelopeHeader(kind, chunk_log2_of(kind), EpochId(bytes(EPOCH_ID_BYTES)), study, bytes(16))
        try:
            content = self._examiner.examine(site, header, plaintext, self._key)
        except (BadFormat, Forged, UnknownBundle) as error:
            log.warning("site %s: %s of study %s stays aside: %s", site, kind.name.lower(), study.hex(), error)
            return False
        try:
            self._hub.store.put(OpenedPart(site, object, header, plaintext, content, urgent=False), found_here=True)
        except StudyErased:
            return False  # its files are removed with the next run of retention
        return True
