"""The outbox on its real storage, under any sequence of acts, power cuts and restarts: every study stays whole."""

from pathlib import Path

import pytest
from hypothesis import seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from tests.support.clock import FakeClock
from tests.support.format_samples import counted_bytes
from tests.support.power import Cutoff, Fuse, LossyDisk, PowerCut
from tests.support.soak import SOAK, TIMES
from tests.support.two_ends import HUB_SIGNING, PLAN, SITE, Sample, open_clinic, samples
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import UnknownStudy
from thinwire.shared.formats.receipts import Receipt, StudyStatus, sign_receipt
from thinwire.shared.identifiers import StudyKey

STEPS = 50
KINDS = (Kind.GRAPH, Kind.ORIGINALS, Kind.MANIFEST)
FOLDERS: pytest.TempPathFactory


class OutboxLives(RuleBasedStateMachine):
    studies = Bundle("studies")

    def __init__(self) -> None:
        super().__init__()
        self.mine = samples(3, size=400)
        self.accepted: set[StudyKey] = set()
        self.clock = FakeClock()
        self.random = counted_bytes(b"outbox")
        self.data = Path(FOLDERS.mktemp("lives"))
        self.complete: set[StudyKey] = set()
        """Studies of which the hub had every part at a time, so that the clinic may have deleted its last copy."""
        self.outbox = open_clinic(self.data, LossyDisk(Fuse()), self.clock, self.random)

    def start(self, fuse: Fuse, lossy: bool = True) -> None:
        """Another process. The database's connections stay open, which saves most of this test's time."""
        disk, database = LossyDisk(fuse, lossy), self.outbox.database
        self.outbox = open_clinic(self.data, disk, self.clock, self.random, database)

    def restart(self) -> None:
        self.start(Fuse())
        self.outbox.recover()

    @rule(target=studies, which=st.integers(0, 2))
    def accept(self, which: int) -> object:
        sample = self.mine[which]
        self.outbox.accept(sample.study, sample.source, PLAN)
        if sample.study in self.accepted:
            return multiple()
        self.accepted.add(sample.study)
        return sample

    @rule()
    def make(self) -> None:
        make_parts(self)

    @rule(at=st.integers(1, 60), lossy=st.booleans())
    def make_until_the_power_is_cut(self, at: int, lossy: bool) -> None:
        """The power is cut after some steps of the work; then a restart."""
        self.start(Cutoff(at), lossy)
        try:
            self.outbox.recover()
            make_parts(self)
        except PowerCut:
            pass
        self.restart()

    @rule(sample=studies, kind=st.sampled_from(KINDS))
    def stored(self, sample: Sample, kind: Kind) -> None:
        if sample.study not in self.accepted:
            return  # `forget` has removed it with another study
        part = self.outbox.entry(sample.study).part(kind)
        if part.object is not None:
            receipt = Receipt(sample.study, SITE, part.object, StudyStatus.STORED, self.clock.now())
            self.outbox.record_receipt(sign_receipt(receipt, HUB_SIGNING))

    @rule(sample=studies, kind=st.sampled_from(KINDS))
    def refused(self, sample: Sample, kind: Kind) -> None:
        for due in self.outbox.due():
            if due.study == sample.study and due.kind is kind:
                self.outbox.record_refusal(due, "no")

    @rule(sample=studies)
    def retry(self, sample: Sample) -> None:
        if sample.study not in self.accepted:
            return  # `forget` has removed it with another study
        self.outbox.retry(sample.study)

    @rule(sample=studies, kind=st.sampled_from([*KINDS, Kind.CROPS]))
    def request(self, sample: Sample, kind: Kind) -> None:
        """Of a part that the hub has lost, or that a reader wants to see."""
        if sample.study not in self.accepted:
            return  # `forget` has removed it with another study
        self.outbox.request(sample.study, kind)

    @rule(sample=studies)
    def damage_the_graph(self, sample: Sample) -> None:
        if sample.study not in self.accepted:
            return  # `forget` has removed it with another study
        path = self.outbox.path(sample.study, Kind.GRAPH)
        if path is not None and path.exists():
            path.write_bytes(b"rotten")

    @rule(seconds=st.sampled_from([1.0, 3600.0, 100_000.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def switch_off_and_on(self) -> None:
        self.restart()

    @rule(target=studies, sample=consumes(studies))
    def forget(self, sample: Sample) -> object:
        if self.outbox.purge(self.clock.now()):
            here = {entry.study for entry in self.outbox.entries()}
            gone, self.accepted = self.accepted - here, self.accepted & here
            self.complete -= gone
            if sample.study in gone:
                return multiple()
        return sample

    @invariant()
    def every_study_is_whole(self) -> None:
        entries = {entry.study: entry for entry in self.outbox.entries()}
        assert entries.keys() == self.accepted
        for sample in self.mine:
            entry = entries.get(sample.study)
            if entry is not None and entry.is_at_hub:
                self.complete.add(sample.study)
            if entry is not None and sample.study not in self.complete:
                assert self.outbox.source(sample.study) == sample.source
        for due in self.outbox.due():
            sealed = self.outbox.read(due, 0, due.size)
            assert len(sealed) in (due.size, len(b"rotten"))

    def teardown(self) -> None:
        self.outbox.database.close()


def make_parts(lives: OutboxLives) -> None:
    """The pipeline's step: make the missing parts from the source alone; what cannot be made is given up."""
    for entry in lives.outbox.unfinished():
        try:
            source = lives.outbox.source(entry.study)
        except UnknownStudy:
            assert entry.study in lives.complete
            for kind in entry.missing:
                lives.outbox.give_up(entry.study, kind, "the files are at the hub alone")
            continue
        plaintexts = {**Sample(source).parts, Kind.CROPS: b"crops", Kind.MANIFEST: source[:100]}
        for kind in entry.missing:
            lives.outbox.add(entry.study, kind, plaintexts[kind])


@pytest.fixture(scope="module", autouse=True)
def _folders(tmp_path_factory: pytest.TempPathFactory) -> None:
    global FOLDERS
    FOLDERS = tmp_path_factory


def test_every_study_stays_whole() -> None:
    """From the seed with which the outbox of folders once lost a study; `make soak` begins anywhere."""
    machine = OutboxLives if SOAK else seed(9)(OutboxLives)
    run_state_machine_as_test(
        machine, settings=settings(max_examples=300 * TIMES, stateful_step_count=STEPS, deadline=None)
    )
