"""One hub: its open data folder and the components on it. Layout: docs/store-format.md."""

import contextlib
import fcntl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from thinwire.receiver.access.accounts import Accounts
from thinwire.receiver.access.audit import Audit
from thinwire.receiver.config import FILE, TEMPLATE, Settings, load_settings
from thinwire.receiver.decoding.decoder import Decoder
from thinwire.receiver.decoding.process import EXAMINING, RENDERING, DecodingProcess
from thinwire.receiver.drafting import Drafting
from thinwire.receiver.export.best_image import StudyImages
from thinwire.receiver.inference.bundles import Bundles, add_bundle, make_default
from thinwire.receiver.pipeline import HubPipeline
from thinwire.receiver.sites.enrolment import SiteRegistry
from thinwire.receiver.sites.keyring import Keyring, load_keyring, make_keyring
from thinwire.receiver.store.content import Examiner
from thinwire.receiver.store.news import News
from thinwire.receiver.store.quarantine import ObjectQuarantine
from thinwire.receiver.store.store import Store
from thinwire.receiver.store.tables import HUB
from thinwire.receiver.store.worklist_query import Worklist
from thinwire.receiver.transport.partial_reader import PartialReader
from thinwire.shared.clock import Clock
from thinwire.shared.errors import BadConfiguration, HubBusy
from thinwire.shared.identifiers import BundleId
from thinwire.shared.listening.guard import Listeners
from thinwire.shared.storage.blobs import Blobs
from thinwire.shared.storage.database import Database
from thinwire.shared.storage.durable import Disk, flock
from thinwire.shared.storage.migrations import create_database, found_version, migrate, open_database, rehearse

DATABASE = "thinwire.db"


@dataclass(frozen=True)
class Hub:
    data: Path
    settings: Settings
    clock: Clock
    disk: Disk = field(repr=False)
    keys: Keyring = field(repr=False)
    database: Database = field(repr=False)
    store: Store = field(repr=False)
    enrolment: SiteRegistry = field(repr=False)
    bundles: Bundles = field(repr=False)
    accounts: Accounts = field(repr=False)
    audit: Audit = field(repr=False)
    worklist: Worklist = field(repr=False)
    news: News = field(repr=False)
    listeners: Listeners = field(default_factory=Listeners, repr=False)

    def study_images(self, process: DecodingProcess = RENDERING) -> StudyImages:
        """The best available image of each study. process: decodes; by default the one of the readers."""
        arriving = PartialReader(self.data / "inbox", self.enrolment)
        return StudyImages(self.store, arriving, Decoder(process, self.settings.largest_study))

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


def make_hub(data: Path, bundle: Path, disk: Disk, clock: Clock) -> BundleId:
    """Create a hub in `data` with this default bundle. Raises BadConfiguration if the folder already holds a hub."""
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
    create_database(data / DATABASE, HUB)
    # Last: a folder without it is not a hub.
    disk.write(data / FILE, TEMPLATE.encode(), "config")
    return id


def bring_forward(data: Path, disk: Disk | None = None) -> tuple[int, Path] | None:
    """Bring the hub's database forward to this version, as `migrations.migrate`. Raises BadConfiguration if another
    process serves the hub, HubBusy if an import of the earlier version goes on."""
    disk, path = disk or Disk(reserve=load_settings(data).disk_reserve), data / DATABASE
    with serving_lock(data):
        if found_version(path) == HUB.version:
            return None  # an import of this version may go on
        with offline_lock(data):
            return migrate(path, HUB, disk)


def rehearse_migration(data: Path) -> int:
    """As `migrations.rehearse`, for the hub in `data`; other processes may go on."""
    return rehearse(data / DATABASE, HUB, Disk(reserve=load_settings(data).disk_reserve))


@contextlib.contextmanager
def open_hub(data: Path, clock: Clock, disk: Disk | None = None) -> Iterator[Hub]:
    """The hub in `data`. Raises BadConfiguration if it does not exist or cannot be used."""
    settings = load_settings(data)
    disk = disk or Disk(reserve=settings.disk_reserve)
    keys = load_keyring(data / "keys")
    database = open_database(data / DATABASE, HUB)
    try:
        yield Hub(
            data,
            settings,
            clock,
            disk,
            keys,
            database,
            Store(database, Blobs(data / "blobs", disk), disk.step, keys.signing, clock, settings.quota),
            SiteRegistry(database, keys, clock, settings.quota),
            Bundles(data / "bundles"),
            Accounts(database, clock),
            Audit(database, keys.signing),
            Worklist(database, settings.cap),
            News(database),
        )
    finally:
        database.close()


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
