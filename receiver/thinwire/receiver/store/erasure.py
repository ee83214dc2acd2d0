"""The removal of a study's rows, in one transaction that leaves a tombstone and names the blobs to be removed.

Every table with a column `study` loses the study's rows, also one of a later version, but for those in `_STAYS`. So a
table that is added is cleaned without a thought of this module.
"""

from datetime import datetime

from sqlalchemy import ColumnElement, Connection, delete, exists, false, func, not_, select, update

from thinwire.receiver.store.additions import OVERTAKEN
from thinwire.receiver.store.events import StudyEvent, add_event
from thinwire.receiver.store.queries import of_study
from thinwire.receiver.store.removed_blobs import add_removed
from thinwire.receiver.store.reports import ReportState
from thinwire.receiver.store.shares import uncount
from thinwire.receiver.store.tables import (
    TABLES,
    additions,
    deliveries,
    events,
    objects,
    parked,
    receipts,
    reports,
    sent,
    studies,
    targets,
)
from thinwire.receiver.store.tombstones import add_tombstone
from thinwire.receiver.store.worklist_rows import unlist
from thinwire.shared.formats.positional import moment
from thinwire.shared.identifiers import SiteName, StudyKey

_STAYS = frozenset(("studies", "tombstones", "events", "receipts", "reports", "deliveries"))
"""Tables with rules of their own below."""
_BARE = {
    "urgent_asked": False,
    **dict.fromkeys(
        ("bundle", "text_source", "modality", "view_position", "patches_kept", "patches_total", "attention_kept")
    ),
    "patient": None,
}


def keys_of(connection: Connection, site: SiteName, study: StudyKey) -> list[StudyKey]:
    """The key of a study, and those of the files that were added to it."""
    added = select(additions.c.study).where(additions.c.site == site, additions.c.base == study)
    # Sorted here: SQLite would else read all additions of the site in their order.
    return [study, *sorted(map(StudyKey, connection.scalars(added)))]


def erase(
    connection: Connection, site: SiteName, study: StudyKey, rule: str, at: datetime, keep_report: bool
) -> list[StudyKey]:
    """Remove a study with the files that were added to it; returns their keys. rule: of retention, empty for a
    request. keep_report: a signed report stays, with its receipt."""
    keys = keys_of(connection, site, study)
    for key in keys:
        _erase(connection, site, key, rule, at, keep_report)
    return keys


def _erase(connection: Connection, site: SiteName, study: StudyKey, rule: str, at: datetime, keep_report: bool) -> None:
    # Its number is the last of all, so that no number of an event is used twice.
    known = connection.scalar(select(exists().where(of_study(studies, site, study))))
    last = add_event(connection, site, study, StudyEvent.ERASED, at) if known else None
    add_tombstone(connection, site, study, rule, at)
    if last is None:
        return
    unlist(connection, site, study)
    stored = select(objects.c.blob, objects.c.sealed_size, objects.c.stored_at).where(of_study(objects, site, study))
    parts = connection.execute(stored).all()
    for part in parts:
        uncount(connection, site, part.sealed_size, moment(part.stored_at))
    add_removed(connection, (part.blob for part in parts), at)
    _erase_deliveries(connection, site, study)
    for table in reversed(TABLES.sorted_tables):
        if {"site", "study"} <= set(table.c.keys()) and table.name not in _STAYS:
            connection.execute(delete(table).where(of_study(table, site, study)))
    kept_report: ColumnElement[bool] = false()
    kept_event: ColumnElement[bool] = false()
    if keep_report:
        kept_report = reports.c.state == str(ReportState.FINAL)
        kept_event = events.c.event == str(StudyEvent.REPORTED)
    connection.execute(delete(reports).where(of_study(reports, site, study), not_(kept_report)))
    going = of_study(events, site, study) & (events.c.number != last) & not_(kept_event)
    # A receipt has the number of its event.
    connection.execute(delete(receipts).where(receipts.c.number.in_(select(events.c.number).where(going))))
    connection.execute(delete(events).where(going))
    connection.execute(update(studies).where(of_study(studies, site, study)).values(_BARE))
    # Loops name an item by site and study.
    connection.execute(delete(parked).where(parked.c.item.startswith(f"{site}/{study.hex()}", autoescape=True)))


def _erase_deliveries(connection: Connection, site: SiteName, study: StudyKey) -> None:
    """The deliveries with the instances that were sent. The newest delivery of all stays, without content: the number
    of one that is being sent at this moment must not become that of another."""
    names = connection.scalars(select(targets.c.name)).all()
    mine = of_study(deliveries, site, study) & deliveries.c.target.in_(names)  # the beginning of the index
    query = select(deliveries.c.target, deliveries.c.instance).where(mine, deliveries.c.instance.is_not(None))
    for target, instance in connection.execute(query.distinct()).all():
        connection.execute(delete(sent).where(sent.c.target == target, sent.c.instance == instance))
    newest = select(func.max(deliveries.c.number)).scalar_subquery()
    connection.execute(delete(deliveries).where(mine, deliveries.c.number != newest))
    bare = {"state": OVERTAKEN, "version": bytes(32), "reason": "", "instance": None, "asked": None}
    connection.execute(update(deliveries).where(mine).values(bare))
