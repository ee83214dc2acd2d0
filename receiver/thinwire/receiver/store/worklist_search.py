"""The search of the worklist: by words, by the beginning of a study key, by a patient's number; each from an index."""

from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, literal, or_, select

from thinwire.receiver.store import full_text
from thinwire.receiver.store.content import patient_of_number
from thinwire.receiver.store.stored_studies import key_starts
from thinwire.receiver.store.tables import sites, studies, worklist, worklist_vocabulary
from thinwire.receiver.store.worklist_rows import split
from thinwire.shared.identifiers import SiteName

LEAST_DIGITS = 4
"""Digits of a study key; fewer would find a study by chance."""
MOST_EXPANSIONS = 200
"""Words that the beginning of a word may stand for by name."""


def matches_of(connection: Connection, query: str, most: int) -> list[Select[Any]]:
    """Queries of the numbers of the rows that match, each of at most so many; of words, the newest."""
    wanted = [word for word in dict.fromkeys(query.lower().split()) if any(split([word]))]
    known = [_known(connection, part) for part in dict.fromkeys(split(wanted))]
    matches = []
    if known and all(known):
        matches.append(full_text.numbers_with(connection, known, most))
    for word in wanted:
        # One word is the beginning of the key, the others of words or of the key.
        if (starts := _key_starts(word)) is not None:
            others = [_has(other) for other in wanted if other != word]
            matches.append(_limited(select(worklist.c.number).where(starts, *others), most))
    if number := query.strip():
        patients = [
            patient_of_number(SiteName(site), number) for site in connection.scalars(select(sites.c.name)).all()
        ]
        joined = and_(studies.c.site == worklist.c.site, studies.c.study == worklist.c.study)
        mine = select(worklist.c.number).join_from(studies, worklist, joined).where(studies.c.patient.in_(patients))
        matches.append(_limited(mine, most))
    return matches


def _known(connection: Connection, beginning: str) -> list[str]:
    """The words of any study that begin so; if they are many, the beginning itself with a star."""
    word = worklist_vocabulary.c.word
    these = select(word).where(word >= beginning, word < f"{beginning}~").order_by(word).limit(MOST_EXPANSIONS + 1)
    known = list(connection.scalars(these))
    return known if len(known) <= MOST_EXPANSIONS else [f"{beginning}*"]


def _key_starts(word: str) -> ColumnElement[bool] | None:
    return key_starts(word) if len(word) >= LEAST_DIGITS else None


def _has(word: str) -> ColumnElement[bool]:
    """The condition that a row matches a word of the query."""
    among = and_(*((literal(" ") + worklist.c.words).contains(f" {part}") for part in split([word])))
    starts = _key_starts(word)
    return among if starts is None else or_(among, starts)


def _limited(query: Select[Any], most: int) -> Select[Any]:
    few = query.limit(most).subquery()
    return select(few.c.number)
