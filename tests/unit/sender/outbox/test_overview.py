"""The outbox as a whole, asked by index: the next part to make, counts, pages. Each equals what all entries say."""

import random
from collections.abc import Collection, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from tests.support.two_ends import HUB_SIGNING, SITE, TwoEnds, samples
from thinwire.sender.config import SenderConfig
from thinwire.sender.outbox import overview
from thinwire.sender.outbox.entries import EntryState, OutboxEntry, PartState, totals_of
from thinwire.sender.outbox.tables import FILE
from thinwire.sender.outbox.tiers import ORDER
from thinwire.sender.pipeline import ROUND, WORKERS, Job, Pipeline
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.formats.receipts import Receipt, StudyStatus, sign_receipt
from thinwire.shared.identifiers import Digest
from thinwire.shared.storage.database import Database, engine_of


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> TwoEnds:
    """Studies in every state, urgent ones, requested parts."""
    ends, dice = TwoEnds(tmp_path_factory.mktemp("overview")), random.Random(7)
    for sample in samples(60, size=200):
        study, outbox = sample.study, ends.outbox
        outbox.accept(study, sample.source, ORDER, urgent=dice.random() < 0.3)
        for kind in dice.sample(ORDER, dice.choice((0, 2, 3, 4, 4, 5, 5, 5))):
            if dice.random() < 0.1:
                outbox.give_up(study, kind, "no")
                continue
            part = outbox.add(study, kind, study + bytes([kind]), hold=dice.random() < 0.2)
            if part.state is PartState.WAITING and dice.random() < 0.6:
                receipt = Receipt(study, SITE, part.object, StudyStatus.STORED, ends.clock.now())
                outbox.record_receipt(sign_receipt(receipt, HUB_SIGNING))
            elif part.state is PartState.WAITING and dice.random() < 0.2:
                (due,) = (each for each in outbox.due() if each.object == part.object)
                outbox.record_refusal(due, "no")
        if dice.random() < 0.3:
            outbox.request(study, Kind.PREVIEW)
        if dice.random() < 0.7:
            ends.clock.advance(1)
    return ends


def first_of(entries: Sequence[OutboxEntry], but: Collection[Job], steps: Sequence[Sequence[Kind]]) -> object:
    """As `Pipeline.next_job` says it, of all studies with missing parts: urgent ones first, then the oldest."""
    if Kind.GRAPH not in chain(*steps) and any(
        Kind.GRAPH in entry.missing and (entry.study, Kind.GRAPH) not in but for entry in entries
    ):
        return None
    for step in steps:
        for entry in entries:
            for kind in step:
                if (
                    (entry.study, kind) not in but
                    and kind in entry.missing
                    and (kind is not Kind.MANIFEST or entry.missing == (kind,))
                ):
                    return entry.study, kind
    return None


@pytest.mark.parametrize("steps", [ROUND, *WORKERS, ((Kind.MANIFEST,),), ((Kind.CROPS, Kind.GRAPH), (Kind.MANIFEST,))])
def test_the_next_part_to_make_is_the_first_of_all(ends: TwoEnds, steps: Sequence[Sequence[Kind]]) -> None:
    unfinished, but, found = ends.outbox.unfinished(), set[Job](), []
    pipeline = Pipeline(ends.outbox, SenderConfig(provider="cpu"))
    if Kind.GRAPH not in chain(*steps):
        assert pipeline.next_job((), steps) is None
        but = {(entry.study, Kind.GRAPH) for entry in unfinished if Kind.GRAPH in entry.missing}
    while job := pipeline.next_job(but, steps):
        assert job == first_of(unfinished, but, steps)
        found.append(job)
        but.add(job)
    assert first_of(unfinished, but, steps) is None
    assert found


def test_counts_are_those_of_all_studies(ends: TwoEnds) -> None:
    entries, whole = ends.outbox.entries(), ends.outbox.overview
    assert {(each.kind, each.state): each for each in whole.totals()} == {
        (each.kind, each.state): each for each in totals_of(entries)
    }
    states = [entry.state for entry in entries]
    assert whole.states() == {state: states.count(state) for state in EntryState}
    assert min(whole.states().values()) > 0
    open_states = (PartState.MISSING, PartState.WAITING)
    unsent = [entry.accepted for entry in entries if any(part.state in open_states for part in entry.parts)]
    assert whole.oldest_unsent() == min(unsent)
    assert whole.count() == len(entries)


def test_pages_have_every_study_once_in_order(ends: TwoEnds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "_PAGE", 7)
    pages = list(ends.outbox.overview.pages())
    assert [len(page) for page in pages] == [*[7] * 8, 4]
    assert list(chain(*pages)) == ends.outbox.entries()
    assert ends.outbox.overview.newest(3) == ends.outbox.entries()[:-4:-1]


def test_studies_with_a_part_in_a_state(ends: TwoEnds) -> None:
    refused = [entry for entry in ends.outbox.entries() if PartState.REFUSED in {part.state for part in entry.parts}]
    assert ends.outbox.entries(PartState.REFUSED) == refused
    stored = {part.object for entry in refused for part in entry.parts if part.state is PartState.STORED}
    every = {part.object for entry in refused for part in entry.parts if part.object}
    assert ends.outbox.stored(every) == stored
    assert stored


def test_no_question_that_is_asked_again_and_again_reads_a_table_from_end_to_end(tmp_path: Path) -> None:
    engine = engine_of(TwoEnds(tmp_path).folder / "clinic" / FILE)
    asked: list[tuple[str, Any]] = []
    event.listen(engine, "before_cursor_execute", lambda *given: asked.append((given[2], given[3])))
    outbox = TwoEnds(tmp_path).outbox
    outbox.database = Database(outbox.database.path, engine)
    whole = overview.Overview(outbox.database)
    for steps in WORKERS:
        for step in steps:
            outbox.next_missing(step)
    (
        outbox.due(),
        outbox.pending_escalations(),
        outbox.stored([Digest(bytes(32))]),
        whole.newest(200),
        whole.oldest_unsent(),
    )
    queries = [(sql, given) for sql, given in asked if sql.startswith("SELECT")]
    assert len(queries) > 10
    with engine.connect() as connection:
        for sql, given in queries:
            plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", given)]
            scans = [step for step in plan if step.startswith(("SCAN studies", "SCAN parts"))]
            assert ("parts.object IN" in sql) <= any("parts_object" in step for step in plan), plan
            assert [step for step in scans if "USING INDEX studies_accepted" not in step] == [], (sql, plan)
