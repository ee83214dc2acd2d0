"""The bundles of several replicas: rows and blobs. The folder `bundles` of each machine is a cache of them."""

import contextlib
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import func, insert, select, update

from thinwire.receiver.inference.bundles import Bundles, adding, make_default, place_bundle, unknown
from thinwire.receiver.store.tables import bundle_files, bundles
from thinwire.shared.clock import Clock
from thinwire.shared.errors import BadBundle, BadConfiguration, BadFormat, UnknownBundle
from thinwire.shared.formats.bundle import Bundle, load_bundle
from thinwire.shared.formats.positional import micros
from thinwire.shared.identifiers import BundleId, Digest, digest
from thinwire.shared.storage.blobs import Blobs
from thinwire.shared.storage.database import Database, insert_new
from thinwire.shared.storage.durable import Disk

log = logging.getLogger(__name__)

REMEMBERED = 1.0
"""Seconds in which the default is not read again: every graph asks for it."""
_TURN = "bundles"


class SharedBundles(Bundles):
    """folder: the cache. blobs: of the bundles' files."""

    def __init__(
        self,
        folder: Path,
        database: Database,
        blobs: Blobs,
        disk: Disk,
        clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(folder)
        self._database = database
        self._blobs = blobs
        self._disk = disk
        self._clock = clock
        self._monotonic = monotonic
        self._default: tuple[BundleId, float] | None = None

    def _load(self, id: BundleId) -> Bundle:
        query = select(bundle_files.c.name, bundle_files.c.digest).where(bundle_files.c.bundle == id)
        with self._database.read() as connection:
            files = connection.execute(query.order_by(bundle_files.c.name)).all()
        if not files:
            raise unknown(id)
        target = self._folder / id.hex()
        with adding(self._folder, self._disk):
            try:
                if target.is_dir() and (cached := load_bundle(target)).id == id:
                    return cached
            except (BadBundle, BadConfiguration):
                pass  # of a disk that failed: it is fetched again
            shutil.rmtree(target, ignore_errors=True)
            try:
                content = ((row.name, self._blobs.read(Digest(row.digest))) for row in files)
                return place_bundle(target, content, self._disk)
            except BadFormat as error:
                if isinstance(error, BadBundle):
                    raise
                raise BadBundle("a file of the bundle is damaged in the object store, or missing there") from None

    def add(self, source: Path, disk: Disk) -> BundleId:
        bundle = load_bundle(source)
        paths = sorted(path for path in bundle.folder.iterdir() if path.is_file())
        digests = {path.name: self._blobs.write(path.read_bytes()) for path in paths}
        disk.step("bundle.before_commit")
        with self._database.write(turn=_TURN) as connection:
            new = insert_new(bundles).values(bundle=bundle.id, added_at=micros(self._clock.now()))
            if connection.execute(new.on_conflict_do_nothing()).rowcount:
                rows = [{"bundle": bundle.id, "name": name, "digest": each} for name, each in digests.items()]
                connection.execute(insert(bundle_files), rows)
        disk.step("bundle.committed")
        return bundle.id

    def adopt(self) -> None:
        """Add the bundles of the folder that the rows do not name, as after a move of the hub from it."""
        if not self._folder.is_dir():
            return
        local, known = Bundles(self._folder), set(self.ids())
        for id in local.ids():
            if id not in known:
                try:
                    self.add(self._folder / id.hex(), self._disk)
                except (BadBundle, BadConfiguration) as error:
                    log.warning("bundle %s of the folder is not used: %s", id.hex()[:8], error)
        if not known:
            with contextlib.suppress(BadConfiguration, UnknownBundle):
                self.choose(local.default(), self._disk)

    def complete(self) -> None:
        for id in self.ids():
            try:
                folder = self.bundle(id).folder
            except BadBundle as error:
                log.error("bundle %s is nowhere whole, add it again: %s", id.hex()[:8], error)
                continue
            for path in sorted(folder.iterdir()):
                data = path.read_bytes()
                if not self._blobs.has(digest(data), len(data)):
                    self._blobs.write(data)
        # A hub that is restored from here without an object store has its default in the folder.
        make_default(self._folder, self.default(), self._disk)

    def choose(self, id: BundleId, disk: Disk) -> None:
        disk.step("bundle.default.before_commit")
        with self._database.write(turn=_TURN) as connection:
            # Later than any other, whatever this machine's clock says.
            last = connection.scalar(select(func.max(bundles.c.chosen_at)))
            at = max(micros(self._clock.now()), (last or 0) + 1)
            chosen = update(bundles).where(bundles.c.bundle == id).values(chosen_at=at)
            if connection.execute(chosen).rowcount != 1:
                raise unknown(id)
        self._default = None

    def ids(self) -> list[BundleId]:
        with self._database.read() as connection:
            return [BundleId(each) for each in connection.scalars(select(bundles.c.bundle).order_by(bundles.c.bundle))]

    def default(self) -> BundleId:
        known = self._default
        if known is not None and self._monotonic() - known[1] < REMEMBERED:
            return known[0]
        query = select(bundles.c.bundle).where(bundles.c.chosen_at.is_not(None)).order_by(bundles.c.chosen_at.desc())
        with self._database.read() as connection:
            found = connection.scalar(query.limit(1))
        if found is None:
            raise BadConfiguration("the hub has no default bundle", "Name it: `thinwire-receiver bundle default`.")
        self._default = BundleId(found), self._monotonic()
        return self._default[0]
