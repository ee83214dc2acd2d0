"""Blobs of removed studies: each is taken from the disk after the transaction that unnames it, and once only.

A row waits; then it is being removed, which no stored object may need any more; then it is gone, and the row stays for
backups, which remove their copy by it. An object with the same content may arrive at any time: the transaction that
names a blob looks here first.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Select, delete, exists, select, update

from thinwire.receiver.store.tables import objects, removed_blobs
from thinwire.shared.errors import HubBusy
from thinwire.shared.formats.positional import micros, moment
from thinwire.shared.identifiers import Digest
from thinwire.shared.storage.database import insert_new, prepared

PAGE = 200
SETTLES = timedelta(minutes=5)
"""Time in which nothing names a blob again that is gone: another process may still be about to remove it."""


class RemovedBlob(StrEnum):
    WAITING = "waiting"
    REMOVING = "removing"
    GONE = "gone"


def add_removed(connection: Connection, blobs: Iterable[bytes], at: datetime) -> None:
    """In the transaction that removes the objects of these blobs."""
    for blob in sorted(set(blobs)):
        values = {"state": str(RemovedBlob.WAITING), "at": micros(at)}
        row = insert_new(removed_blobs).values(blob=blob, **values)
        connection.execute(row.on_conflict_do_update(index_elements=["blob"], set_=values))


def write_again(connection: Connection, blob: Digest, at: datetime) -> None:
    """In a transaction before a blob is written that was removed. Raises HubBusy for a moment after its removal."""
    row = _removed(connection, blob).one_or_none()
    if row is not None and row.state == RemovedBlob.GONE:
        if at - moment(row.at) < SETTLES:
            raise _busy()
        connection.execute(delete(removed_blobs).where(removed_blobs.c.blob == blob))


def name_again(connection: Connection, blob: Digest, state: str | None) -> None:
    """In the transaction that names a blob. state: of its row there; None without one. Raises HubBusy while it is being
    removed, or if it may have been removed after it was written."""
    if state is not None:
        if state != RemovedBlob.WAITING:
            raise _busy()
        connection.execute(delete(removed_blobs).where(removed_blobs.c.blob == blob))


def _busy() -> HubBusy:
    return HubBusy("the same content was removed a moment ago")


@prepared
def _removed(blob: Any) -> Select[Any]:
    return select(removed_blobs).where(removed_blobs.c.blob == blob)


def take_page(connection: Connection, after: bytes = b"") -> list[Digest]:
    """The next blobs after this one to be removed from the disk, marked so. One that an object names stays, and its row
    goes."""
    later = removed_blobs.c.blob > after
    named = exists().where(objects.c.blob == removed_blobs.c.blob)
    waits = removed_blobs.c.state == str(RemovedBlob.WAITING)
    page = select(removed_blobs.c.blob).where(waits, later).order_by(removed_blobs.c.blob).limit(PAGE).scalar_subquery()
    connection.execute(delete(removed_blobs).where(removed_blobs.c.blob.in_(page), named))
    taken = update(removed_blobs).where(removed_blobs.c.blob.in_(page))
    connection.execute(taken.values(state=str(RemovedBlob.REMOVING)))
    # Also those that a killed process had taken.
    removing = removed_blobs.c.state == str(RemovedBlob.REMOVING)
    query = select(removed_blobs.c.blob).where(removing, later).order_by(removed_blobs.c.blob).limit(PAGE)
    return [Digest(blob) for blob in connection.scalars(query)]


def record_gone(connection: Connection, blobs: Iterable[Digest], at: datetime) -> None:
    these = removed_blobs.c.blob.in_(list(blobs)) & (removed_blobs.c.state == str(RemovedBlob.REMOVING))
    connection.execute(update(removed_blobs).where(these).values(state=str(RemovedBlob.GONE), at=micros(at)))
