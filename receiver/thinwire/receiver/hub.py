"""One hub: its open data folder and the components on it. Layout: docs/store-format.md."""

import contextlib
import fcntl
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from thinwire.receiver.access.accounts import Accounts
from thinwire.receiver.access.audit import Audit
from thinwire.receiver.config import FILE, Settings, load_settings, new_file, settings_of
from thinwire.receiver.decoding.decoder import Decoder
from thinwire.receiver.decoding.process import EXAMINING, RENDERING, DecodingProcess
from thinwire.receiver.drafting import Drafting
from thinwire.receiver.export.best_image import StudyImages
from thinwire.receiver.inference.bundles import Bundles
from thinwire.receiver.pipeline import HubPipeline
from thinwire.receiver.sites.enrolment import SiteRegistry
from thinwire.receiver.sites.keyring import Keyring, load_keyring, make_keyring
from thinwire.receiver.sites.rotation import advance, in_use, register
from thinwire.receiver.store.bucket_owner import claim, require_own_place
from thinwire.receiver.store.content import Examiner
from thinwire.receiver.store.news import News
from thinwire.receiver.store.quarantine import FolderQuarantine, ObjectQuarantine, SharedQuarantine
from thinwire.receiver.store.shared_bundles import SharedBundles
from thinwire.receiver.store.store import Store
from thinwire.receiver.store.tables import HUB
from thinwire.receiver.store.worklist_query import Worklist
from thinwire.receiver.transport.inbox import FolderInbox, Inbox
from thinwire.receiver.transport.partial_reader import PartialReader
from thinwire.receiver.transport.pieces import PieceInbox
from thinwire.shared.clock import Clock
from thinwire.shared.errors import BadConfiguration, HubBusy, Retryable
from thinwire.shared.heartbeats import Heartbeats
from thinwire.shared.identifiers import BundleId
from thinwire.shared.listening.guard import Listeners
from thinwire.shared.storage.blobs import Blobs, FolderBlobs
from thinwire.shared.storage.database import Database, Place
from thinwire.shared.storage.durable import Disk, flock
from thinwire.shared.storage.migrations import create_database, found_version, migrate, open_database, rehearse
from thinwire.shared.storage.object_blobs import ObjectBlobs
from thinwire.shared.storage.object_store import ObjectStore, object_store

log = logging.getLogger(__name__)

DATABASE = "thinwire.db"
_TRIES, _PAUSE = 20, 0.1
"""Tries for a lock that another process holds for a moment, and seconds between them."""
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
    news: News = field(repr=False)
    listeners: Listeners = field(default_factory=Listeners, repr=False)
    heartbeats: Heartbeats = field(default_factory=Heartbeats, repr=False)

    def study_images(self, process: DecodingProcess = RENDERING) -> StudyImages:
        """The best available image of each study. process: decodes; by default the one of the readers."""
        arriving = PartialReader(self.inbox(), self.enrolment)
        return StudyImages(self.store, arriving, Decoder(process, self.settings.largest_study))

    def inbox(self) -> Inbox:
        if self.objects is None:
            return FolderInbox(self.data / "inbox", self.disk, self.clock)
        return PieceInbox(self.database, self.objects, self.data / "inbox", self.disk, self.clock)

    def quarantine(self) -> ObjectQuarantine:
        if self.objects is None:
            return FolderQuarantine(self.data / "quarantine", self.disk, self.clock)
        return SharedQuarantine(self.objects, self.clock)

    def damaged_blobs(self) -> Blobs:
        """Damaged blobs as they were found, set aside by `check --repair`."""
        return _blobs(self.objects, self.data, DAMAGED, self.disk)

    def pipeline(self) -> HubPipeline:
        examiner = Examiner(self.bundles.coder, Decoder(EXAMINING, self.settings.largest_study))
        return HubPipeline(
            self.store,
            self.enrolment,
            self.bundles,
            examiner,
            self.quarantine(),
            self.audit,
            self.clock,
            self.settings.batch,
            heartbeats=self.heartbeats,
        )

    def drafting(self, idle: threading.Event) -> Drafting:
        """Drafting of reports while `idle` is set."""
        return Drafting(self.store, self.bundles, self.settings.draft, idle)


def make_hub(
    data: Path, bundle: Path, disk: Disk, clock: Clock, database: str | None = None, blobs: str | None = None
) -> BundleId:
    """Create a hub in `data` with this default bundle. database, blobs: the URLs of PostgreSQL and of an object store,
    for the settings; else the environment's. Raises BadConfiguration if the folder or the database already holds a
    hub."""
    given = {"database": database, "blobs": blobs}
    settings = settings_of({name: value for name, value in given.items() if value})
    objects = objects_of(settings, disk)
    if (data / FILE).exists():
        raise BadConfiguration(
            "the folder already holds a hub", "Choose another --data folder; a hub is never replaced."
        )
    disk.make_folder(data)
    if any(each.name != "bundles" for each in data.iterdir()):
        raise BadConfiguration("the folder is not empty", "Choose an empty --data folder for the new hub.")
    id = None if objects is not None else _first_bundle(Bundles(data / "bundles"), bundle, disk)
    make_keyring(data / "keys", disk, clock)
    keys = load_keyring(data / "keys")
    if objects is not None:
        claim(objects, keys.signing)
    create_database(place_of(data, settings), HUB)
    with _opened(data, settings) as made:
        # Two hubs that are made in one database at the same time: the first one has it.
        register(keys, made, clock, new=True)
        id = id or _first_bundle(_bundles(objects, made, data, disk, clock), bundle, disk)
    # Last: a folder without it is not a hub.
    disk.write(data / FILE, new_file(database=database, blobs=blobs).encode(), "config")
    return id


def _first_bundle(bundles: Bundles, source: Path, disk: Disk) -> BundleId:
    id = bundles.add(source, disk)
    bundles.choose(id, disk)
    return id


def place_of(data: Path, settings: Settings) -> Place:
    """The place of the hub's database."""
    return data / DATABASE if settings.database is None else settings.database.get_secret_value()


def bring_forward(data: Path, disk: Disk | None = None, by_itself: bool = False) -> tuple[int, Path | None] | None:
    """Bring the hub's database forward to this version, as `migrations.migrate`. Raises BadConfiguration if another
    process serves the hub, HubBusy if an import of the earlier version goes on.

    by_itself: no person asked for it. A PostgreSQL database, of which no copy is written, is then refused."""
    settings = load_settings(data)
    disk, place = disk or Disk(reserve=settings.disk_reserve), place_of(data, settings)
    if found_version(place) == HUB.version:
        return None  # processes of this version may go on
    with serving_lock(data):
        if found_version(place) == HUB.version:
            return None
        if by_itself and isinstance(place, str):
            return None  # `open_hub` refuses it
        with offline_lock(data):
            return migrate(place, HUB, disk)


def rehearse_migration(data: Path) -> int:
    """As `migrations.rehearse`, for the hub in `data`; other processes may go on, but not those of a PostgreSQL
    database."""
    settings = load_settings(data)
    return rehearse(place_of(data, settings), HUB, Disk(reserve=settings.disk_reserve))


@contextlib.contextmanager
def _opened(data: Path, settings: Settings) -> Iterator[Database]:
    database = open_database(place_of(data, settings), HUB)
    try:
        yield database
    finally:
        database.close()


@contextlib.contextmanager
def open_hub(data: Path, clock: Clock, disk: Disk | None = None, serves: bool = False) -> Iterator[Hub]:
    """The hub in `data`. serves: new keys are put in use where it is time. Raises BadConfiguration if it does not exist
    or cannot be used."""
    settings = load_settings(data)
    disk = disk or Disk(reserve=settings.disk_reserve)
    found = load_keyring(data / "keys")
    if (objects := objects_of(settings, disk)) is not None:
        objects.require(partial(require_own_place, objects, found.signing))
    blobs = blobs_of(objects, data, disk)
    with _opened(data, settings) as database:
        if serves:
            advance(found, database, clock)
        keys = in_use(found, database)
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
            _bundles(objects, database, data, disk, clock),
            Accounts(database, clock),
            Audit(database, keys.signing),
            Worklist(database, settings.cap),
            News(database),
        )


def _bundles(objects: ObjectStore | None, database: Database, data: Path, disk: Disk, clock: Clock) -> Bundles:
    if objects is None:
        return Bundles(data / "bundles")
    shared = SharedBundles(data / "bundles", database, ObjectBlobs(objects, "bundles"), disk, clock)
    shared.adopt()
    return shared


def require_place(hub: Hub) -> None:
    """At the start of a process that serves or works. Raises BadConfiguration if the object store is not this hub's."""
    if hub.objects is None:
        return
    try:
        hub.objects.prove()
    except Retryable as error:  # it is asked again before its first use
        log.warning("the object store cannot be asked whose it is: %s", error)


def objects_of(settings: Settings, disk: Disk) -> ObjectStore | None:
    return None if settings.blobs is None else object_store(settings.blobs, disk)


def blobs_of(objects: ObjectStore | None, data: Path, disk: Disk) -> Blobs:
    """The blobs of the hub in `data`."""
    return _blobs(objects, data, "blobs", disk)


def _blobs(objects: ObjectStore | None, data: Path, name: str, disk: Disk) -> Blobs:
    return FolderBlobs(data / name, disk) if objects is None else ObjectBlobs(objects, name)


@contextlib.contextmanager
def serving_lock(data: Path) -> Iterator[None]:
    """Hold DATA/lock: no process serves the hub, or works on it. Raises BadConfiguration if one does."""
    try:
        with flock(data / "lock", fcntl.LOCK_EX | fcntl.LOCK_NB):
            yield
    except BlockingIOError:
        raise BadConfiguration(
            "another process already serves this hub", "Stop `serve` and `work` of this hub first."
        ) from None


@contextlib.contextmanager
def working_lock(data: Path, serves: bool) -> Iterator[bool]:
    """Hold DATA/lock with others: nothing brings the hub forward or restores it. Yields whether this process was the
    only one at first. serves: hold DATA/serve.lock too, which one `serve` has. Raises BadConfiguration."""
    with contextlib.ExitStack() as held:
        if serves:
            try:
                held.enter_context(flock(data / "serve.lock", fcntl.LOCK_EX | fcntl.LOCK_NB))
            except BlockingIOError:
                raise BadConfiguration(
                    "another process already serves this hub", "Stop the other `serve` first."
                ) from None
        alone = True
        try:
            with flock(data / "lock", fcntl.LOCK_EX | fcntl.LOCK_NB):
                pass
        except BlockingIOError:
            alone = False
        for again in range(_TRIES, -1, -1):
            try:
                held.enter_context(flock(data / "lock", fcntl.LOCK_SH | fcntl.LOCK_NB))
                break
            except BlockingIOError:
                # Another process may look at this moment whether it is the only one.
                if not again:
                    raise BadConfiguration(
                        "the hub is brought forward or restored, or an earlier version serves it",
                        "Let it end, or stop it; then repeat.",
                    ) from None
                time.sleep(_PAUSE)
        yield alone


@contextlib.contextmanager
def removal_lock(hub: Hub) -> Iterator[None]:
    """Hold DATA/removal.lock: studies are removed by one process at a time, and none during a backup, which copies what
    its database names. Raises HubBusy, DatabaseBusy."""
    try:
        with flock(hub.data / "removal.lock", fcntl.LOCK_EX | fcntl.LOCK_NB), hub.database.alone("removal"):
            yield
    except BlockingIOError:
        raise HubBusy("studies are removed, or a backup is made, at this hub", "Let it end, then repeat.") from None


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
