"""Tombstones: the studies that were removed from this hub, by a rule of retention or at a person's request.

A tombstone has the site, the study key and the rule, and nothing of the patient. The study is refused for good when a
clinic offers it again. Reasons: docs/decisions/0015-what-an-erased-study-leaves.md.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, insert, select

from thinwire.receiver.store.tables import tombstones
from thinwire.shared.errors import StudyErased
from thinwire.shared.formats.positional import micros, moment
from thinwire.shared.identifiers import SiteName, StudyKey
from thinwire.shared.storage.database import prepared


@dataclass(frozen=True)
class Tombstone:
    site: SiteName
    study: StudyKey
    rule: str
    """The rule of retention that removed it; empty for an erasure that a person asked for."""
    at: datetime
    """UTC."""


def is_erased(connection: Connection, site: str, study: bytes) -> bool:
    return tombstone_of(connection, site, study) is not None


def refuse_erased(connection: Connection, site: str, study: bytes) -> None:
    """Raises StudyErased for a study that was removed here."""
    if (found := tombstone_of(connection, site, study)) is not None:
        raise erased(found)


def add_tombstone(connection: Connection, site: SiteName, study: StudyKey, rule: str, at: datetime) -> None:
    connection.execute(insert(tombstones).values(site=site, study=study, rule=rule, at=micros(at)))
    _without(connection).discard((site, study))


def tombstone_of(connection: Connection, site: str, study: bytes) -> Tombstone | None:
    if (site, study) in (without := _without(connection)):
        return None
    row = _found(connection, site, study).one_or_none()
    if row is None:
        without.add((site, study))
    return None if row is None else Tombstone(SiteName(row.site), StudyKey(row.study), row.rule, moment(row.at))


def erased(found: Tombstone) -> StudyErased:
    why = f"by its retention rule {found.rule}" if found.rule else "at a person's request"
    return StudyErased(f"this study was removed from the hub on {found.at:%Y-%m-%d} {why}")


def _without(connection: Connection) -> set[tuple[str, bytes]]:
    """The studies without a tombstone of which this transaction knows: it has their site's turn, or one view of the
    database, so that each is looked up once."""
    transaction = connection.get_transaction()
    held: tuple[object, set[tuple[str, bytes]]] | None = connection.info.get(_WITHOUT)
    if held is None or held[0] is not transaction:
        held = connection.info[_WITHOUT] = (transaction, set())
    return held[1]


_WITHOUT = "without tombstone"


@prepared
def _found(site: Any, study: Any) -> Select[Any]:
    return select(tombstones).where(tombstones.c.site == site, tombstones.c.study == study)
