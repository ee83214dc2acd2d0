"""The bundles of this hub: DATA/bundles/<bundle id>, one of them its default."""

import contextlib
import fcntl
import shutil
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from thinwire.receiver.inference.draft import Drafter
from thinwire.shared.errors import BadBundle, BadConfiguration, UnknownBundle
from thinwire.shared.formats.bundle import Bundle, load_bundle
from thinwire.shared.formats.coder import Coder, load_coder
from thinwire.shared.formats.graph import FusedGraph
from thinwire.shared.formats.payload import decode
from thinwire.shared.identifiers import BUNDLE_ID_BYTES, BundleId, StudyKey
from thinwire.shared.storage.durable import Disk, flock

if TYPE_CHECKING:
    from thinwire.receiver.inference.mpnn import Predictor

DEFAULT, ADDING = "default", "add.lock"


class Bundles:
    """Bundles, their coders and predictors are loaded at the first use and then cached. Safe from any thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bundles: dict[BundleId, Bundle] = {}
        self._coders: dict[BundleId, Coder] = {}
        self._predictors: dict[BundleId, Predictor] = {}
        self._drafters: dict[tuple[BundleId, int], Drafter] = {}
        self._lock = threading.Lock()

    def bundle(self, id: BundleId) -> Bundle:
        """Raises UnknownBundle, and BadBundle for a damaged bundle."""
        with self._lock:
            if id not in self._bundles:
                self._bundles[id] = self._load(id)
            return self._bundles[id]

    def _load(self, id: BundleId) -> Bundle:
        folder = self._folder / id.hex()
        if len(id) != BUNDLE_ID_BYTES or not folder.is_dir():
            raise unknown(id)
        return load_bundle(folder)

    def add(self, source: Path, disk: Disk) -> BundleId:
        """As `add_bundle`."""
        return add_bundle(self._folder, source, disk)

    def choose(self, id: BundleId, disk: Disk) -> None:
        """Make a bundle of this hub its default, durable when this returns. Raises DiskFull."""
        make_default(self._folder, id, disk)

    def complete(self) -> None:
        """Before a backup and after a restore: have every bundle in the folder, and wherever else it is to be. One that
        is nowhere whole is logged."""

    def ids(self) -> list[BundleId]:
        """Every stored bundle, with damaged ones."""
        names = (
            path.name for path in self._folder.iterdir() if path.is_dir() and len(path.name) == 2 * BUNDLE_ID_BYTES
        )
        return sorted(BundleId(bytes.fromhex(name)) for name in names)

    def find(self, prefix: str) -> BundleId:
        """The one bundle whose id starts with these hex digits. Raises UnknownBundle for none, or for several."""
        found = [id for id in self.ids() if id.hex().startswith(prefix.lower())]
        if len(found) != 1:
            raise UnknownBundle(
                f"{len(found) or 'no'} bundles of this hub have an id that starts with these digits",
                "See `thinwire-receiver bundle list`.",
            )
        return found[0]

    def coder(self, id: BundleId) -> Coder:
        """The coder for the payloads of a bundle. Raises UnknownBundle, BadBundle."""
        bundle = self.bundle(id)
        with self._lock:
            if id not in self._coders:
                self._coders[id] = load_coder(bundle)
            return self._coders[id]

    def predictor(self, id: BundleId) -> "Predictor":
        # Imported here, so that the worklist does not wait seconds for torch.
        from thinwire.receiver.inference.mpnn import load_predictor

        bundle = self.bundle(id)
        with self._lock:
            if id not in self._predictors:
                self._predictors[id] = load_predictor(bundle)
            return self._predictors[id]

    def drafter(self, id: BundleId, beams: int) -> Drafter:

        bundle = self.bundle(id)
        with self._lock:
            if (id, beams) not in self._drafters:
                self._drafters[id, beams] = Drafter(bundle, beams)
            return self._drafters[id, beams]

    def unread(self, reader: BundleId, of: BundleId) -> str | None:
        """As `Bundle.unread`; a bundle that the hub lacks, or that is damaged, is a reason too."""
        try:
            return self.bundle(reader).unread(self.bundle(of))
        except UnknownBundle:
            return "the hub has not the bundle that made them"
        except BadBundle:
            return "the bundle that made them is damaged"

    def graph(self, payload: bytes, study: StudyKey, reader: BundleId | None = None) -> FusedGraph:
        """The graph of a stored payload, under the name of the bundle that is to read it: `reader`, else the hub's
        default where that can read it, else its own. Raises BadPayload, UnknownBundle, BadBundle."""
        return self.to_read(decode(payload, study, self.coder, decoded_before=True), reader)

    def to_read(self, graph: FusedGraph, reader: BundleId | None = None) -> FusedGraph:
        """As `graph`, of one that is decoded."""
        chosen = self._named_default() if reader is None else reader
        if chosen is None or chosen == graph.bundle:
            return graph
        refused = self.unread(chosen, graph.bundle)
        if refused is not None and reader is not None:
            raise UnknownBundle(f"bundle {chosen.hex()[:8]} cannot read graphs of {graph.bundle.hex()[:8]}: {refused}")
        return graph if refused is not None else replace(graph, bundle=chosen)

    def _named_default(self) -> BundleId | None:
        try:
            return self.default()
        except BadConfiguration:
            return None

    def default(self) -> BundleId:
        """Raises BadConfiguration if the folder names none."""
        try:
            return BundleId(bytes.fromhex((self._folder / DEFAULT).read_text("ascii").strip()))
        except (OSError, ValueError) as error:
            raise BadConfiguration("the hub has no default bundle", "Make the hub again: init.") from error


def unknown(id: BundleId) -> UnknownBundle:
    return UnknownBundle(f"the hub has no bundle {id.hex()[:8]}")


def add_bundle(folder: Path, source: Path, disk: Disk) -> BundleId:
    """Copy a bundle into DATA/bundles, every file checked against its digest before and after; durable when this
    returns, and complete or absent. A repeat has no effect. Raises BadBundle, BadConfiguration, DiskFull."""
    bundle = load_bundle(source)
    target = folder / bundle.id.hex()
    files = sorted(path for path in bundle.folder.iterdir() if path.is_file())
    with adding(folder, disk):
        if not target.exists():
            place_bundle(target, ((path.name, path.read_bytes()) for path in files), disk)
    return bundle.id


@contextlib.contextmanager
def adding(folder: Path, disk: Disk) -> Iterator[None]:
    """One process at a time puts bundles into a folder, which is made if it is missing."""
    disk.make_folder(folder)
    with flock(folder / ADDING, fcntl.LOCK_EX):
        yield


def place_bundle(target: Path, files: Iterable[tuple[str, bytes]], disk: Disk) -> Bundle:
    """Write a bundle's files to a folder that is missing; it is then complete or absent. Raises BadBundle."""
    # Until the rename the copy has a name that no bundle has.
    beside = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(beside, ignore_errors=True)
    disk.make_folder(beside)
    for name, data in files:
        disk.write(beside / name, data, "bundle.file")
    load_bundle(beside)
    disk.move(beside, target, "bundle")
    return load_bundle(target)


def make_default(folder: Path, id: BundleId, disk: Disk) -> None:
    """Name the default of DATA/bundles; durable when this returns. Raises DiskFull."""
    disk.write(folder / DEFAULT, id.hex().encode("ascii") + b"\n", "bundle.default")
