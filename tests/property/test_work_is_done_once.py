"""Whatever workers do, die of or wait for, and however the clock jumps: no two have one piece of work while a claim
holds, every piece is done, and it counts once."""

import copy
import shutil
import tempfile
from collections import Counter
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import func, select

from tests.support.clock import FakeClock
from tests.support.soak import TIMES
from tests.support.tiny_bundle import tiny_bundle
from tests.support.worklist_histories import BUNDLE, History
from thinwire.receiver.hub import make_hub, open_hub
from thinwire.receiver.store import claims as claims_module
from thinwire.receiver.store.claims import LEASE, Claim
from thinwire.receiver.store.records import PendingGraph, StoredPrediction
from thinwire.receiver.store.tables import claims, receipts
from thinwire.shared.formats.receipts import StudyStatus
from thinwire.shared.identifiers import SiteName, StudyKey, Urgency
from thinwire.shared.storage.durable import Disk

WORKERS = range(3)
STUDIES = range(6)
Key = tuple[SiteName, StudyKey]


@cache
def joined() -> tuple[Path, History]:
    """A hub with two clinics, made once and copied."""
    folder = Path(tempfile.mkdtemp())
    make_hub(folder / "hub", tiny_bundle(folder / "tiny").folder, Disk(), FakeClock())
    with open_hub(folder / "hub", FakeClock()) as hub:
        return folder / "hub", History(hub, FakeClock())


@dataclass
class Work:
    """A batch of a worker. until: the end of its lease, in the clock's microseconds."""

    taken: AbstractContextManager[Claim[PendingGraph]]
    claim: Claim[PendingGraph]
    until: float = field(default=0.0)


class WorkersLive(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.opened = ExitStack()
        folder = Path(self.opened.enter_context(tempfile.TemporaryDirectory()))
        made, history = joined()
        shutil.copytree(made, folder / "hub")
        self.clock = FakeClock()
        self.hub = self.opened.enter_context(open_hub(folder / "hub", self.clock))
        self.history = copy.copy(history)
        self.history.hub, self.history.clock = self.hub, self.clock
        self.work: dict[int, Work] = {}
        self.dead: list[Work] = []
        self.done: Counter[Key] = Counter()

    def live(self) -> dict[Key, Work]:
        now = self.clock.monotonic()
        every = [*self.work.values(), *self.dead]
        return {
            (each.site, each.study): work
            for work in every
            if now < work.until <= now + LEASE
            for each in work.claim.pieces
            if self.holds(work, each)
        }

    def holds(self, work: Work, piece: PendingGraph) -> bool:
        mine = (claims.c.site == piece.site) & (claims.c.study == piece.study)
        with self.hub.database.read() as connection:
            return connection.scalar(select(claims.c.holder).where(mine)) == work.claim.holder

    @rule(study=st.sampled_from(STUDIES), content=st.integers(0, 2), urgent=st.booleans())
    def arrives(self, study: int, content: int, urgent: bool) -> None:
        self.history.do("urgent" if urgent else "graph", study, content)

    @rule(study=st.sampled_from(STUDIES))
    def becomes_urgent(self, study: int) -> None:
        self.history.do("escalate", study, 0)

    @rule(worker=st.sampled_from(WORKERS), most=st.integers(1, 4))
    def takes(self, worker: int, most: int) -> None:
        if worker in self.work:
            return
        held = self.live()
        free = [each for each in self.hub.store.untriaged() if (each.site, each.study) not in held]
        taken = self.hub.store.take_untriaged(most, frozenset())
        claim = taken.__enter__()
        assert len(claim.pieces) == min(most, len(free))
        assert {*claim.pieces} <= {*free}
        urgent = sum(each.urgent_asked for each in free)
        assert [each.urgent_asked for each in claim.pieces] == [n < urgent for n in range(len(claim.pieces))]
        self.work[worker] = Work(taken, claim, self.clock.monotonic() + LEASE)

    @rule(worker=st.sampled_from(WORKERS))
    def finishes(self, worker: int) -> None:
        if worker not in self.work:
            return
        work = self.work.pop(worker)
        for each in work.claim.pieces:
            found = StoredPrediction({}, Urgency.ROUTINE, "as the test says", False, BUNDLE, self.clock.now())
            self.done[each.site, each.study] += self.hub.store.add_prediction(each, found, work.claim)
        work.taken.__exit__(None, None, None)

    @rule(worker=st.sampled_from(WORKERS))
    def gives_up(self, worker: int) -> None:
        if worker in self.work:
            self.work.pop(worker).taken.__exit__(None, None, None)

    @rule(worker=st.sampled_from(WORKERS))
    def is_killed(self, worker: int) -> None:
        if worker in self.work:
            self.dead.append(self.work.pop(worker))

    @precondition(lambda self: self.work)
    @rule()
    def renews(self) -> None:
        self.hub.store.claims.renew([each.claim.holder for each in self.work.values()])
        for each in self.work.values():
            each.until = self.clock.monotonic() + LEASE

    @rule(seconds=st.sampled_from((1.0, LEASE - 1, LEASE, 3600.0, -1.0, -LEASE, -3600.0)))
    def the_clock_goes_on_or_back(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def each_result_is_told_once(self) -> None:
        triaged = receipts.c.status == str(StudyStatus.TRIAGED)
        query = select(receipts.c.site, receipts.c.study, func.count()).where(triaged)
        with self.hub.database.read() as connection:
            rows = connection.execute(query.group_by(receipts.c.site, receipts.c.study)).all()
        assert {(site, study): count for site, study, count in rows} == {key: n for key, n in self.done.items() if n}

    def teardown(self) -> None:
        try:
            for worker in WORKERS:
                self.is_killed(worker)
            self.clock.advance(2 * 3600 + LEASE)
            self.takes(0, 100)
            assert not self.hub.store.untriaged() or self.work[0].claim.pieces
            self.finishes(0)
            self.each_result_is_told_once()
            assert self.hub.store.untriaged() == []
            self.hub.store.claims.begin(alone=self.clock.now())
            with self.hub.database.read() as connection:
                assert connection.scalar(select(func.count()).select_from(claims)) == 0
        finally:
            for each in [*self.dead, *self.work.values()]:
                each.taken.__exit__(None, None, None)
            self.opened.close()


@pytest.fixture(autouse=True, scope="module")
def no_renewal_in_real_time() -> None:
    """The machine renews by its own clock."""
    claims_module.RENEWED = 3600.0


TestWorkersLive = WorkersLive.TestCase
TestWorkersLive.settings = settings(max_examples=8 * TIMES, stateful_step_count=25, deadline=None)
