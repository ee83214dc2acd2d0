"""A small real store in a folder, for tests of the link."""

import json
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from thinwire.receiver.sites.enrolment import JoinResult
from thinwire.shared.clock import Clock
from thinwire.shared.crypto.envelope import EnvelopeHeader, EpochKey, Kind, open_epoch, peek_epoch
from thinwire.shared.crypto.keys import HubPrivateKey, JoinTokenId
from thinwire.shared.errors import NotEnrolled, ThinwireError
from thinwire.shared.formats.receipts import Receipt, StudyStatus, sign_receipt
from thinwire.shared.identifiers import Digest, EpochId, SiteName, StudyKey, digest
from thinwire.shared.storage.durable import Disk


class FolderStore:
    """Implements `IngestStore`: one file per part, written in one piece with its receipt.

    sites: each site's verify key. refuse: raised by `put` where it is set, as a store does whose content checks fail.
    """

    def __init__(
        self,
        folder: Path,
        hub: HubPrivateKey,
        sites: dict[SiteName, Ed25519PublicKey],
        disk: Disk,
        signing: Ed25519PrivateKey,
        clock: Clock,
    ) -> None:
        self.signing = signing
        self.clock = clock
        self.folder = folder
        self.hub = hub
        self.sites = sites
        self.disk = disk
        self.keys: dict[Path, EpochKey] = {}
        self.refuse: ThinwireError | None = None
        self.wishes: list[tuple[StudyKey, Kind]] = []
        self.answers: dict[JoinTokenId, tuple[bytes, JoinResult]] = {}
        for name in ("epochs", "parts", "receipts"):
            disk.make_folder(folder / name)

    def join(self, token: JoinTokenId, request: bytes, signing_key: bytes) -> JoinResult:
        known = self.answers.get(token)
        if known is None or known[0] not in (b"", signing_key):
            raise NotEnrolled("the join token is unknown or used")
        self.answers[token] = signing_key, known[1]
        return known[1]

    def check_site(self, site: SiteName, certificate: Digest) -> None:
        if site not in self.sites:
            raise NotEnrolled("the hub does not serve this site")

    def epoch_key(self, site: SiteName, epoch: EpochId) -> EpochKey | None:
        record = self.folder / "epochs" / f"{site}.{epoch.hex()}"
        if record not in self.keys and record.exists():
            self.keys[record] = open_epoch(record.read_bytes(), site, self.sites[site], self.hub)
        return self.keys.get(record)

    def admit_epoch(self, site: SiteName, record: bytes) -> None:
        open_epoch(record, site, self.sites[site], self.hub)
        path = self.folder / "epochs" / f"{site}.{peek_epoch(record).hex()}"
        if not path.exists():
            self.disk.write(path, record, "ingest_store.epoch")

    def stored_receipt(self, site: SiteName, object: Digest) -> bytes | None:
        path = self.folder / "receipts" / f"{site}.{object.hex()}"
        return path.read_bytes() if path.exists() else None

    def put(self, site: SiteName, object: Digest, header: EnvelopeHeader, plaintext: bytes, urgent: bool) -> bytes:
        if self.refuse is not None:
            raise self.refuse
        if (known := self.stored_receipt(site, object)) is not None:
            return known
        part = self.folder / "parts" / f"{site}.{header.study.hex()}.{header.kind.name.lower()}"
        if not part.exists() or part.read_bytes()[1:] != plaintext:
            assert not part.exists(), "another content for the same part"
            self.disk.write(part, bytes([urgent]) + plaintext, "ingest_store.part")
        # The receipt makes it stored; the part without it is not seen.
        receipt = Receipt(header.study, site, object, StudyStatus.STORED, self.clock.now())
        signed = sign_receipt(receipt, self.signing)
        self.disk.write(self.folder / "receipts" / f"{site}.{object.hex()}", signed, "ingest_store.receipt")
        return signed

    def undelivered_receipts(self, site: SiteName) -> Sequence[bytes]:
        paths = sorted(p for p in (self.folder / "receipts").glob(f"{site}.*") if p.suffix != ".taken")
        signed = [path.read_bytes() for path in paths]
        return [each for each in signed if not self._taken(digest(each)).exists()]

    def record_delivered(self, site: SiteName, receipt: Digest) -> None:
        self.disk.write(self._taken(receipt), b"", "ingest_store.taken")

    def requested_parts(self, site: SiteName) -> Sequence[tuple[StudyKey, Kind]]:
        return list(self.wishes)

    def escalate(self, site: SiteName, study: StudyKey) -> bool:
        parts = list((self.folder / "parts").glob(f"{site}.{study.hex()}.*"))
        for part in parts:
            self.disk.write(part, b"\x01" + part.read_bytes()[1:], "ingest_store.part")
        return bool(parts)

    def urgent(self, site: SiteName, study: StudyKey) -> bool:
        """Whether a part of the study was marked so."""
        return any(p.read_bytes()[0] for p in (self.folder / "parts").glob(f"{site}.{study.hex()}.*"))

    def say(self, site: SiteName, signed: bytes) -> None:
        """Put a receipt of another status beside the others, as triage does."""
        self.disk.write(self.folder / "receipts" / f"{site}.{digest(signed).hex()}", signed, "ingest_store.say")

    def parts(self, site: SiteName) -> dict[tuple[StudyKey, Kind], bytes]:
        """Every part that is stored: its receipt is there."""
        found = {}
        for path in sorted((self.folder / "parts").glob(f"{site}.*")):
            _, study, kind = path.name.split(".")
            found[StudyKey(bytes.fromhex(study)), Kind[kind.upper()]] = path.read_bytes()[1:]
        return found

    def _taken(self, receipt: Digest) -> Path:
        return self.folder / "receipts" / f"{receipt.hex()}.taken"


def manifest_of(objects: Sequence[Digest]) -> bytes:
    """A stand-in for a manifest."""
    return json.dumps([each.hex() for each in objects]).encode()
