"""The questions to the hub's store that change nothing: studies, their files, drafts and reports."""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import ColumnElement, Connection, FromClause, Row, and_, select

from thinwire.receiver.store.additions import StoredAddition, current_files, read_additions
from thinwire.receiver.store.events import event_stamp
from thinwire.receiver.store.records import StoredStudy
from thinwire.receiver.store.reports import Report, ReportState
from thinwire.receiver.store.stored_studies import key_starts, stored_studies
from thinwire.receiver.store.tables import drafts, files, objects, reports, studies, tombstones, worklist
from thinwire.receiver.store.tombstones import Tombstone, refuse_erased, tombstone_of
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import UnknownStudy
from thinwire.shared.formats.positional import moment
from thinwire.shared.identifiers import Digest, SiteName, StudyKey
from thinwire.shared.storage.blobs import Blobs
from thinwire.shared.storage.database import Database

PAGE = 500
"""Studies that are read from the database at a time."""


class StudyQueries:
    """Safe from any thread and process."""

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self._database = database
        self._blobs = blobs

    def draft(self, site: SiteName, study: StudyKey) -> bytes | None:
        """The draft of the newest graph as JSON (docs/report-decoder.md), or None."""
        graph = of_study(objects, site, study) & (objects.c.kind == int(Kind.GRAPH))
        newest = select(objects.c.blob).where(graph).order_by(objects.c.number.desc()).limit(1).scalar_subquery()
        with self._database.read() as connection:
            return connection.scalar(
                select(drafts.c.draft).where(of_study(drafts, site, study), drafts.c.blob == newest)
            )

    def studies(self) -> Iterator[StoredStudy]:
        """All studies in the order in which they became known, read from the database page by page."""
        last = 0
        while True:
            page = select(worklist.c.number).where(worklist.c.number > last).order_by(worklist.c.number).limit(PAGE)
            with self._database.read() as connection:
                numbers = connection.scalars(page).all()
                found = stored_studies(connection, numbers)
            yield from found
            if len(numbers) < PAGE:
                return
            last = numbers[-1]

    def find(self, prefix: str, site: SiteName | None = None) -> StoredStudy:
        """The one study whose key starts with these hex digits. Raises UnknownStudy for none, or for several;
        StudyErased for one that was removed."""
        starts = key_starts(prefix.lower())
        if starts is None:
            raise UnknownStudy("no study has a key that starts with these digits")
        query = select(worklist.c.number).where(starts if site is None else starts & (worklist.c.site == site))
        with self._database.read() as connection:
            numbers = connection.scalars(query.limit(2)).all()
            if not numbers:
                self._refuse_erased(connection, prefix.lower(), site)
                raise UnknownStudy("no study has a key that starts with these digits")
            if len(numbers) > 1:
                raise UnknownStudy(
                    "several studies have a key that starts with these digits",
                    "Give more digits of the key, or --site where two clinics sent the same files.",
                )
            return stored_studies(connection, numbers)[0]

    def study(self, site: SiteName, study: StudyKey) -> StoredStudy:
        """One study by its whole key. Raises UnknownStudy."""
        with self._database.read() as connection:
            number = connection.scalar(select(worklist.c.number).where(of_study(worklist, site, study)))
            if number is None:
                raise UnknownStudy("the hub has no such study")
            return stored_studies(connection, [number])[0]

    @staticmethod
    def _refuse_erased(connection: Connection, prefix: str, site: SiteName | None) -> None:
        starts = key_starts(prefix, tombstones.c.study)
        if starts is None:
            return
        query = select(tombstones).where(starts)
        rows = connection.execute((query if site is None else query.where(tombstones.c.site == site)).limit(2)).all()
        if len(rows) == 1:
            refuse_erased(connection, rows[0].site, rows[0].study)

    def tombstone(self, site: SiteName, study: StudyKey) -> Tombstone | None:
        """What is left of a study that was removed; None for any other."""
        with self._database.read() as connection:
            return tombstone_of(connection, site, study)

    def file_digests(self, site: SiteName, study: StudyKey) -> list[Digest]:
        """SHA-256 of each file of which the study consists now: those of its archive in their order, a corrected one in
        the place of the earlier if a person decided so, then those that were added; empty without the originals."""
        query = select(files.c.digest).where(of_study(files, site, study)).order_by(files.c.place)
        with self._database.read() as connection:
            own = [Digest(each) for each in connection.scalars(query)]
            added = read_additions(connection, site, study) if own else ()
        return current_files(own, added)

    def additions(self, site: SiteName, study: StudyKey) -> tuple[StoredAddition, ...]:
        """The files that were added to a study, in the order of their arrival."""
        with self._database.read() as connection:
            return read_additions(connection, site, study)

    def report(self, site: SiteName, study: StudyKey) -> Report | None:
        """The newest version of a study's report."""
        newest = select(reports).where(of_study(reports, site, study)).order_by(reports.c.version.desc()).limit(1)
        with self._database.read() as connection:
            row = connection.execute(newest).one_or_none()
        return None if row is None else _report(row)

    def of_patient(self, site: SiteName, patient: bytes) -> list[StoredStudy]:
        """The studies of one patient of a site, newest first."""
        joined = of_study(worklist, studies.c.site, studies.c.study)
        this = (studies.c.site == site) & (studies.c.patient == patient)
        query = select(worklist.c.number).join_from(studies, worklist, joined).where(this)
        with self._database.read() as connection:
            numbers = connection.scalars(query.order_by(worklist.c.received_at.desc())).all()
            return stored_studies(connection, numbers)

    def event_stamp(self) -> int:
        """It grows with any change of the worklist or of a study's page."""
        with self._database.read() as connection:
            return event_stamp(connection)

    def plaintext(self, site: SiteName, study: StudyKey, kind: Kind) -> bytes | None:
        """The plaintext of the newest part of a kind, or None. Raises BadFormat for a damaged blob."""
        this = of_study(objects, site, study) & (objects.c.kind == int(kind))
        with self._database.read() as connection:
            blob = connection.scalar(select(objects.c.blob).where(this).order_by(objects.c.number.desc()).limit(1))
        return None if blob is None else self._blobs.read(Digest(blob))

    def blob(self, name: Digest) -> bytes:
        return self._blobs.read(name)


def of_study(table: FromClause, site: object, study: object) -> ColumnElement[bool]:
    return and_(table.c.site == site, table.c.study == study)


def _report(row: Row[Any]) -> Report:
    return Report(
        SiteName(row.site),
        StudyKey(row.study),
        row.version,
        ReportState(row.state),
        row.text,
        row.reader,
        row.reader_name,
        row.from_draft,
        moment(row.at),
    )
