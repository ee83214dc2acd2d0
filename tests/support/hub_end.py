"""The hub's end of a link: its real store on a folder, whose database is made once and copied."""

import json
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from thinwire.receiver.access.audit import Audit
from thinwire.receiver.decoding.decoder import Decoder
from thinwire.receiver.decoding.process import EXAMINING
from thinwire.receiver.inference.bundles import Bundles
from thinwire.receiver.pipeline import HubPipeline
from thinwire.receiver.sites.enrolment import JoinResult, SiteRegistry
from thinwire.receiver.sites.keyring import Keyring
from thinwire.receiver.store.content import Content, Examiner, Files
from thinwire.receiver.store.news import News
from thinwire.receiver.store.quarantine import FolderQuarantine
from thinwire.receiver.store.store import Store
from thinwire.receiver.store.tables import HUB
from thinwire.shared.clock import Clock, SystemClock
from thinwire.shared.crypto.envelope import EnvelopeHeader
from thinwire.shared.crypto.keys import Identity, new_request, prove_join, read_token
from thinwire.shared.errors import ThinwireError
from thinwire.shared.formats.coder import Coder
from thinwire.shared.identifiers import BundleId, Digest, SiteName, digest
from thinwire.shared.storage.blobs import FolderBlobs
from thinwire.shared.storage.database import Database, engine_of
from thinwire.shared.storage.durable import Disk
from thinwire.shared.storage.migrations import create_database
from thinwire.shared.storage.object_blobs import ObjectBlobs
from thinwire.shared.storage.object_store import ObjectStore


@cache
def served(keys: Keyring, site: SiteName, signing: Ed25519PrivateKey) -> tuple[bytes, Identity]:
    """The database of a hub that a site has joined, and the site's certificate."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hub.db"
        create_database(path, HUB)
        database = Database(path, engine_of(path))
        # With the real time: the certificate is used on real connections.
        identity = enrolled(SiteRegistry(database, keys, SystemClock()), site, signing)
        database.close()
        return path.read_bytes(), identity


def enrolled(registry: SiteRegistry, site: SiteName, signing: Ed25519PrivateKey) -> Identity:
    """Enrol a site and use its token."""
    key, request = new_request(site)
    return Identity(used(registry, registry.enrol(site)[0], request, signing).certificate_pem, key)


def used(registry: SiteRegistry, token: str, request: bytes, signing: Ed25519PrivateKey) -> JoinResult:
    """Join with a token, as a clinic does."""
    id = read_token(token).id
    return registry.join(id, request, signing.public_key().public_bytes_raw(), prove_join(signing, id, request))


class AnyContent(Examiner):
    """Takes bytes that are no graph and no archive: the link's tests are about the way there. The checks of content
    have tests of their own.

    refusals: the first one is raised, where there is one.
    """

    def __init__(self, refusals: list[ThinwireError]) -> None:
        super().__init__(_no_coder, Decoder(EXAMINING, 1 << 20))
        object.__setattr__(self, "refusals", refusals)

    def examine(
        self, site: SiteName, header: EnvelopeHeader, plaintext: bytes, verify_key: Ed25519PublicKey
    ) -> Content:
        for refusal in self.refusals:  # type: ignore[attr-defined]
            raise refusal
        return Files(((digest(plaintext), len(plaintext)),))


class HubEnd:
    """empty: the database before the first start, as `served` gives it. database: another one in its place. objects:
    holds the blobs, if not the folder."""

    def __init__(
        self,
        folder: Path,
        empty: bytes,
        keys: Keyring,
        disk: Disk,
        clock: Clock,
        refusals: list[ThinwireError],
        database: Database | None = None,
        objects: ObjectStore | None = None,
    ) -> None:
        path = folder / "thinwire.db"
        if database is None and not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(empty)
        self.database = database or Database(path, engine_of(path))
        self.blobs = FolderBlobs(folder / "blobs", disk) if objects is None else ObjectBlobs(objects, "blobs")
        self.store = Store(self.database, self.blobs, disk.step, keys.signing, clock)
        self.enrolment = SiteRegistry(self.database, keys, clock)
        self.audit = Audit(self.database, keys.signing)
        self.news = News(self.database)
        self.pipeline = HubPipeline(
            self.store,
            self.enrolment,
            Bundles(folder / "bundles"),
            AnyContent(refusals),
            FolderQuarantine(folder / "quarantine", disk, clock),
            self.audit,
            clock,
        )


def manifest_of(parts: Sequence[Digest]) -> bytes:
    """A stand-in for a manifest."""
    return json.dumps([each.hex() for each in parts]).encode()


def _no_coder(_: BundleId) -> Coder:
    raise AssertionError("no graph is decoded here")
