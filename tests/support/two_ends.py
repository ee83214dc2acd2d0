"""A clinic and a hub in one process, on real folders, that can be switched off at any step and built up again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select

from tests.support.clock import FakeClock
from tests.support.format_samples import counted_bytes
from tests.support.hub_end import HubEnd, manifest_of, served
from tests.support.power import Fuse, LossyDisk
from tests.support.scripted_link import ScriptedLink
from thinwire.receiver.sites.keyring import Keyring
from thinwire.receiver.store.records import StoredPrediction
from thinwire.receiver.store.store import Store
from thinwire.receiver.store.tables import objects
from thinwire.receiver.transport.inbox import FolderInbox, Inbox
from thinwire.receiver.transport.ingest import IngestSession
from thinwire.receiver.transport.limits import SiteLimits
from thinwire.receiver.transport.pieces import PieceInbox
from thinwire.sender.outbox.entries import EntryState, OutboxEntry
from thinwire.sender.outbox.epochs import Epochs
from thinwire.sender.outbox.outbox import Outbox
from thinwire.sender.outbox.tables import CLINIC, FILE
from thinwire.sender.transport.session import UplinkSession
from thinwire.shared.clock import SystemClock
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.crypto.keys import HubPrivateKey, new_authority
from thinwire.shared.errors import ThinwireError
from thinwire.shared.identifiers import BundleId, Digest, SiteName, StudyKey, Urgency, digest, study_key
from thinwire.shared.storage.database import Database
from thinwire.shared.storage.durable import Disk
from thinwire.shared.storage.migrations import create_database, open_database
from thinwire.shared.storage.object_store import object_store

SITE = SiteName("north-valley")
PLAN = (Kind.GRAPH, Kind.MANIFEST, Kind.ORIGINALS)
"""The parts of every sample: enough for a study to be whole."""
HUB_KEY = HubPrivateKey(bytes(range(96)))
HUB_SIGNING = Ed25519PrivateKey.from_private_bytes(b"\x01" * 32)
SITE_SIGNING = Ed25519PrivateKey.from_private_bytes(b"\x02" * 32)
AUTHORITY = new_authority(SystemClock())
"""Of certificates that are used on real connections, so with the real time."""
KEYS = Keyring(AUTHORITY, HUB_KEY, HUB_SIGNING)


@dataclass(frozen=True)
class Sample:
    """A study as the clinic gives it. source stands for the archive of its files."""

    source: bytes = field(repr=False)
    words: bytes = b""
    urgent: bool = False

    @property
    def study(self) -> StudyKey:
        return study_key([digest(self.source)])

    @property
    def parts(self) -> dict[Kind, bytes]:
        """The parts that a pipeline makes of it, without the manifest."""
        return {Kind.GRAPH: digest(self.source) * 20, Kind.ORIGINALS: self.source}


def samples(count: int, size: int = 20_000) -> list[Sample]:
    """Studies of `size` bytes that do not compress, each another one."""
    noise = counted_bytes(b"samples")
    return [Sample(noise(size)) for _ in range(count)]


def open_clinic(
    data: Path, disk: Disk, clock: FakeClock, random: Callable[[int], bytes], database: Database | None = None
) -> Outbox:
    """The outbox of a clinic of SITE; the folder is made if it does not exist. database: one that is open already."""
    if not (data / FILE).exists():
        data.mkdir(parents=True, exist_ok=True)
        create_database(data / FILE, CLINIC)
    database = database or open_database(data / FILE, CLINIC)
    epochs = Epochs(
        database=database,
        keys=data / "keys" / "epochs",
        site=SITE,
        hub=HUB_KEY.public,
        signing=SITE_SIGNING,
        disk=disk,
        clock=clock,
        random_bytes=random,
    )
    return Outbox(data, database, epochs, HUB_SIGNING.public_key())


class TwoEnds:
    """folder: holds clinic/ and hub/. Everything else is built from there, by `switch_on`."""

    def __init__(
        self,
        folder: Path,
        clock: FakeClock | None = None,
        limits: SiteLimits | None = None,
        objects: str | None = None,
    ) -> None:
        """objects: the URL of an object store that holds the hub's blobs and pieces."""
        self._objects = objects
        self.folder = folder
        self.clock = clock or FakeClock()
        self.limits = limits
        self.random = counted_bytes(b"two ends")
        self.refusals: list[ThinwireError] = []
        """What the hub's check of content raises, where there is something."""
        self.switch_on()

    def switch_on(self, fuse: Fuse | None = None, lossy: bool = True) -> None:
        """Build both ends from the files on disk. fuse: sees every step of both."""
        self.fuse = fuse or Fuse()
        self.disk = LossyDisk(self.fuse, lossy)
        self.outbox = self.new_outbox()
        if hub := self.__dict__.pop("hub", None):
            hub.database.close()
        self.objects = None if self._objects is None else object_store(self._objects, self.disk)
        self.inbox = self.new_inbox()

    def new_inbox(self) -> Inbox:
        """The hub's inbox as another process sees it."""
        folder = self.folder / "hub" / "inbox"
        if self.objects is None:
            return FolderInbox(folder, self.disk, self.clock)
        return PieceInbox(self.hub.database, self.objects, folder, self.disk, self.clock)

    @cached_property
    def hub(self) -> HubEnd:
        """Opened when it is needed: many tests need the clinic alone."""
        empty, _ = served(KEYS, SITE, SITE_SIGNING)
        return HubEnd(self.folder / "hub", empty, KEYS, self.disk, self.clock, self.refusals, objects=self.objects)

    @property
    def store(self) -> Store:
        return self.hub.store

    def new_outbox(self) -> Outbox:
        """The clinic's outbox as another process sees it."""
        return open_clinic(self.folder / "clinic", self.disk, self.clock, self.random)

    def uplink(self) -> UplinkSession:
        return UplinkSession(self.outbox, self.clock, self.disk)

    def ingest(self, site: SiteName = SITE) -> IngestSession:
        return IngestSession(site, self.inbox, self.hub.pipeline, self.clock, self.disk, self.limits)

    def accept(self, sample: Sample) -> OutboxEntry:
        return self.outbox.accept(sample.study, sample.source, PLAN, sample.words, sample.urgent)

    def make_parts(self) -> None:
        """The pipeline's step: make the missing parts from the source alone."""
        for entry in self.outbox.unfinished():
            source = self.outbox.source(entry.study)
            for kind, plaintext in Sample(source).parts.items():
                if kind in entry.missing:
                    self.outbox.add(entry.study, kind, plaintext)
            parts = self.outbox.entry(entry.study).parts
            made = [part.object for part in parts if part.object and part.kind is not Kind.MANIFEST]
            self.outbox.add(entry.study, Kind.MANIFEST, manifest_of(made))

    def carry(self, script: str = "", rate: float = 16_000.0) -> ScriptedLink:
        """One stream; returns the link as it was used. An error that ends the stream is raised, and the hub closes."""
        link = ScriptedLink(self.clock, script, rate)
        link.carry(self.uplink(), self.ingest())
        return link

    def carry_on(self, uplink: UplinkSession, ingest: IngestSession, greet: bool = True) -> ScriptedLink:
        """The same with sessions that the test holds; greet=False goes on with a stream that was quiet."""
        link = ScriptedLink(self.clock)
        link.carry(uplink, ingest, greet)
        return link

    def triage(self) -> None:
        """The hub's inference: a prediction for every graph that waits."""
        for waiting in self.store.untriaged():
            at = self.clock.now()
            self.store.add_prediction(
                waiting, StoredPrediction({}, Urgency.ROUTINE, "as the test says", False, BundleId(b"b" * 16), at)
            )

    def parts(self, site: SiteName = SITE) -> dict[tuple[StudyKey, Kind], bytes]:
        """Every part that the hub has stored for a site."""
        columns = objects.c.study, objects.c.kind, objects.c.blob
        with self.hub.database.read() as connection:
            rows = connection.execute(select(*columns).where(objects.c.site == site).distinct()).all()
        found = {(StudyKey(study), Kind(kind)): self.store.blob(Digest(blob)) for study, kind, blob in rows}
        assert len(found) == len(rows), "two contents of one part"
        return found

    def urgent(self, study: StudyKey) -> bool:
        return self.store.study(SITE, study).urgent_asked

    def lose_unsynced(self) -> None:
        """At a power cut: the hub's partial objects lose bytes that were written and not made durable."""
        for path in (self.folder / "hub" / "inbox").glob("*/*"):
            assert isinstance(self.inbox, FolderInbox)
            durable = self.inbox.durable(path)
            data = path.read_bytes()
            path.write_bytes(data[:durable] + b"\xa5" * (len(data) - durable))

    def assert_arrived(self, studies: Sequence[Sample]) -> None:
        """Every study is at the hub once and bit by bit, and the clinic knows it and keeps no bytes."""
        parts = self.parts()
        assert {study for study, _ in parts} == {sample.study for sample in studies}
        for sample in studies:
            for kind, plaintext in sample.parts.items():
                assert parts[sample.study, kind] == plaintext
            assert (sample.study, Kind.MANIFEST) in parts
            entry = self.outbox.entry(sample.study)
            assert entry.state is EntryState.ARRIVED
            receipts = {receipt.object for receipt in self.outbox.receipts(sample.study)}
            assert receipts >= {part.object for part in entry.parts}
        assert not blobs_of(self)
        assert not self.store.undelivered_receipts(SITE)
        assert not self.inbox.objects(SITE)
        assert not list((self.folder / "hub" / "inbox").glob("*/*"))


def blobs_of(ends: TwoEnds) -> list[Path]:
    """The clinic's sealed bytes, of all studies."""
    return sorted(each for each in (ends.folder / "clinic" / "blobs").rglob("*") if each.is_file())


def sealed_file(outbox: Outbox, study: StudyKey, kind: Kind) -> Path:
    """The file of a part, or of the source, which the clinic must have."""
    path = outbox.path(study, kind)
    assert path is not None
    return path


def until_whole(ends: TwoEnds, act: Callable[[], object], most: int = 50) -> None:
    """Repeat streams until the outbox has nothing due."""
    for _ in range(most):
        act()
        if not ends.outbox.due():
            return
    raise AssertionError("the studies do not arrive")
