"""The ledger: every DICOM object that was accepted or refused, by its SOP Instance UID, with its study.

By it a repeat is told from a corrected header, and a late file finds its study. Names are keyed digests of UIDs, since
a UID identifies a patient in the modality's records.
"""

import hmac
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import Connection, delete, insert, select

from thinwire.sender.outbox.tables import ledger, studies
from thinwire.shared.formats.positional import micros, moment
from thinwire.shared.identifiers import Digest, StudyKey
from thinwire.shared.storage.database import Database
from thinwire.shared.storage.durable import Disk

_NAME_BYTES = 16
_MOST_NAMES = 500
"""Names in one query."""
_MOST_PURGED = 10_000
"""Entries that one transaction removes."""


@dataclass(frozen=True)
class LedgerEntry:
    """The entry of an object whose study was accepted or refused."""

    dataset: bytes
    """SHA-256 of its data set, 32 bytes."""
    sop_class: str
    study: StudyKey | None
    """None if its study was refused."""
    at: datetime
    file: Digest | None = None
    """SHA-256 of the file as it leaves the clinic, or of the refused file; None of a file that stays."""
    is_former: bool = False
    """Whether an earlier version wrote it, which knew no files."""


@dataclass(frozen=True)
class NewEntry:
    """An object for the ledger. Its UIDs are not part of repr, and so not of logs."""

    name: bytes
    """From `Ledger.name` or `Ledger.version_name`."""
    dataset: bytes
    sop_class: str
    study_uid: str = field(repr=False)
    file: Digest | None


class Ledger:
    """signing: the site's signing key, 32 bytes, from which names are keyed. Safe from any thread and process."""

    def __init__(self, database: Database, signing: bytes, disk: Disk) -> None:
        self._database = database
        self._disk = disk
        self._key = HKDF(SHA256(), 32, salt=None, info=b"thinwire arrivals v1").derive(signing)

    def name(self, uid: str) -> bytes:
        """The name of an object or a study, 16 bytes."""
        return hmac.digest(self._key, uid.encode(errors="replace"), "sha256")[:_NAME_BYTES]

    def version_name(self, uid: str, dataset: bytes) -> bytes:
        """The name of a later version of an object: of other content under the same SOP Instance UID."""
        return self.name(f"{uid}\n{dataset.hex()}")

    def known(self, uid: str) -> LedgerEntry | None:
        """The entry of an object."""
        return self.all_known([uid]).get(uid)

    def all_known(self, uids: Sequence[str]) -> dict[str, LedgerEntry]:
        """The entries of several objects, without those that the ledger does not have."""
        names = {self.name(uid): uid for uid in uids}
        return {names[name]: entry for name, entry in self.entries(list(names)).items()}

    def entries(self, names: Sequence[bytes]) -> dict[bytes, LedgerEntry]:
        """The entries of these names."""
        found = {}
        with self._database.read() as connection:
            for some in parts_of(names):
                for row in connection.execute(select(ledger).where(ledger.c.object.in_(some))):
                    study = None if row.study is None else StudyKey(row.study)
                    file = None if row.file is None else Digest(row.file)
                    found[row.object] = LedgerEntry(
                        row.dataset, row.sop_class, study, moment(row.at), file, row.of_study is None
                    )
        return found

    def study_of(self, study_uid: str) -> StudyKey | None:
        """The newest accepted study with this Study Instance UID."""
        mine = (ledger.c.of_study == self.name(study_uid)) & ledger.c.study.is_not(None)
        newest = select(ledger.c.study).where(mine).order_by(ledger.c.at.desc(), ledger.c.object).limit(1)
        with self._database.read() as connection:
            found = connection.scalar(newest)
        return None if found is None else StudyKey(found)

    def refused_of(self, study_uid: str) -> list[Digest]:
        """The refused files with this Study Instance UID, as they are in quarantine."""
        mine = (ledger.c.of_study == self.name(study_uid)) & ledger.c.study.is_(None) & ledger.c.file.is_not(None)
        with self._database.read() as connection:
            return [Digest(each) for each in connection.scalars(select(ledger.c.file).where(mine))]

    def record(self, entries: Iterable[NewEntry], study: StudyKey | None, at: datetime) -> None:
        """Record objects of an accepted (None: of a refused) study; durable when this returns."""
        with self._database.write() as connection:
            for each in entries:
                connection.execute(delete(ledger).where(ledger.c.object == each.name))
                row = {"object": each.name, "dataset": each.dataset, "sop_class": each.sop_class, "study": study}
                more = {"at": micros(at), "of_study": self.name(each.study_uid), "file": each.file}
                connection.execute(insert(ledger).values(**row, **more))
            self._disk.step("ledger.before_commit")
        self._disk.step("ledger.committed")

    def purge(self, before: datetime) -> None:
        """Remove entries older than `before` of studies that the outbox no longer has."""
        in_outbox = select(studies.c.study).where(studies.c.study == ledger.c.study).exists()
        old = select(ledger.c.object).where(ledger.c.at < micros(before), ~in_outbox).limit(_MOST_PURGED)
        removed = _MOST_PURGED
        while removed == _MOST_PURGED:
            with self._database.write() as connection:
                removed = connection.execute(delete(ledger).where(ledger.c.object.in_(old))).rowcount
                self._disk.step("ledger.purge.before_commit")


def judged(
    connection: Connection, name: bytes, dataset: bytes, sop_class: str, study: StudyKey | None, at: int
) -> None:
    """The entry of an object that was received, in the transaction that ends its wait; the facts of an entry that
    `Ledger.record` wrote stay: for the same study, and of other content that was accepted meanwhile under this name,
    where it wrote the object as a later version. at: microseconds."""
    stays = (ledger.c.dataset == dataset) & (ledger.c.study.is_(None) if study is None else ledger.c.study == study)
    if study is not None:
        stays |= (ledger.c.dataset != dataset) & ledger.c.study.is_not(None)
    if connection.execute(select(ledger.c.object).where(ledger.c.object == name, stays)).first() is None:
        connection.execute(delete(ledger).where(ledger.c.object == name))
        row = {"object": name, "dataset": dataset, "sop_class": sop_class, "study": study, "at": at}
        connection.execute(insert(ledger).values(row))


def parts_of(names: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Names in the numbers that one query takes."""
    return (names[start : start + _MOST_NAMES] for start in range(0, len(names), _MOST_NAMES))
