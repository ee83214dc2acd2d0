"""The newest graph of every study, page by page in the order of site and study key: a page costs the same in the first
study and in the last of millions. For batches that pass over the whole archive."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import LargeBinary, ScalarSelect, Select, and_, literal, select, tuple_

from thinwire.receiver.store.tables import objects, studies
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.identifiers import BundleId, Digest, SiteName, StudyKey
from thinwire.shared.storage.database import Database

PAGE = 256
"""Studies in one query, and at most in one transaction."""
Place = tuple[str, bytes]
"""(site, study): how far a page reaches. The first one is BEGIN."""
BEGIN: Place = ("", b"")


@dataclass(frozen=True)
class NewestGraph:
    site: SiteName
    study: StudyKey
    blob: Digest
    bundle: BundleId
    """Made it."""
    patient: bytes | None
    """As `StoredStudy.patient`."""


def newest_graphs(database: Database) -> Iterator[list[NewestGraph]]:
    """Pages of all studies that have a graph; an empty page where none of PAGE studies has."""
    place = BEGIN
    while True:
        with database.read() as connection:
            rows = connection.execute(after(place).add_columns(studies.c.patient)).all()
        if not rows:
            return
        place = (rows[-1].site, rows[-1].study)
        yield [
            NewestGraph(SiteName(row.site), StudyKey(row.study), Digest(row.blob), BundleId(row.bundle), row.patient)
            for row in rows
            if row.blob is not None and row.bundle is not None
        ]


def after(place: Place) -> Select[Any]:
    """The PAGE studies after a place, by the primary key: site, study, bundle, urgent_asked, blob."""
    columns = (studies.c.site, studies.c.study, studies.c.bundle, studies.c.urgent_asked)
    least = tuple_(literal(place[0], studies.c.site.type), literal(place[1], LargeBinary))
    query = select(*columns, newest_blob(studies).label("blob"))
    query = query.where(tuple_(studies.c.site, studies.c.study) > least)
    return query.order_by(studies.c.site, studies.c.study).limit(PAGE)


def newest_blob(of: Any) -> ScalarSelect[Any]:
    """The blob of the newest graph of each study of a table, as a scalar subquery."""
    this = and_(objects.c.site == of.c.site, objects.c.study == of.c.study, objects.c.kind == int(Kind.GRAPH))
    return select(objects.c.blob).where(this).order_by(objects.c.number.desc()).limit(1).scalar_subquery()
