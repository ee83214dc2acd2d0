"""Entries of the outbox as rows of the clinic's database, and back."""

import contextlib
import heapq
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import (
    Connection,
    Row,
    Select,
    bindparam,
    delete,
    exists,
    func,
    insert,
    literal,
    select,
    union_all,
    update,
)

from thinwire.sender.outbox.entries import Due, OutboxEntry, Part, PartState, PartTotal
from thinwire.sender.outbox.tables import parts, places, studies
from thinwire.sender.outbox.tiers import ORDER, When
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import UnknownStudy
from thinwire.shared.formats.originals import Effort
from thinwire.shared.formats.positional import micros, moment
from thinwire.shared.formats.receipts import Place, StudyStatus
from thinwire.shared.identifiers import Digest, EpochId, Generation, StudyKey
from thinwire.shared.storage.database import insert_new

MOST_DUE = 500
"""Objects of one kind and urgency that are considered for sending at a time."""
_PAGE = 500
_WITH_PLACES = select(parts, places.c.generation, places.c.position).outerjoin(
    places, (places.c.study == parts.c.study) & (places.c.kind == parts.c.kind)
)
_EFFORTS: dict[str, Effort] = {"quick": "quick", "small": "small"}


class UnreadableEntry(UnknownStudy):
    """A row with a value that this version does not know. It is kept as it is."""

    remedy = "It is kept as it is, and `status` lists it. Install the version of thinwire that wrote it."


def add_entry(connection: Connection, entry: OutboxEntry) -> None:
    connection.execute(insert(studies).values(_study_row(entry)))
    if entry.parts:
        connection.execute(insert(parts), [_part_row(entry, part) for part in entry.parts])


def write_entry(connection: Connection, before: OutboxEntry, entry: OutboxEntry) -> None:
    """Replace the rows that differ."""
    row = _study_row(entry)
    if row != _study_row(before):
        connection.execute(update(studies).where(studies.c.study == entry.study).values(row))
    known = {part.kind: _part_row(before, part) for part in before.parts}
    for part in entry.parts:
        row = _part_row(entry, part)
        if known.get(part.kind) != row:
            this = (parts.c.study == entry.study) & (parts.c.kind == int(part.kind))
            act = update(parts).where(this) if part.kind in known else insert(parts)
            connection.execute(act.values(row))
        if part.place is not None and part.place != before.part(part.kind).place:
            at = {"generation": part.place.generation, "position": part.place.position}
            of = {"study": entry.study, "kind": int(part.kind)}
            connection.execute(
                insert_new(places).values(**of, **at).on_conflict_do_update(index_elements=["study", "kind"], set_=at)
            )


def remove_entry(connection: Connection, study: StudyKey) -> None:
    connection.execute(delete(studies).where(studies.c.study == study))


def read_entry(connection: Connection, study: StudyKey) -> OutboxEntry | None:
    """Raises UnreadableEntry."""
    found = list(read_entries(connection, select(studies).where(studies.c.study == study)))
    for each in found:
        if isinstance(each, UnreadableEntry):
            raise each
        return each
    return None


def read_entries(connection: Connection, query: Select[Any]) -> "list[OutboxEntry | UnreadableEntry]":
    """The entries of these rows of `studies`, in their order; an error in the place of an unreadable one."""
    rows = connection.execute(query).all()
    found: list[OutboxEntry | UnreadableEntry] = []
    for start in range(0, len(rows), _PAGE):
        page = rows[start : start + _PAGE]
        of_these = parts.c.study.in_([row.study for row in page])
        by_study: dict[bytes, list[Row[Any]]] = {}
        for part in connection.execute(_WITH_PLACES.where(of_these).order_by(parts.c.kind)):
            by_study.setdefault(part.study, []).append(part)
        found += [_entry(row, by_study.get(row.study, [])) for row in page]
    return found


def _due_query() -> Select[Any]:
    """The waiting parts: of each kind the urgent and requested ones and the others, of each the oldest MOST_DUE; as
    many of studies with a tier policy of their own, which may go before these; and as many of additions to studies,
    which may have to wait for another version of the hub. The files of an addition follow its manifest, by which the
    hub knows their study."""
    waiting = (parts.c.state == str(PartState.WAITING)) & parts.c.object.is_not(None)
    chosen = select(parts.c.study, parts.c.kind).where(waiting).order_by(parts.c.accepted_at, parts.c.study)
    additions = select(studies.c.study).where(studies.c.adds_to > b"")  # a range of the index
    manifest = parts.alias()
    listed = exists().where(
        manifest.c.study == parts.c.study,
        manifest.c.kind == int(Kind.MANIFEST),
        manifest.c.state == str(PartState.STORED),
    )
    of_additions = parts.c.study.in_(additions) & ((parts.c.kind == int(Kind.MANIFEST)) | listed)
    added = chosen.where(of_additions).limit(MOST_DUE)
    chosen = chosen.where(parts.c.study.not_in(additions))
    ranges = [
        chosen.where(parts.c.kind == int(kind), parts.c.first == literal(first)).limit(MOST_DUE)
        for kind in ORDER
        for first in (True, False)
    ]
    own = chosen.join(studies, studies.c.study == parts.c.study).where(studies.c.overrides != "{}").limit(MOST_DUE)
    every = union_all(*(select(each.subquery()) for each in (*ranges, own, added))).subquery()
    return (
        select(
            *(parts.c[name] for name in ("object", "size", "kind", "requested", "accepted_at", "study")),
            *(studies.c[name] for name in ("urgent", "epoch", "overrides", "paused", "adds_to")),
        )
        .join(studies, studies.c.study == parts.c.study)
        .join(every, (every.c.study == parts.c.study) & (every.c.kind == parts.c.kind))
        .order_by(parts.c.accepted_at, parts.c.study, parts.c.kind)
        .distinct()
    )


_DUE = _due_query()
"""Built once: it is asked after every change."""


def read_due(connection: Connection) -> list[Due]:
    """The waiting parts; of very many those that are sent first."""
    return [due for row in connection.execute(_DUE) for due in _due(row)]


def _missing_query(urgent: bool, first: bool) -> Select[Any]:
    return (
        select(parts.c.study, parts.c.accepted_at)
        .join(studies, studies.c.study == parts.c.study)
        .where(
            parts.c.state == str(PartState.MISSING),
            parts.c.kind == bindparam("of_kind"),
            parts.c.first == literal(first),
            studies.c.urgent == literal(urgent),
        )
        .order_by(parts.c.accepted_at, parts.c.study)
    )


_MISSING = [(urgent, _missing_query(urgent, first)) for urgent, first in ((True, True), (False, True), (False, False))]
"""Each is one range of the index `parts_due`, in its order."""


@contextlib.contextmanager
def missing_parts(connection: Connection, kinds: Sequence[Kind]) -> Iterator[Iterator[tuple[StudyKey, Kind]]]:
    """The missing parts of these kinds: of urgent studies first, then of the oldest, of one study in the order of
    `kinds`. Rows are read as they are consumed; valid within the block."""
    with contextlib.ExitStack() as opened:
        ranges = []
        for place, kind in enumerate(kinds):
            for urgent, query in _MISSING:
                rows = opened.enter_context(contextlib.closing(connection.execute(query, {"of_kind": int(kind)})))
                ranges.append(_placed(rows, urgent, place))
        yield ((StudyKey(study), kinds[place]) for *_, study, place in heapq.merge(*ranges))


def _placed(rows: Iterable[Row[Any]], urgent: bool, place: int) -> Iterator[tuple[bool, int, bytes, int]]:
    for row in rows:
        yield not urgent, row.accepted_at, row.study, place


def read_totals(connection: Connection) -> list[PartTotal]:
    """The parts by kind and state, without those that this version cannot read. Index-only."""
    each = parts.c.state, parts.c.kind
    query = select(*each, func.count(), func.sum(parts.c.size)).group_by(*each)
    known = set(map(str, PartState)), set(map(int, Kind))
    rows = [row for row in connection.execute(query).all() if row.state in known[0] and row.kind in known[1]]
    return [PartTotal(Kind(kind), PartState(state), count, size) for state, kind, count, size in rows]


def unsure_studies() -> Select[Any]:
    """The rows of `studies` that this version may not be able to read, found by their values."""
    others = select(parts.c.study).where(
        parts.c.state.not_in([str(each) for each in PartState]) | parts.c.kind.not_in([int(each) for each in Kind])
    )
    return select(studies).where(
        studies.c.study.in_(others)
        | studies.c.status.not_in([str(each) for each in StudyStatus])
        | studies.c.effort.not_in(list(_EFFORTS))
        | (studies.c.overrides != "{}")
    )


def _due(row: Row[Any]) -> list[Due]:
    """Empty for a row that this version cannot read; its study is listed as unreadable."""
    try:
        return [
            Due(
                Digest(row.object),
                row.size,
                row.urgent,
                moment(row.accepted_at),
                EpochId(row.epoch),
                StudyKey(row.study),
                Kind(row.kind),
                _overrides(row.overrides),
                row.requested,
                row.paused,
                row.adds_to is not None,
            )
        ]
    except (ValueError, KeyError):
        return []


def _study_row(entry: OutboxEntry) -> dict[str, Any]:
    return {
        "study": entry.study,
        "accepted_at": micros(entry.accepted),
        "urgent": entry.urgent,
        "epoch": entry.epoch,
        "text_mac": entry.text_mac,
        "source": entry.source,
        "status": None if entry.status is None else str(entry.status),
        "effort": entry.effort,
        "escalated": entry.escalated,
        "paused": entry.paused,
        "overrides": json.dumps({kind.name.lower(): str(when) for kind, when in sorted(entry.overrides.items())}),
        "warnings": json.dumps(entry.warnings),
        "at_hub": entry.is_at_hub,
        "adds_to": entry.adds_to,
    }


def _part_row(entry: OutboxEntry, part: Part) -> dict[str, Any]:
    return {
        "study": entry.study,
        "kind": int(part.kind),
        "state": str(part.state),
        "object": part.object,
        "size": part.size,
        "plain_size": part.plain_size,
        "requested": part.requested,
        "kept": part.kept,
        "reason": part.reason,
        "accepted_at": micros(entry.accepted),
        "first": entry.urgent or part.requested,
    }


def _entry(row: Row[Any], part_rows: Iterable[Row[Any]]) -> OutboxEntry | UnreadableEntry:
    try:
        return OutboxEntry(
            study=StudyKey(row.study),
            accepted=moment(row.accepted_at),
            urgent=row.urgent,
            epoch=EpochId(row.epoch),
            text_mac=row.text_mac,
            parts=tuple(_part(each) for each in part_rows),
            source=None if row.source is None else Digest(row.source),
            status=None if row.status is None else StudyStatus(row.status),
            overrides=_overrides(row.overrides),
            effort=None if row.effort is None else _EFFORTS[row.effort],
            escalated=row.escalated,
            paused=row.paused,
            warnings=tuple(json.loads(row.warnings)),
            adds_to=None if row.adds_to is None else StudyKey(row.adds_to),
        )
    except (ValueError, KeyError) as error:
        return UnreadableEntry(f"study {row.study.hex()}: a value that this version does not know ({error})")


def _part(row: Row[Any]) -> Part:
    return Part(
        Kind(row.kind),
        PartState(row.state),
        None if row.object is None else Digest(row.object),
        row.size,
        row.plain_size,
        row.requested,
        row.kept,
        row.reason,
        None if row.generation is None else Place(Generation(row.generation), row.position),
    )


def _overrides(text: str) -> dict[Kind, When]:
    return {Kind[name.upper()]: When(when) for name, when in json.loads(text).items()} if text != "{}" else {}
