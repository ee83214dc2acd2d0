"""The worklist that is read from its index is the worklist of its definition, whatever happened to the studies."""

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.both_databases import engines, hub_on
from tests.support.clock import FakeClock
from tests.support.soak import TIMES
from tests.support.tiny_bundle import tiny_bundle
from tests.support.worklist_histories import CAP, SELECTIONS, STUDIES, Act, History, acts, selected, words
from thinwire.receiver.hub import open_hub
from thinwire.receiver.inference.triage import ORDER
from thinwire.receiver.store.content import patient_of_number
from thinwire.receiver.store.worklist import WorklistEntry
from thinwire.receiver.store.worklist_order import ListState, Position, Selection, position_of
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.identifiers import SiteName, StudyKey

Key = tuple[SiteName, StudyKey]

quick = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@contextmanager
def history_of(bundle: Bundle, engine: str) -> Iterator[History]:
    clock = FakeClock()
    with (
        tempfile.TemporaryDirectory() as folder,
        hub_on(engine, Path(folder) / "hub", bundle, clock) as data,
        open_hub(data, clock) as hub,
    ):
        yield History(hub, clock)


def keys(entries: list[WorklistEntry]) -> list[Key]:
    return [(entry.study.site, entry.study.study) for entry in entries]


def rest(history: History, selection: Selection, most: int, after: Position | None = None) -> list[WorklistEntry]:
    """All pages from a position on."""
    found: list[WorklistEntry] = []
    while True:
        page = history.hub.worklist.page(selection, history.clock.now(), most, after=after)
        assert len(page.entries) <= most
        found += page.entries
        if page.later is None:
            return found
        after = position_of(str(page.later))
        assert after == page.later


@settings(quick, max_examples=20 * TIMES)
@given(engine=engines, played=acts, most=st.integers(1, 7), chosen=st.lists(st.sampled_from(SELECTIONS), max_size=8))
def test_pages_filters_and_counts_are_those_of_the_definition(
    bundle: Bundle, engine: str, played: list[Act], most: int, chosen: list[Selection]
) -> None:
    with history_of(bundle, engine) as history:
        history.play(played)
        defined, now = history.listed(), history.clock.now()
        for selection in (Selection(), Selection(ListState.ALL), *chosen):
            wanted = [entry for entry in defined if selected(selection, entry)]
            assert rest(history, selection, most) == wanted, selection
            assert [e for page in history.hub.worklist.stream(selection, now, most) for e in page] == wanted
            assert history.hub.worklist.page(selection, now, most).selected == len(wanted)
        counts, waiting = history.hub.worklist.counts(now), [entry for entry in defined if not entry.done]
        assert counts.waiting == len(waiting)
        assert (counts.overdue.studies, counts.overdue.more) == (sum(entry.overdue for entry in waiting), False)
        assert counts.oldest == min((entry.study.received for entry in waiting), default=None)
        assert counts.by_urgency == {each: sum(e.urgency is each for e in waiting) for each in ORDER}
        for entry in waiting[:1]:
            # The moment of the cap itself.
            history.clock.advance(max(0.0, (entry.study.received + CAP - now).total_seconds()))
            assert rest(history, Selection(), most) == [e for e in history.listed() if not e.done]


@settings(quick, max_examples=10 * TIMES)
@given(engine=engines, played=acts, most=st.integers(1, 5))
def test_pages_lead_back_and_studies_to_their_neighbours(
    bundle: Bundle, engine: str, played: list[Act], most: int
) -> None:
    with history_of(bundle, engine) as history:
        history.play(played)
        waiting, now, worklist = [e for e in history.listed() if not e.done], history.clock.now(), history.hub.worklist
        for entry in history.listed():
            near = [*keys([e for e in waiting if e is not entry and e.study != entry.study])]
            own = keys([entry])[0]
            here = keys(waiting).index(own) if own in keys(waiting) else len(waiting)
            left, right = near[here - 1] if here else None, near[here] if here < len(near) else None
            assert worklist.beside(*own, now) == (left, right)
        page = worklist.page(Selection(), now, most)
        pages = [page]
        while page.later is not None:
            page = worklist.page(Selection(), now, most, after=page.later)
            pages.append(page)
        for before, after in pairwise(pages):
            assert after.earlier is not None
            assert worklist.page(Selection(), now, most, before=after.earlier).entries == before.entries


@settings(quick, max_examples=12 * TIMES)
@given(engine=engines, played=acts, meanwhile=acts, most=st.integers(1, 5), cut=st.integers(0, 4))
def test_a_study_that_keeps_its_place_is_on_one_page_while_others_change(
    bundle: Bundle, engine: str, played: list[Act], meanwhile: list[Act], most: int, cut: int
) -> None:
    with history_of(bundle, engine) as history:
        history.play([("graph", number, number % 12) for number in range(2 * STUDIES)])
        history.play(played)
        before = {key: (entry.place, entry.urgency) for key, entry in _open(history).items()}
        page = history.hub.worklist.page(Selection(), history.clock.now(), most)
        shown = Counter(keys(list(page.entries)))
        for _ in range(cut):
            if page.later is not None:
                page = history.hub.worklist.page(Selection(), history.clock.now(), most, after=page.later)
                shown.update(keys(list(page.entries)))
        history.play(meanwhile)
        if page.later is not None:
            shown.update(keys(rest(history, Selection(), most, page.later)))
        after = {key: (entry.place, entry.urgency) for key, entry in _open(history).items()}
        changed = {history.key(number) for name, number, _ in meanwhile if name != "wait"}
        touched = {(clinic.site, study) for clinic, study in changed}
        for key, place in before.items():
            if after.get(key) == place and key not in touched:
                assert shown[key] == 1, key


def _open(history: History) -> dict[Key, WorklistEntry]:
    return {keys([entry])[0]: entry for entry in history.listed() if not entry.done}


QUERIES = (
    *("north", "north-valley", "ridge", "new", "opened", "signed", "prelim", "draft", "final", "not triaged"),
    *("pneumo", "effusion routine", "dx ap", "report", "suspected consolidation", "nothing-like-it", "", "a b", "%"),
)


@settings(quick, max_examples=10 * TIMES)
@given(
    engine=engines,
    played=acts,
    digits=st.integers(1, 8),
    number=st.integers(0, 2 * STUDIES - 1),
    words_=st.sampled_from(QUERIES),
)
def test_the_search_finds_what_has_every_word_and_nothing_else(
    bundle: Bundle, engine: str, played: list[Act], digits: int, number: int, words_: str
) -> None:
    with history_of(bundle, engine) as history:
        history.play(played)
        defined, short = history.listed(), history.key(number)[1].hex()[:digits]
        for query in ("new", words_, short, short.upper(), f"{words_} {short}", "PHANTOM-1", " PHANTOM-3 "):
            wanted = [entry for entry in defined if _matches(entry, query)]
            found = history.hub.worklist.search(query, history.clock.now(), 200)
            assert list(found.entries) == wanted, query
            assert (found.count.studies, found.count.more) == (len(wanted), False)
        assert history.hub.worklist.search("north", history.clock.now(), 2).entries == tuple(
            [entry for entry in defined if entry.study.site == "north-valley"][:2]
        )


def _matches(entry: WorklistEntry, query: str) -> bool:
    study, number = entry.study, query.strip()
    if number and study.patient == patient_of_number(study.site, number):
        return True
    wanted, begun, key = query.lower().replace("%", "").split(), list(words(entry)), study.study.hex()
    return bool(wanted) and all(
        all(any(each.startswith(part) for each in begun) for part in word.split("-"))
        or (len(word) >= 4 and key.startswith(word))
        for word in wanted
    )
