"""Objects received from modalities: durable before the acknowledgement, then moved to the outbox study by study.

Files: DATA/arrivals/<object>.dcm; rows: tables `batches`, `arrivals`, `ledger`. Names are keyed digests of UIDs, since
a UID identifies a patient in the modality's records. An object's file is durable before its row, and loses its row
before it is removed: a file without a row is removed if its object was judged, and else received. Receiving, accepting
and storage commitment may run in different threads.
"""

import logging
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from sqlalchemy import Connection, delete, func, insert, select, update

from thinwire.sender.outbox.ledger import Ledger, judged, parts_of
from thinwire.sender.outbox.tables import arrivals, batches, ledger, unreadable
from thinwire.shared.clock import Clock
from thinwire.shared.errors import DiskFull, Retryable, UnreadableDicom
from thinwire.shared.formats.positional import micros
from thinwire.shared.identifiers import StudyKey
from thinwire.shared.imaging.file_format import dataset_digest
from thinwire.shared.imaging.header import FileLimits, glance
from thinwire.shared.storage.database import Database
from thinwire.shared.storage.durable import Disk

log = logging.getLogger(__name__)

_INCOMING, _SUFFIX = "incoming", ".dcm"
_NAME_BYTES = 16


class ObjectState(StrEnum):
    """The state of an object from a modality."""

    UNKNOWN = "unknown"
    PENDING = "pending"
    """Durable; its study is not yet complete."""
    ACCEPTED = "accepted"
    """In the outbox: it stays at the clinic until the hub has it."""
    REFUSED = "refused"
    """In quarantine."""


@dataclass(frozen=True)
class ReceivedObject:
    """One object by its header. Its UIDs are not part of repr, and so not of logs."""

    sop_class: str
    sop_instance: str = field(repr=False)
    study: str = field(repr=False)
    """Study Instance UID; empty for an object without one, which is a separate study."""


class Arrivals:
    """folder: DATA/arrivals, for one process at a time. signing: the site's signing key, 32 bytes, from which names are
    keyed. is_whole: whether the outbox has all bytes of a study."""

    def __init__(
        self,
        folder: Path,
        database: Database,
        signing: bytes,
        disk: Disk,
        clock: Clock,
        is_whole: Callable[[StudyKey], bool],
    ) -> None:
        self.folder = folder
        self._database = database
        self._disk = disk
        self._clock = clock
        self._is_whole = is_whole
        self.ledger = Ledger(database, signing, disk)
        self._lock = threading.Lock()
        self._moved: dict[bytes, float] = {}
        """Monotonic time of the last object of each study."""
        self._opened = clock.monotonic()
        disk.make_folder(self.incoming)
        self.sweep_incoming()
        self._settle_unnamed()

    @property
    def incoming(self) -> Path:
        """The folder of objects that are being received; its content is temporary."""
        return self.folder / _INCOMING

    def sweep_incoming(self) -> None:
        """Remove the files of interrupted transfers. No transfer may be in progress."""
        for half in self.incoming.iterdir():
            half.unlink(missing_ok=True)

    def keep(self, path: Path, sent: ReceivedObject) -> bool:
        """Make an object durable; False if it was received before. path: its file in `incoming`, which is moved.

        Other content under a known SOP Instance UID, such as a corrected header, is kept beside the first: it is
        another version, on which a person decides. Raises DiskFull, DatabaseBusy.
        """
        name, study = self._name(sent.sop_instance), self._name(sent.study or sent.sop_instance)
        dataset = dataset_digest(path)
        with self._lock:
            self._moved[study] = self._clock.monotonic()
            first = self._known_as(name)
            if first not in (None, dataset):
                name = self.ledger.version_name(sent.sop_instance, dataset)
                first = self._known_as(name)
            if first is not None:
                return False
            # The outbox packs it and makes its parts before the first byte can be sent.
            if self._disk.free(self.folder) < 2 * path.stat().st_size:
                raise DiskFull("no space for the object and its parts")
            self._disk.adopt(path, self._file(name), "arrival")
            try:
                self._insert(name, study, dataset, sent.sop_class)
            except Retryable:
                self._file(name).unlink(missing_ok=True)
                raise
        return True

    def waiting(self) -> int:
        """Number of studies that are not yet in the outbox."""
        with self._database.read() as connection:
            return connection.execute(select(func.count()).select_from(batches)).scalar_one()

    def complete_studies(
        self, seconds: float, under_way: Collection[str] = (), but: Collection[str] = ()
    ) -> Iterator[tuple[Path, ...]]:
        """The files of each study without a new object for `seconds`; late objects form another study.

        under_way: studies (`ReceivedObject.study`, or `ReceivedObject.sop_instance` without one) with an object from an
        open association. but: left out, by the stem of the first file of each. An object whose file is missing or
        damaged is left out: it counts as not received.
        """
        busy = {self._name(uid) for uid in under_way}
        with self._database.read() as connection:
            rows = connection.execute(select(batches).order_by(batches.c.batch)).all()
        in_progress = {row.study for row in rows if row.complete}
        for row in rows:
            if not row.complete and (
                row.study in busy or row.study in in_progress or not self._completed(row.batch, row.study, seconds)
            ):
                continue
            if but and self._first(row.batch) in but:
                continue
            files = self._files(row.batch)
            if files:
                yield files

    def record_verdicts(self, verdicts: Mapping[Path, StudyKey | None]) -> None:
        """Record that all files of a study from `complete_studies` are in the outbox, or (None) in quarantine, and
        remove them. After an interruption the study is accepted or refused again, with the same result."""
        at = micros(self._clock.now())
        with self._lock:  # the same object, received again, takes the same name
            with self._database.write() as connection:
                emptied = set()
                for path, study in sorted(verdicts.items()):
                    name = bytes.fromhex(path.stem)
                    row = connection.execute(select(arrivals).where(arrivals.c.object == name)).one()
                    judged(connection, name, row.dataset, row.sop_class, study, at)
                    connection.execute(delete(arrivals).where(arrivals.c.object == name))
                    emptied.add(row.batch)
                for batch in emptied:
                    _remove_empty(connection, batch)
                self._disk.step("arrival.ledger.before_commit")
            self._disk.step("arrival.ledger.committed")
            for path in verdicts:
                # Not made durable: a file that comes back after a power cut has no row.
                path.unlink(missing_ok=True)
                self._disk.step("arrival.judged.removed")

    def state_of(self, sop_instance: str) -> ObjectState:
        if self.pending([sop_instance]):
            return ObjectState.PENDING
        known = self.ledger.known(sop_instance)
        if known is None:
            return ObjectState.UNKNOWN
        return ObjectState.REFUSED if known.study is None else ObjectState.ACCEPTED

    def pending(self, sop_instances: Sequence[str]) -> bool:
        """Whether the study of one of these objects is neither accepted nor refused yet."""
        names = [self._name(uid) for uid in sop_instances]
        with self._database.read() as connection:
            return any(
                connection.execute(select(arrivals.c.object).where(arrivals.c.object.in_(some)).limit(1)).first()
                for some in parts_of(names)
            )

    def _known_as(self, name: bytes) -> bytes | None:
        """The digest of the data set of an object that waits, or that is whole in the outbox; else None."""
        with self._database.read() as connection:
            waits = connection.execute(select(arrivals.c.dataset).where(arrivals.c.object == name)).scalar()
        if waits is not None:
            return bytes(waits)
        known = self.ledger.entries([name]).get(name)
        return known.dataset if known is not None and known.study is not None and self._is_whole(known.study) else None

    def _insert(self, name: bytes, study: bytes, dataset: bytes, sop_class: str) -> None:
        """The row of an object whose file is durable."""
        with self._database.write() as connection:
            collecting = (batches.c.study == study) & ~batches.c.complete
            batch = connection.execute(select(batches.c.batch).where(collecting)).scalar()
            if batch is None:
                new = insert(batches).values(study=study, complete=False).returning(batches.c.batch)
                batch = connection.execute(new).scalar_one()
            row = {"object": name, "batch": batch, "dataset": dataset, "sop_class": sop_class}
            connection.execute(insert(arrivals).values(row))
            connection.execute(delete(unreadable).where(unreadable.c.path == self._below(name)))
            self._disk.step("arrival.row.before_commit")
        self._disk.step("arrival.row.committed")

    def _completed(self, batch: int, study: bytes, seconds: float) -> bool:
        """Whether no object of a study came for `seconds`; its batch is then complete."""
        with self._lock:
            if self._clock.monotonic() - self._moved.get(study, self._opened) < seconds:
                return False
            with self._database.write() as connection:
                connection.execute(update(batches).where(batches.c.batch == batch).values(complete=True))
                self._disk.step("arrival.complete.before_commit")
            self._moved.pop(study, None)
        self._disk.step("arrival.complete.committed")
        return True

    def _first(self, batch: int) -> str:
        """The stem of the first file of a batch; empty without one."""
        with self._database.read() as connection:
            name = connection.scalar(select(func.min(arrivals.c.object)).where(arrivals.c.batch == batch))
        return "" if name is None else bytes(name).hex()

    def _files(self, batch: int) -> tuple[Path, ...]:
        """The files of a batch. Those that are missing or damaged lose their row and are told once."""
        with self._database.read() as connection:
            rows = connection.execute(select(arrivals).where(arrivals.c.batch == batch)).all()
        whole, lost = [], []
        for row in rows:
            path = self._file(row.object)
            reason = "is missing" if not path.exists() else "" if _holds(path, row.dataset) else "is damaged"
            if reason:
                lost.append((row.object, f"the file of an object from a modality {reason}; send the study again"))
            else:
                whole.append(path)
        if lost:
            log.error("%d files in arrivals are missing or damaged: send the study again from the modality", len(lost))
            with self._database.write() as connection:
                for name, reason in lost:
                    connection.execute(delete(arrivals).where(arrivals.c.object == name))
                    connection.execute(delete(unreadable).where(unreadable.c.path == self._below(name)))
                    known = {"path": self._below(name), "reason": reason, "at": micros(self._clock.now())}
                    connection.execute(insert(unreadable).values(known))
                _remove_empty(connection, batch)
        return tuple(sorted(whole))

    def _settle_unnamed(self) -> None:
        """The files without a row: those of judged objects are removed; the others count as received. Their row was not
        written before a power cut, or an older copy of the database was restored."""
        found = [path for path in self.folder.glob("*" + _SUFFIX) if len(path.stem) == 2 * _NAME_BYTES]
        for some in parts_of([bytes.fromhex(path.stem) for path in found]):
            paths = [self._below(name) for name in some]
            with self._database.read() as connection:
                named = set(connection.execute(select(arrivals.c.object).where(arrivals.c.object.in_(some))).scalars())
                kept = set(connection.execute(select(unreadable.c.path).where(unreadable.c.path.in_(paths))).scalars())
                rows = connection.execute(select(ledger.c.object, ledger.c.study).where(ledger.c.object.in_(some)))
                judged = {row.object: row.study for row in rows}
            for name in some:
                if name in named or self._below(name) in kept:
                    continue
                if name in judged and (judged[name] is None or self._is_whole(StudyKey(judged[name]))):
                    self._disk.remove(self._file(name), "arrival.unnamed")
                else:
                    self._take_back(name)

    def _take_back(self, name: bytes) -> None:
        """Write the row of an object's file by its header; a file that cannot be read is listed."""
        path = self._file(name)
        try:
            header = glance(path, FileLimits())
            instance = header.text("SOPInstanceUID")
            versions = (self._name(instance), self.ledger.version_name(instance, dataset_digest(path)))
            if name not in versions:
                raise UnreadableDicom("its name is of another object")
        except UnreadableDicom:
            reason = "no row names it, and it cannot be read"
            with self._database.write() as connection:
                row = {"path": self._below(name), "reason": reason, "at": micros(self._clock.now())}
                connection.execute(insert(unreadable).values(row))
            return
        study = self._name(header.text("StudyInstanceUID") or instance)
        self._insert(name, study, dataset_digest(path), header.text("SOPClassUID"))

    def _file(self, name: bytes) -> Path:
        return self.folder / (name.hex() + _SUFFIX)

    def _below(self, name: bytes) -> str:
        """The path of an object's file below the data folder."""
        return f"{self.folder.name}/{name.hex()}{_SUFFIX}"

    def _name(self, uid: str) -> bytes:
        return self.ledger.name(uid)


def _remove_empty(connection: Connection, batch: int) -> None:
    """Remove a batch without objects."""
    left = select(arrivals.c.object).where(arrivals.c.batch == batch).exists()
    connection.execute(delete(batches).where(batches.c.batch == batch, ~left))


def _holds(path: Path, dataset: bytes) -> bool:
    try:
        return dataset_digest(path) == dataset
    except OSError:
        return False
