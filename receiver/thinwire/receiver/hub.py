"""One hub: its open data folder and the components on it. Layout: docs/store-format.md."""

import contextlib
import fcntl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import exists, or_, select

from thinwire.receiver.access.accounts import Accounts
from thinwire.receiver.access.audit import Audit
from thinwire.receiver.config import FILE, Settings, load_settings, new_file, settings_of
from thinwire.receiver.decoding.decoder import Decoder
from thinwire.receiver.decoding.process import EXAMINING, RENDERING, DecodingProcess
from thinwire.receiver.drafting import Drafting
from thinwire.receiver.export.best_image import StudyImages
from thinwire.receiver.inference.bundles import Bundles, add_bundle, make_default
from thinwire.receiver.pipeline import HubPipeline
from thinwire.receiver.sites.enrolment import SiteRegistry
from thinwire.receiver.sites.keyring import Keyring, load_keyring, make_keyring
from thinwire.receiver.store.content import Examiner
from thinwire.receiver.store.quarantine import ObjectQuarantine
from thinwire.receiver.store.store import Store
from thinwire.receiver.store.tables import HUB, audit, sites
from thinwire.receiver.store.worklist_query import Worklist
from thinwire.receiver.transport.inbox import FolderInbox, Inbox
from thinwire.receiver.transport.partial_reader import PartialReader
from thinwire.receiver.transport.pieces import PieceInbox
from thinwire.shared.clock import Clock
from thinwire.shared.errors import BadConfiguration, HubBusy
from thinwire.shared.identifiers import BundleId
from thinwire.shared.listening.guard import Listeners
from thinwire.shared.storage.blobs import Blobs, FolderBlobs
from thinwire.shared.storage.database import Database, Place
from thinwire.shared.storage.durable import Disk, flock
from thinwire.shared.storage.migrations import create_database, found_version, migrate, open_database, rehearse
from thinwire.shared.storage.object_blobs import ObjectBlobs
from thinwire.shared.storage.object_store import ObjectStore, object_store

DATABASE = "thinwire.db"
DAMAGED = "quarantine/_damaged"
"""No site has this name."""


@dataclass(frozen=True)
class Hub:
    data: Path
    settings: Settings
    clock: Clock
    disk: Disk = field(repr=False)
    keys: Keyring = field(repr=False)
    database: Database = field(repr=False)
    objects: ObjectStore | None = field(repr=False)
    """None where the blobs are in the data folder."""
    blobs: Blobs = field(repr=False)
    store: Store = field(repr=False)
    enrolment: SiteRegistry = field(repr=False)
    bundles: Bundles = field(repr=False)
    accounts: Accounts = field(repr=False)
    audit: Audit = field(repr=False)
    worklist: Worklist = field(repr=False)
    listeners: Listeners = field(default_factory=Listeners, repr=False)

    def study_images(self, process: DecodingProcess = RENDERING) -> StudyImages:
        """The best available image of each study. process: decodes; by default the one of the readers."""
        arriving = PartialReader(self.inbox(), self.enrolment)
        return StudyImages(self.store, arriving, Decoder(process, self.settings.largest_study))

    def inbox(self) -> Inbox:
        if self.objects is None:
            return FolderInbox(self.data / "inbox", self.disk, self.clock)
        return PieceInbox(self.database, self.objects, self.data / "inbox", self.disk, self.clock)

    def damaged_blobs(self) -> Blobs:
        """Damaged blobs as they were found, set aside by `check --repair`."""
        return _blobs(self.objects, self.data, DAMAGED, self.disk)

    def pipeline(self) -> HubPipeline:
        examiner = Examiner(self.bundles.coder, Decoder(EXAMINING, self.settings.largest_study))
        quarantine = ObjectQuarantine(self.data / "quarantine", self.disk, self.clock)
        return HubPipeline(
            self.store,
            self.enrolment,
            self.bundles,
            examiner,
            quarantine,
            self.audit,
            self.clock,
            self.settings.batch,
        )

    def drafting(self, pipeline: HubPipeline) -> Drafting:
        """Drafting of reports while `pipeline` is idle."""
        drafting = Drafting(self.store, self.bundles, self.settings.draft, pipeline.idle)
        pipeline.on_idle = drafting.wake
        return drafting


def make_hub(data: Path, bundle: Path, disk: Disk, clock: Clock, database: str | None = None) -> BundleId:
    """Create a hub in `data` with this default bundle. database: the URL of PostgreSQL, for the settings; else the
    environment's. Raises BadConfiguration if the folder or the database already holds a hub."""
    settings = settings_of({"database": database} if database else {})
    if (data / FILE).exists():
        raise BadConfiguration(
            "the folder already holds a hub", "Choose another --data folder; a hub is never replaced."
        )
    disk.make_folder(data)
    if any(each.name != "bundles" for each in data.iterdir()):
        raise BadConfiguration("the folder is not empty", "Choose an empty --data folder for the new hub.")
    id = add_bundle(data / "bundles", bundle, disk)
    make_default(data / "bundles", id, disk)
    make_keyring(data / "keys", disk, clock)
    create_database(_place(data, settings), HUB)
    with _opened(data, settings) as made, made.read() as connection:
        if made.shared and connection.scalar(select(or_(exists().select_from(sites), exists().select_from(audit)))):
            raise BadConfiguration(
                "the database already holds a hub",
                "Copy config.toml and the folder keys from the data folder of that hub to make another replica of it, "
                "or make another database.",
            )
    # Last: a folder without it is not a hub.
    disk.write(data / FILE, new_file(database=database).encode(), "config")
    return id


def _place(data: Path, settings: Settings) -> Place:
    return data / DATABASE if settings.database is None else settings.database.get_secret_value()


def bring_forward(data: Path, disk: Disk | None = None, by_itself: bool = False) -> tuple[int, Path | None] | None:
    """Bring the hub's database forward to this version, as `migrations.migrate`. Raises BadConfiguration if another
    process serves the hub, HubBusy if an import of the earlier version goes on.

    by_itself: no person asked for it. A PostgreSQL database, of which no copy is written, is then refused."""
    settings = load_settings(data)
    disk, place = disk or Disk(reserve=settings.disk_reserve), _place(data, settings)
    with serving_lock(data):
        if found_version(place) == HUB.version:
            return None  # an import of this version may go on
        if by_itself and isinstance(place, str):
            return None  # `open_hub` refuses it
        with offline_lock(data):
            return migrate(place, HUB, disk)


def rehearse_migration(data: Path) -> int:
    """As `migrations.rehearse`, for the hub in `data`; other processes may go on, but not those of a PostgreSQL
    database."""
    settings = load_settings(data)
    return rehearse(_place(data, settings), HUB, Disk(reserve=settings.disk_reserve))


@contextlib.contextmanager
def _opened(data: Path, settings: Settings) -> Iterator[Database]:
    database = open_database(_place(data, settings), HUB)
    try:
        yield database
    finally:
        database.close()


@contextlib.contextmanager
def open_hub(data: Path, clock: Clock, disk: Disk | None = None) -> Iterator[Hub]:
    """The hub in `data`. Raises BadConfiguration if it does not exist or cannot be used."""
    settings = load_settings(data)
    disk = disk or Disk(reserve=settings.disk_reserve)
    keys = load_keyring(data / "keys")
    objects = None if settings.blobs is None else object_store(settings.blobs, disk)
    blobs = _blobs(objects, data, "blobs", disk)
    with _opened(data, settings) as database:
        yield Hub(
            data,
            settings,
            clock,
            disk,
            keys,
            database,
            objects,
            blobs,
            Store(database, blobs, disk.step, keys.signing, clock, settings.quota),
            SiteRegistry(database, keys, clock, settings.quota),
            Bundles(data / "bundles"),
            Accounts(database, clock),
            Audit(database, keys.signing),
            Worklist(database, settings.cap),
        )


def _blobs(objects: ObjectStore | None, data: Path, name: str, disk: Disk) -> Blobs:
    return FolderBlobs(data / name, disk) if objects is None else ObjectBlobs(objects, name)


@contextlib.contextmanager
def serving_lock(data: Path) -> Iterator[None]:
    """Hold DATA/lock: one process serves a hub at a time. Raises BadConfiguration if another process serves."""
    try:
        with flock(data / "lock", fcntl.LOCK_EX | fcntl.LOCK_NB):
            yield
    except BlockingIOError:
        raise BadConfiguration("another process already serves this hub", "Stop the other `serve` first.") from None


@contextlib.contextmanager
def offline_lock(data: Path) -> Iterator[None]:
    """Hold DATA/carry.lock: one process at a time takes from sticks, and `serve` may go on beside it.

    Raises HubBusy where another does, or where `serve` sweeps its store in this very moment.
    """
    try:
        with flock(data / "carry.lock", fcntl.LOCK_EX | fcntl.LOCK_NB):
            yield
    except BlockingIOError:
        raise HubBusy("another import or export goes on at this hub", "Let it end, then repeat.") from None
