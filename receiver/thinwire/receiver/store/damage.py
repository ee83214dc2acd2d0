"""A stored part that is damaged on the disk: it counts as not stored, and is requested from the clinic again."""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, delete, exists, select

from thinwire.receiver.store.events import StudyEvent, add_event
from thinwire.receiver.store.records import COVERED
from thinwire.receiver.store.shares import uncount
from thinwire.receiver.store.tables import files, objects, requests, sites
from thinwire.receiver.store.worklist_rows import keep
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.formats.positional import micros, moment
from thinwire.shared.identifiers import Digest, SiteName, StudyKey
from thinwire.shared.storage.database import insert_new


class DamagedPart(NamedTuple):
    """A part whose blob is damaged."""

    site: SiteName
    study: StudyKey
    kind: Kind


def forget(connection: Connection, site: SiteName, blob: Digest, at: datetime) -> list[DamagedPart]:
    """Remove the objects of a site that a damaged blob held, with the facts that only they gave, and request their
    parts; returns the parts that are requested, which leaves out those that the stored originals replace.

    Objects of a site whose access is revoked stay as they are: a request would wait for ever, and a restored blob makes
    them whole.

    Their receipts stay: they were true. A part that arrives again gets a new one. A prediction stays with its graph's
    digest, and counts again with the same graph.
    """
    served = select(sites.c.name).where(sites.c.dismissed_at.is_(None))
    these = (objects.c.blob == blob) & (objects.c.site == site) & objects.c.site.in_(served)
    parts = connection.execute(select(objects.c.study, objects.c.kind).where(these).distinct()).all()
    for size, stored_at in connection.execute(select(objects.c.sealed_size, objects.c.stored_at).where(these)).all():
        uncount(connection, site, size, moment(stored_at))
    connection.execute(delete(objects).where(these))
    requested = []
    for part in (DamagedPart(site, StudyKey(study), Kind(kind)) for study, kind in parts):
        # Another archive of the originals has the same files.
        originals = (objects.c.site == part.site) & (objects.c.study == part.study)
        here = connection.scalar(select(exists().where(originals, objects.c.kind == int(Kind.ORIGINALS))))
        if part.kind is Kind.ORIGINALS and not here:
            connection.execute(delete(files).where(files.c.site == part.site, files.c.study == part.study))
        if not (here and part.kind in COVERED):
            row = {"site": part.site, "study": part.study, "kind": int(part.kind), "at": micros(at)}
            connection.execute(insert_new(requests).values(row).on_conflict_do_nothing())
            requested.append(part)
        add_event(connection, part.site, part.study, StudyEvent.DAMAGED, at)
        keep(connection, part.site, part.study)
    return requested
