"""A real hub and a real clinic in folders, and a stick between them; both can be switched off at any step."""

import shutil
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.clock import FakeClock
from tests.support.hub_end import used
from tests.support.hub_folder import fused
from tests.support.power import Fuse, LossyDisk
from tests.support.two_ends import PLAN
from thinwire.receiver import offline as at_hub
from thinwire.receiver.hub import make_hub, open_hub
from thinwire.sender.outbox.epochs import Epochs
from thinwire.sender.outbox.outbox import Outbox
from thinwire.sender.outbox.tables import CLINIC, FILE
from thinwire.sender.transport import offline as at_clinic
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.crypto.keys import new_request
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.formats.coder import load_coder
from thinwire.shared.formats.manifest import Manifest, TierEntry, sign_manifest
from thinwire.shared.formats.originals import Member, pack, unpack
from thinwire.shared.formats.payload import encode
from thinwire.shared.formats.stick import Stick
from thinwire.shared.identifiers import SiteName, StudyKey, Tier, digest, study_key
from thinwire.shared.storage.durable import Disk
from thinwire.shared.storage.migrations import create_database, open_database

SITE = SiteName("north-valley")


@dataclass(frozen=True)
class Case:
    """A study as it is given: one file, and whether somebody hurries."""

    data: bytes = field(repr=False)
    urgent: bool = False

    @property
    def study(self) -> StudyKey:
        return study_key([digest(self.data)])

    @property
    def archive(self) -> bytes:
        return pack([Member("0000.dcm", self.data)], "fast")


@dataclass
class Clinic:
    """One clinic's outbox. signing: its key, under which the hub knows it."""

    folder: Path
    site: SiteName
    signing: Ed25519PrivateKey
    bundle: Bundle

    def open(self, pair: "StickPair") -> Outbox:
        with open_hub(pair.hub, pair.clock) as hub:
            keys = hub.keys
        self.folder.mkdir(parents=True, exist_ok=True)
        create_database(self.folder / FILE, CLINIC)
        database = open_database(self.folder / FILE, CLINIC)
        epochs = Epochs(
            database=database,
            keys=self.folder / "keys" / "epochs",
            site=self.site,
            hub=keys.sealing.public,
            signing=self.signing,
            disk=pair.disk,
            clock=pair.clock,
        )
        return Outbox(self.folder, database, epochs, keys.signing.public_key())

    def make_parts(self, outbox: Outbox) -> None:
        """The pipeline's steps, without its models."""
        for entry in outbox.unfinished():
            study, archive = entry.study, outbox.source(entry.study)
            payload = encode(fused(self.bundle.id, study, seed=study[0]), load_coder(self.bundle))
            for kind, plaintext in ((Kind.GRAPH, payload), (Kind.ORIGINALS, archive)):
                if kind in entry.missing:
                    outbox.add(study, kind, plaintext)
            if Kind.MANIFEST in entry.missing:
                outbox.add(study, Kind.MANIFEST, self._manifest(outbox, study, archive))

    def _manifest(self, outbox: Outbox, study: StudyKey, archive: bytes) -> bytes:
        entry = outbox.entry(study)
        parts = [(tier, entry.part(Kind(tier))) for tier in Tier]
        tiers = tuple(TierEntry(t, p.object, p.size, p.plain_size) for t, p in parts if p.object is not None)
        files = tuple((digest(member.data), len(member.data)) for member in unpack(archive, 1 << 20))
        manifest = Manifest(study, self.site, entry.accepted, self.bundle.id, tiers, files, {})
        return sign_manifest(manifest, self.signing)


class StickPair:
    """folder: holds hub/, a folder for each clinic, and stick/."""

    def __init__(self, folder: Path, bundle: Bundle) -> None:
        self.clock = FakeClock()
        self.folder = folder
        self.hub = folder / "hub"
        self.stick = folder / "stick"
        self.bundle = bundle
        make_hub(self.hub, bundle.folder, Disk(), self.clock)
        self.switch_on()
        self.clinic = self.enrol(SITE)

    def switch_on(self, fuse: Fuse | None = None) -> None:
        self.fuse = fuse or Fuse()
        self.disk = LossyDisk(self.fuse)

    def copy(self, folder: Path) -> "StickPair":
        """The same as it is now, in another folder."""
        shutil.copytree(self.folder, folder)
        other = copy(self)
        other.folder, other.hub, other.stick = folder, folder / "hub", folder / "stick"
        other.clinic = replace(self.clinic, folder=folder / self.clinic.folder.name)
        other.switch_on()
        return other

    def enrol(self, name: str) -> Clinic:
        site = SiteName(name)
        signing = Ed25519PrivateKey.from_private_bytes(digest(name.encode()))
        with open_hub(self.hub, self.clock) as hub:
            token, _ = hub.enrolment.enrol(site)
            _, request = new_request(site)
            used(hub.enrolment, token, request, signing)
        return Clinic(self.folder / name, site, signing, self.bundle)

    def accept(self, cases: Sequence[Case], clinic: Clinic | None = None) -> None:
        """Take studies over and make their parts; a repeat goes on."""
        clinic = clinic or self.clinic
        outbox = clinic.open(self)
        outbox.recover()
        for case in cases:
            outbox.accept(case.study, case.archive, PLAN, b"", case.urgent)
        clinic.make_parts(outbox)

    def export(self, clinic: Clinic | None = None, held: bool = False) -> at_clinic.ExportResult:
        outbox = (clinic or self.clinic).open(self)
        with outbox.own_stick():
            due = [due for entry in outbox.entries() for due in entry.due(held)]
            return at_clinic.export_to(Stick(self.stick, self.fuse), outbox, due)

    def at_hub(self) -> at_hub.ObjectImport:
        with open_hub(self.hub, self.clock, self.disk) as hub:
            return at_hub.import_from(Stick(self.stick, self.fuse), hub, hub.pipeline())

    def bring_home(self, clinic: Clinic | None = None) -> at_clinic.ReplyImport:
        outbox = (clinic or self.clinic).open(self)
        with outbox.own_stick():
            return at_clinic.import_from(Stick(self.stick, self.fuse), outbox)

    def on_stick(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.stick)): path.read_bytes()
            for path in sorted(self.stick.rglob("*"))
            if path.is_file()
        }
