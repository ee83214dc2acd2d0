"""`check`: every stored blob, row, receipt, report and the audit chain, and the repair of damaged parts.

Tables are read in pages and files in pieces, so that the memory does not grow with the hub. `serve` may go on
meanwhile: a row is written after its blob, and a blob of a row is never removed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from itertools import groupby
from operator import attrgetter
from typing import Any

from sqlalchemy import Column, Row, Select, Table, func, select, tuple_
from sqlalchemy.exc import DatabaseError

from thinwire.receiver.hub import Hub
from thinwire.receiver.store.damage import forget
from thinwire.receiver.store.events import EVENT_OF
from thinwire.receiver.store.reports import Report, ReportState, report_detail
from thinwire.receiver.store.tables import additions, events, files, objects, receipts, reports, studies
from thinwire.receiver.store.tombstones import is_erased
from thinwire.receiver.store.worklist_rows import is_kept, keep, miscounted, misindexed, rebuild
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import BadFormat, BadInput, Forged, StorageFailed
from thinwire.shared.formats.positional import micros, moment
from thinwire.shared.formats.receipts import StudyStatus, read_receipt
from thinwire.shared.identifiers import Digest, SiteName, StudyKey, digest, study_key

PAGE = 500
"""Rows that are read from the database at a time."""
ADDED_WAIT = timedelta(days=1)
"""Time in which a study follows the files that are added to it, without a finding."""

_RESTORE = "Stop `serve` and restore thinwire.db and blobs/ from their backup (docs/administration.md)."
_REPAIR = (
    "Run `thinwire-receiver check --repair`: it requests the part from the clinic, which sends it while it still has "
    "the study's files."
)

_REVOKED = (
    "Its clinic's access is revoked, so the part cannot be requested: restore blobs/ from its backup, or enrol the "
    "clinic again under this name and repeat."
)
_SEND_STUDY = (
    "Find that study at the clinic by its key (`thinwire-sender status`), and let it arrive or send it again: the "
    "files then join it."
)
_KEEP = "Run `thinwire-receiver check --repair`: it makes the worklist anew from the studies."

Progress = Callable[[str, int, int], None]
"""(what is checked, checked so far, their number)"""


class Subject(StrEnum):
    """The subject of a finding."""

    DATABASE = "database"
    PART = "part"
    FILES = "files"
    RECEIPT = "receipt"
    EVENT = "event"
    REPORT = "report"
    AUDIT = "audit log"
    WORKLIST = "worklist"


@dataclass(frozen=True)
class Finding:
    """Something that does not hold. Names no patient."""

    subject: Subject
    problem: str
    remedy: str = _RESTORE
    site: SiteName | None = None
    study: StudyKey | None = None
    blob: Digest | None = None
    """The damaged or missing blob, if `repair` can request it again."""

    @property
    def repairable(self) -> bool:
        return self.blob is not None or self.subject is Subject.WORKLIST


@dataclass
class Checked:
    """The numbers of the rows and files that were checked."""

    parts: int = 0
    receipts: int = 0
    reports: int = 0
    audit_messages: int = 0
    unnamed_files: int = 0
    """Blobs without a row: of a power cut, or newer than a database that was restored."""


def check(hub: Hub, checked: Checked, progress: Progress) -> Iterator[Finding]:
    """The findings, one after another; `checked` is counted up meanwhile."""
    for each in (
        _database(hub),
        _parts(hub, checked, progress),
        _files(hub),
        _added(hub),
        _receipts(hub, checked, progress),
        _reports(hub, checked, progress),
        _audit(hub, checked),
        _worklist(hub),
    ):
        try:
            yield from each
        except (DatabaseError, StorageFailed) as error:
            # Its text may quote a row; the next tables may still be readable.
            yield Finding(Subject.DATABASE, f"a table cannot be read ({type(error.__cause__ or error).__name__})")


def repair(hub: Hub, found: Sequence[Finding]) -> int:
    """Set damaged blobs aside and request their parts from the clinics; returns the number of parts. Bring rows of
    the worklist up to date.

    The file is moved first: a power cut then leaves a blob that is missing, which the next repair takes up.
    """
    blobs, aside = hub.blobs, hub.damaged_blobs()
    count = 0
    for blob in dict.fromkeys(each.blob for each in found if each.blob is not None):
        if blobs.size(blob) is not None:
            blobs.move(blob, aside, "check.aside")
        if aside.is_whole(blob):
            # A clinic had sent it again before the move, which a power cut may have ended here.
            aside.move(blob, blobs, "check.back")
            continue
        for site in dict.fromkeys(each.site for each in found if each.blob == blob):
            hub.disk.step("check.repair.before_commit")
            with hub.database.write(turn=site) as connection:
                # A clinic may have sent it again since the move: its blob is written before its transaction begins, and
                # is whole when it is there.
                if site is not None and blobs.size(blob) is None:
                    count += len(forget(connection, site, blob, hub.clock.now()))
            hub.disk.step("check.repair.committed")
    if listed := [each for each in found if each.subject is Subject.WORKLIST]:
        for each in listed:
            if each.site is not None and each.study is not None:
                with hub.database.write(turn=each.site) as connection:
                    keep(connection, each.site, each.study)
        with hub.database.write() as connection:
            rebuild(connection)
    return count


def _added(hub: Hub) -> Iterator[Finding]:
    """Files that are added to a study which has not arrived: no page shows them, and nothing forwards them."""
    of, base = studies.alias("of"), studies.alias("base")
    query = (
        select(additions.c.site, additions.c.study, additions.c.base, of.c.received_at)
        .join(of, (of.c.site == additions.c.site) & (of.c.study == additions.c.study))
        .outerjoin(base, (base.c.site == additions.c.site) & (base.c.study == additions.c.base))
        .where(base.c.study.is_(None), of.c.received_at < micros(hub.clock.now() - ADDED_WAIT))
    )
    for row in _pages(hub, query, additions.c.site, additions.c.study):
        since, to = f"{moment(row.received_at):%Y-%m-%d}", row.base.hex()
        problem = f"files that are here since {since} belong to study {to}, which has not arrived"
        yield Finding(Subject.FILES, problem, _SEND_STUDY, SiteName(row.site), StudyKey(row.study))


def _database(hub: Hub) -> Iterator[Finding]:
    for fault in hub.database.faults():
        yield Finding(Subject.DATABASE, f"the database is damaged: {fault}")


def _worklist(hub: Hub) -> Iterator[Finding]:
    """The row of every study, and their counts."""
    query = select(studies.c.site, studies.c.study)
    for row in _pages(hub, query, studies.c.site, studies.c.study):
        with hub.database.read() as connection:
            kept = is_kept(connection, row.site, row.study)
        if not kept:
            problem = "its row differs from the study, or is missing"
            yield Finding(Subject.WORKLIST, problem, _KEEP, SiteName(row.site), StudyKey(row.study))
    with hub.database.read() as connection:
        if miscounted(connection):
            yield Finding(Subject.WORKLIST, "the counts differ from the rows", _KEEP)
    # SQLite compares its index in a transaction that may write.
    with hub.database.read() if hub.database.shared else hub.database.write() as connection:
        differ = misindexed(connection)
    if differ:
        yield Finding(Subject.WORKLIST, "the words of the search differ from the rows", _KEEP)


def _audit(hub: Hub, checked: Checked) -> Iterator[Finding]:
    try:
        checked.audit_messages = hub.audit.verify().number
    except BadFormat as error:
        yield Finding(Subject.AUDIT, str(error), error.remedy)


def _parts(hub: Hub, checked: Checked, progress: Progress) -> Iterator[Finding]:
    """Every row of `objects`, its blob and its receipt. One blob is read once."""
    blobs, total = hub.blobs, _count(hub, objects)
    revoked = hub.enrolment.revoked()
    query = select(
        objects.c.blob,
        objects.c.number,
        objects.c.site,
        objects.c.study,
        objects.c.object,
        objects.c.kind,
        objects.c.plain_size,
        receipts.c.site.label("receipt_site"),
        receipts.c.study.label("receipt_study"),
        receipts.c.status,
        receipts.c.signed,
    ).outerjoin(receipts, receipts.c.number == objects.c.receipt)
    for blob, rows in groupby(_pages(hub, query, objects.c.blob, objects.c.number), key=attrgetter("blob")):
        size = blobs.size(Digest(blob))
        whole = size is not None and blobs.is_whole(Digest(blob))
        for row in rows:
            checked.parts += 1
            progress("parts", checked.parts, total)
            site, study, name = SiteName(row.site), StudyKey(row.study), _part(row.kind)
            if not whole:
                state = "missing" if size is None else "damaged on the disk"
                remedy, known = (_REVOKED, None) if site in revoked else (_REPAIR, Digest(blob))
                yield Finding(Subject.PART, f"{name}: the blob is {state}", remedy, site, study, known)
            elif size != row.plain_size:
                problem = f"{name}: the row states {row.plain_size} bytes, the blob has {size}"
                yield Finding(Subject.PART, problem, site=site, study=study)
            of_it = (row.receipt_site, row.receipt_study, row.status) == (row.site, row.study, str(StudyStatus.STORED))
            if not of_it or bytes(row.object) not in row.signed:
                yield Finding(Subject.PART, f"{name}: it has no receipt of its own", site=site, study=study)
    for page in blobs.pages():
        checked.unnamed_files += len(page) - len(hub.store.named(page))


def _files(hub: Hub) -> Iterator[Finding]:
    """The digests of a study's files: the study key is computed from them."""
    query = select(files.c.site, files.c.study, files.c.place, files.c.digest)
    rows = _pages(hub, query, files.c.site, files.c.study, files.c.place)
    for (site, study), entries in groupby(rows, key=lambda row: (row.site, row.study)):
        if study_key(Digest(entry.digest) for entry in entries) != study:
            problem = "the digests of its files do not give the study key"
            yield Finding(Subject.FILES, problem, site=SiteName(site), study=StudyKey(study))


def _receipts(hub: Hub, checked: Checked, progress: Progress) -> Iterator[Finding]:
    """Every receipt with its event, and every event that needs a receipt."""
    key, total = hub.keys.signing.public_key(), _count(hub, receipts)
    query = select(receipts, events.c.event, events.c.study.label("event_study")).outerjoin(
        events, events.c.number == receipts.c.number
    )
    for row in _pages(hub, query, receipts.c.number):
        checked.receipts += 1
        progress("receipts", checked.receipts, total)
        site, study = SiteName(row.site), StudyKey(row.study)
        try:
            receipt = read_receipt(row.signed, key)
        except Forged as error:
            yield Finding(Subject.RECEIPT, f"receipt {row.number}: {error}", site=site, study=study)
            continue
        stated = receipt.site, receipt.study, str(receipt.status), digest(row.signed)
        if stated != (row.site, row.study, row.status, row.digest):
            problem = f"receipt {row.number} states something else than its row"
            yield Finding(Subject.RECEIPT, problem, site=site, study=study)
        if (row.event, row.event_study) != (str(EVENT_OF[receipt.status]), row.study):
            yield Finding(Subject.RECEIPT, f"receipt {row.number} has no event of its own", site=site, study=study)
    told = select(events.c.number, events.c.site, events.c.study).outerjoin(
        receipts, receipts.c.number == events.c.number
    )
    told = told.where(events.c.event.in_([str(event) for event in EVENT_OF.values()]), receipts.c.number.is_(None))
    for row in _pages(hub, told, events.c.number):
        problem = f"event {row.number} has no receipt"
        yield Finding(Subject.EVENT, problem, site=SiteName(row.site), study=StudyKey(row.study))


def _reports(hub: Hub, checked: Checked, progress: Progress) -> Iterator[Finding]:
    """Every report: its versions without a gap, a signed one with the receipt that states its text."""
    total = _count(hub, reports)
    rows = _pages(hub, select(reports), reports.c.site, reports.c.study, reports.c.version)
    for (site, study), versions in groupby(rows, key=lambda row: (row.site, row.study)):
        for expected, row in enumerate(versions, start=1):
            checked.reports += 1
            progress("reports", checked.reports, total)
            if row.version != expected and not _is_erased(hub, site, study):
                problem = f"version {expected} of the report is missing"
                yield Finding(Subject.REPORT, problem, site=SiteName(site), study=StudyKey(study))
                break
            if row.state == str(ReportState.FINAL) and not _is_signed(hub, row):
                problem = "the signed report is not that of its receipt"
                yield Finding(Subject.REPORT, problem, site=SiteName(site), study=StudyKey(study))


def _is_erased(hub: Hub, site: str, study: bytes) -> bool:
    """Whether the study was removed and only its signed report stays."""
    with hub.database.read() as connection:
        return is_erased(connection, site, study)


def _is_signed(hub: Hub, row: Row[Any]) -> bool:
    of_it = (events.c.site == row.site) & (events.c.study == row.study)
    query = select(receipts.c.signed).join(events, events.c.number == receipts.c.number)
    with hub.database.read() as connection:
        signed = connection.scalars(query.where(of_it, events.c.event == str(EVENT_OF[StudyStatus.REPORTED]))).all()
    report = Report(
        SiteName(row.site),
        StudyKey(row.study),
        row.version,
        ReportState.FINAL,
        row.text,
        row.reader,
        row.reader_name,
        row.from_draft,
        moment(row.at),
    )
    try:
        return any(read_receipt(each, hub.keys.signing.public_key()).detail == report_detail(report) for each in signed)
    except (Forged, BadInput):
        return False


def _pages(hub: Hub, query: Select[Any], *key: Column[Any]) -> Iterator[Row[Any]]:
    """Rows in the order of a key, read page by page."""
    last: tuple[Any, ...] | None = None
    while True:
        page = query.order_by(*key).limit(PAGE)
        with hub.database.read() as connection:
            rows = connection.execute(page if last is None else page.where(tuple_(*key) > tuple_(*last))).all()
        yield from rows
        if len(rows) < PAGE:
            return
        last = tuple(getattr(rows[-1], column.key) for column in key)


def _count(hub: Hub, table: Table) -> int:
    with hub.database.read() as connection:
        return connection.scalar(select(func.count()).select_from(table)) or 0


def _part(kind: int) -> str:
    known = {int(each): each.name.lower() for each in Kind}
    return known.get(kind, f"a part of unknown kind {kind}")
