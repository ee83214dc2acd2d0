"""Files that are added to a study after it was sent: late views, and files with a corrected header.

They are stored under a key of their own, without a row of the worklist, and belong to their study in everything that a
person sees or a target is sent. A corrected file takes the place of the earlier one when a person has decided so.
Table: docs/store-format.md.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Connection, FromClause, Select, exists, select, update

from thinwire.receiver.store.events import StudyEvent, add_event
from thinwire.receiver.store.tables import additions, deliveries, files, objects, studies, worklist
from thinwire.receiver.store.tombstones import refuse_erased
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import BadManifest
from thinwire.shared.formats.manifest import Added
from thinwire.shared.formats.positional import moment
from thinwire.shared.identifiers import DIGEST_BYTES, Digest, SiteName, StudyKey
from thinwire.shared.storage.database import insert_new, prepared

_OPEN = ("waiting", "asked", "refused")
"""States of deliveries that a target may still be sent (`forward.queue`)."""
OVERTAKEN = "overtaken"
"""The state of a delivery that another one replaces (`forward.delivery`)."""


class Decision(StrEnum):
    """A person's decision on corrected files."""

    TAKEN = "taken"
    """The corrected files take the place of the earlier ones."""
    KEPT = "kept"
    """The earlier files stay; the corrected ones are stored beside them and go nowhere."""


@dataclass(frozen=True)
class StoredAddition:
    """Files that were added to a study."""

    study: StudyKey
    """Their own key, under which their parts are stored."""
    received: datetime
    corrects: Mapping[Digest, Digest] = field(default_factory=dict)
    """By the digest of an earlier file, the corrected one."""
    decision: Decision | None = None
    files: tuple[Digest, ...] = ()
    """Empty until the files are here."""

    @property
    def undecided(self) -> bool:
        return bool(self.corrects) and self.decision is None

    @property
    def counts(self) -> bool:
        """Whether its files are here and belong to the study now."""
        return bool(self.files) and (not self.corrects or self.decision is Decision.TAKEN)


def check_added(connection: Connection, site: SiteName, study: StudyKey, added: Added) -> None:
    """Raises BadManifest unless these files may be added: what came as a study of its own stays on the worklist.
    Raises StudyErased where their study was removed."""
    if base_of(connection, site, study) is None:
        own = objects.c.kind.in_((int(Kind.GRAPH), int(Kind.MANIFEST)))
        mine = (objects.c.site == site) & (objects.c.study == study)
        if connection.scalar(select(exists().where(mine, own))):
            raise BadManifest("a study of its own cannot be added to another")
    refuse_erased(connection, site, added.study)
    if added.study == study or base_of(connection, site, added.study) is not None:
        raise BadManifest("files can only be added to a study")


def add(connection: Connection, site: SiteName, study: StudyKey, added: Added) -> None:
    """Enter an addition; a repeat has no effect. What was planned for a target while its study was not known is
    planned for the study instead."""
    row = {"site": site, "study": study, "base": added.study, "corrects": b"".join(a + b for a, b in added.corrects)}
    connection.execute(insert_new(additions).values(row).on_conflict_do_nothing())
    planned = (deliveries.c.site == site) & (deliveries.c.study == study) & deliveries.c.state.in_(_OPEN)
    reason = "these files are added to a study"
    connection.execute(update(deliveries).where(planned).values(state=OVERTAKEN, reason=reason))


def base_of(connection: Connection, site: str, study: bytes) -> StudyKey | None:
    """The study to which these files are added; None for a study of its own."""
    found = _base(connection, site, study).scalar()
    return None if found is None else StudyKey(found)


def is_corrected(connection: Connection, site: str, study: bytes) -> bool:
    """Whether corrected files took the place of some of the study's own."""
    return _taken(connection, site, study).first() is not None


@prepared
def _taken(site: Any, study: Any) -> Select[Any]:
    mine = (additions.c.site == site) & (additions.c.base == study)
    return select(additions.c.study).where(mine, additions.c.decision == str(Decision.TAKEN)).limit(1)


@prepared
def _base(site: Any, study: Any) -> Select[Any]:
    return select(additions.c.base).where(additions.c.site == site, additions.c.study == study)


def announce(connection: Connection, site: SiteName, base: StudyKey, at: datetime) -> None:
    """Add an event to a study whose additions have changed, if the study is here."""
    if connection.scalar(select(exists().where(studies.c.site == site, studies.c.study == base))):
        add_event(connection, site, base, StudyEvent.ADDED, at)


def read_additions(connection: Connection, site: str, study: bytes) -> tuple[StoredAddition, ...]:
    """The additions to a study, in the order of their arrival."""
    mine = (additions.c.site == site) & (additions.c.base == study)
    return _read(connection, additions, mine).get((site, study), ())


def additions_of(connection: Connection, numbers: Sequence[int]) -> dict[tuple[str, bytes], tuple[StoredAddition, ...]]:
    """The additions to the studies of these rows of `worklist`, by site and study."""
    # A join from the few rows of `worklist`, as in `stored_studies`.
    joined = additions.join(worklist, (worklist.c.site == additions.c.site) & (worklist.c.study == additions.c.base))
    return _read(connection, joined, worklist.c.number.in_(numbers))


def _read(
    connection: Connection, source: FromClause, these: ColumnElement[bool]
) -> dict[tuple[str, bytes], tuple[StoredAddition, ...]]:
    study = (studies.c.site == additions.c.site) & (studies.c.study == additions.c.study)
    query = select(additions, studies.c.received_at).select_from(source.join(studies, study)).where(these)
    rows = connection.execute(query.order_by(studies.c.received_at, additions.c.study)).all()
    found: dict[tuple[str, bytes], list[StoredAddition]] = {}
    for row in rows:
        found.setdefault((row.site, row.base), []).append(
            StoredAddition(
                StudyKey(row.study),
                moment(row.received_at),
                _pairs(row.corrects),
                None if row.decision is None else Decision(row.decision),
                _files(connection, row.site, row.study),
            )
        )
    return {base: tuple(each) for base, each in found.items()}


def _files(connection: Connection, site: str, study: bytes) -> tuple[Digest, ...]:
    # One query each: SQLite would begin a join with all files of the site.
    mine = (files.c.site == site) & (files.c.study == study)
    return tuple(map(Digest, connection.scalars(select(files.c.digest).where(mine).order_by(files.c.place))))


def current_files(own: Iterable[Digest], added: Sequence[StoredAddition]) -> list[Digest]:
    """The files that a study consists of now: each in its place, a corrected one in that of the earlier, the added ones
    at the end. Empty without the study's own files."""
    found = [current(file, added) for file in own]
    if not found:
        return []
    for each in added:
        if each.counts:
            found += [file for file in each.files if file not in each.corrects.values() and file not in found]
    return found


def current(file: Digest, added: Sequence[StoredAddition]) -> Digest:
    """The file that has taken the place of this one, the newest of several; or itself."""
    replaced = {old: new for each in added if each.counts for old, new in each.corrects.items()}
    return replaced.get(file, file)


def _pairs(corrects: bytes) -> dict[Digest, Digest]:
    parts = [Digest(corrects[at : at + DIGEST_BYTES]) for at in range(0, len(corrects), DIGEST_BYTES)]
    return dict(zip(parts[::2], parts[1::2], strict=True))
