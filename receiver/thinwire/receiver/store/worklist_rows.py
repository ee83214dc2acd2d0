"""The worklist's rows: one a study, kept by every transaction that changes its study, with their counts and words.

`keep` computes a row from the other tables, which it repeats in the form in which the worklist is read: by place and
time of arrival, from an index. Tables: docs/store-format.md. Queries: `worklist_query`.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from typing import Any

from sqlalchemy import Connection, Insert, Row, Select, Update, and_, delete, exists, func, insert, or_, select, update

from thinwire.receiver.inference.calibration import PredictionSet
from thinwire.receiver.store import full_text
from thinwire.receiver.store.additions import base_of
from thinwire.receiver.store.events import StudyEvent
from thinwire.receiver.store.reports import ReportState
from thinwire.receiver.store.tables import (
    additions,
    drafts,
    events,
    objects,
    predictions,
    reports,
    studies,
    tombstones,
    worklist,
    worklist_counts,
    worklist_vocabulary,
)
from thinwire.receiver.store.tombstones import is_erased
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.identifiers import Urgency
from thinwire.shared.storage.database import insert_new, prepared

WORD = re.compile("[a-z0-9]+")
"""A word of the search, in lower case."""


class Place(IntEnum):
    """The place of a study in the reading order; before triage, the clinic's wish gives it."""

    IMMEDIATE = 0
    URGENT = 1
    URGENT_UNTRIAGED = 2
    UNCERTAIN = 3
    ROUTINE = 4
    ROUTINE_UNTRIAGED = 5


PLACE_OF = {
    Urgency.IMMEDIATE: Place.IMMEDIATE,
    Urgency.URGENT: Place.URGENT,
    Urgency.UNCERTAIN: Place.UNCERTAIN,
    Urgency.ROUTINE: Place.ROUTINE,
}


UNTRIAGED = (Place.URGENT_UNTRIAGED, Place.ROUTINE_UNTRIAGED)


class ReadingState(IntEnum):
    """How far the reading of a study is."""

    NEW = 0
    OPENED = 1
    """Opened by a reader; at most the draft of a report."""
    DRAFTED = 2
    """The draft of a report, and not opened."""
    PRELIMINARY_OPENED = 3
    PRELIMINARY = 4
    """A preliminary report, and not opened."""
    SIGNED = 5


_KEPT = ("done", "state", "place", "opened", "report", "drafted", "words")
"""The columns of a row that its study's other tables give, in the order of `_row`."""


def keep(connection: Connection, site: str, study: bytes) -> None:
    """Bring the row of a study up to date, with its counts and words; in the transaction that changed the study. Files
    that are added to a study, and a study that was removed, have no row."""
    keep_each(connection, [(site, study)])


def keep_each(connection: Connection, these: Iterable[tuple[str, bytes]]) -> None:
    """As `keep`, of several studies, each named once."""
    counted: Counter[tuple[str, int, int]] = Counter()
    rows: list[Sequence[Any]] = []
    gone: list[tuple[int, str]] = []
    come: list[tuple[int, str]] = []
    new: set[str] = set()
    for site, study in these:
        facts = _facts(connection, site, study).one_or_none()
        if facts is None:
            continue
        if facts.has_none:
            unlist(connection, site, study)
            continue
        row = _row(facts)
        if facts.number is None:
            mine = {"site": site, "study": study, "received_at": facts.received_at}
            (number,) = connection.execute(_ROW, mine | row).inserted_primary_key or (0,)
        else:
            number = facts.number
            if all(getattr(facts, f"kept_{name}") == value for name, value in row.items()):
                continue
            rows.append([number, *row.values()])
            counted[site, facts.kept_state, facts.kept_place] -= 1
        counted[site, row["state"], row["place"]] += 1
        if facts.kept_words != row["words"]:
            gone += [] if facts.number is None else [(number, facts.kept_words)]
            come.append((number, row["words"]))
            new |= set(row["words"].split()) - set((facts.kept_words or "").split())
    _change.each(connection, rows)
    _counts.each(connection, ((*key, by) for key, by in sorted(counted.items()) if by))
    full_text.remove(connection, gone)
    full_text.add(connection, come)
    _learn(connection, new)


def unlist(connection: Connection, site: str, study: bytes) -> None:
    """Remove the row of a study, with its count and words."""
    row = connection.execute(select(worklist).where(worklist.c.site == site, worklist.c.study == study)).one_or_none()
    if row is not None:
        connection.execute(delete(worklist).where(worklist.c.number == row.number))
        _counts(connection, site, row.state, row.place, -1)
        full_text.remove(connection, [(row.number, row.words)])


def is_kept(connection: Connection, site: str, study: bytes) -> bool:
    """Whether the row of a study is up to date."""
    facts, before = _facts(connection, site, study).one_or_none(), _listed(connection, site, study).one_or_none()
    if base_of(connection, site, study) is not None or is_erased(connection, site, study):
        return before is None
    return facts is not None and before is not None and _same(before, _row(facts))


def miscounted(connection: Connection) -> bool:
    """Whether the counts differ from the rows."""
    c = worklist_counts.c
    stored = select(c.site, c.state, c.place, c.studies).where(c.studies != 0)
    return set(map(tuple, connection.execute(stored))) != set(map(tuple, connection.execute(_counted())))


def misindexed(connection: Connection) -> bool:
    """Whether the words of the search differ from those of the rows; in a transaction that may write."""
    return bool(_unknown_words(connection)) or full_text.differs(connection)


def rebuild(connection: Connection) -> None:
    """The counts and the words of the search anew from the rows."""
    connection.execute(delete(worklist_counts))
    connection.execute(insert(worklist_counts).from_select(["site", "state", "place", "studies"], _counted()))
    full_text.rebuild(connection)
    _learn(connection, _unknown_words(connection))


def place(urgency: Urgency | None, urgent_asked: bool) -> Place:
    """urgency: of the prediction, None before triage."""
    if urgency is None:
        return Place.URGENT_UNTRIAGED if urgent_asked else Place.ROUTINE_UNTRIAGED
    return PLACE_OF[urgency]


def reading_state(opened: bool, report: ReportState | None) -> ReadingState:
    match report:
        case ReportState.FINAL:
            return ReadingState.SIGNED
        case ReportState.PRELIMINARY:
            return ReadingState.PRELIMINARY_OPENED if opened else ReadingState.PRELIMINARY
        case ReportState.DRAFT:
            return ReadingState.OPENED if opened else ReadingState.DRAFTED
        case None:
            return ReadingState.OPENED if opened else ReadingState.NEW


def words_of(facts: Mapping[str, Any]) -> str:
    """The words of a study for the search: ascending, each once, with a space between.

    facts: site, text_source, modality, view_position, urgency, reason, findings (JSON), opened, report.
    """
    texts = [facts["site"], facts["text_source"], facts["modality"], facts["view_position"]]
    texts += [facts["urgency"] or "not triaged", facts["reason"], facts["report"]]
    if facts["report"] == ReportState.FINAL:
        texts.append("signed")
    elif facts["report"] is None:
        texts.append("opened" if facts["opened"] else "new")
    found = json.loads(facts["findings"] or "{}")
    texts += [name for name, (*_, outcome) in found.items() if outcome != PredictionSet.NO]
    return " ".join(sorted(set(split(text for text in texts if text))))


def split(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from WORD.findall(text.lower())


@prepared
def _listed(site: Any, study: Any) -> Select[Any]:
    return select(worklist).where(worklist.c.site == site, worklist.c.study == study)


def _same(before: Row[Any], row: Mapping[str, Any]) -> bool:
    return all(getattr(before, name) == value for name, value in row.items())


def _learn(connection: Connection, words: set[str]) -> None:
    """Words of the vocabulary, ascending, so that two transactions that add the same ones wait for each other in one
    order."""
    if not words:
        return
    if new := sorted(words.difference(_known_words(connection, sorted(words)).scalars())):
        rows = [{"word": each} for each in new]
        connection.execute(insert_new(worklist_vocabulary).values(rows).on_conflict_do_nothing())


@prepared
def _known_words(words: Any) -> Select[Any]:
    return select(worklist_vocabulary.c.word).where(worklist_vocabulary.c.word.in_(words))


def _unknown_words(connection: Connection) -> set[str]:
    """Words of rows that the vocabulary lacks."""
    # Few rows differ in their words.
    used = {word for words in connection.scalars(select(worklist.c.words).distinct()) for word in words.split()}
    return used - set(connection.scalars(select(worklist_vocabulary.c.word)))


def _counted() -> Select[Any]:
    key = worklist.c.site, worklist.c.state, worklist.c.place
    return select(*key, func.count()).group_by(*key)


@prepared
def _facts(site: Any, study: Any) -> Select[Any]:
    """The query of what a row depends on, and the row as it was kept; without `number` where there is none."""
    graph = (
        select(objects.c.blob)
        .where(objects.c.site == site, objects.c.study == study, objects.c.kind == int(Kind.GRAPH))
        .order_by(objects.c.number.desc())
        .limit(1)
        .scalar_subquery()
    )
    report = (
        select(reports.c.state)
        .where(reports.c.site == site, reports.c.study == study)
        .order_by(reports.c.version.desc())
        .limit(1)
        .scalar_subquery()
    )
    opened = exists().where(events.c.site == site, events.c.study == study, events.c.event == str(StudyEvent.OPENED))
    drafted = exists().where(drafts.c.site == site, drafts.c.study == study, drafts.c.blob == graph)
    added = exists().where(additions.c.site == site, additions.c.study == study)
    erased = exists().where(tombstones.c.site == site, tombstones.c.study == study)
    listed = and_(worklist.c.site == studies.c.site, worklist.c.study == studies.c.study)
    predicted = and_(
        predictions.c.site == studies.c.site, predictions.c.study == studies.c.study, predictions.c.blob == graph
    )
    return (
        select(
            studies.c.site,
            studies.c.received_at,
            studies.c.urgent_asked,
            studies.c.text_source,
            studies.c.modality,
            studies.c.view_position,
            predictions.c.urgency,
            predictions.c.reason,
            predictions.c.findings,
            report.label("report"),
            opened.label("opened"),
            drafted.label("drafted"),
            or_(added, erased).label("has_none"),
            worklist.c.number,
            *(worklist.c[name].label(f"kept_{name}") for name in _KEPT),
        )
        .select_from(studies.outerjoin(predictions, predicted).outerjoin(worklist, listed))
        .where(studies.c.site == site, studies.c.study == study)
    )


def _row(facts: Row[Any]) -> dict[str, Any]:
    report = None if facts.report is None else ReportState(facts.report)
    state = reading_state(facts.opened, report)
    urgency = None if facts.urgency is None else Urgency(facts.urgency)
    return {
        "done": state is ReadingState.SIGNED,
        "state": int(state),
        "place": int(place(urgency, facts.urgent_asked)),
        "opened": facts.opened,
        "report": facts.report,
        "drafted": facts.drafted,
        "words": words_of(facts._asdict()),
    }


@prepared
def _change(
    number: Any, done: Any, state: Any, place: Any, opened: Any, report: Any, drafted: Any, words: Any
) -> Update:
    kept = zip(_KEPT, (done, state, place, opened, report, drafted, words), strict=True)
    return update(worklist).where(worklist.c.number == number).values(dict(kept))


@prepared
def _counts(site: Any, state: Any, place: Any, by: Any) -> Insert:
    added = insert_new(worklist_counts).values(site=site, state=state, place=place, studies=by)
    more = {"studies": worklist_counts.c.studies + added.excluded.studies}
    return added.on_conflict_do_update(index_elements=["site", "state", "place"], set_=more)


_ROW = insert(worklist)
