"""The power is cut at every named step of both ends; every accepted study still arrives, once and bit by bit."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.power import Cutoff, Fuse, PowerCut
from tests.support.two_ends import HUB_SIGNING, SITE, Sample, TwoEnds, samples, until_whole
from thinwire.shared.formats.receipts import Receipt, StudyStatus, detail, sign_receipt

STUDIES = [*samples(2, size=9_000), Sample(b"the urgent one" * 40, words=b"short of breath", urgent=True)]

LATE = replace(STUDIES[0], urgent=True)
"""The first one, of which the hub has everything when it becomes urgent."""


def live(ends: TwoEnds, accepted: list[Sample]) -> None:
    """A day of both ends. accepted: studies that were acknowledged to the people who gave them; it grows."""
    ends.outbox.recover()
    for sample in STUDIES:
        if sample not in accepted:
            ends.accept(sample)
            accepted.append(sample)
    ends.make_parts()
    until_whole(ends, lambda: ends.carry("." * 20 + "x", rate=8_000.0))
    for sample in STUDIES:
        at = ends.clock.now()
        triaged = Receipt(sample.study, SITE, None, StudyStatus.TRIAGED, at, detail({"urgency": "routine"}))
        if ends.outbox.entry(sample.study).status is not StudyStatus.TRIAGED:
            ends.store.say(SITE, sign_receipt(triaged, HUB_SIGNING))
    ends.carry()
    ends.accept(LATE)
    ends.carry()


def steps_of_a_day(folder: Path) -> list[str]:
    ends = TwoEnds(folder)
    live(ends, [])
    ends.assert_arrived(STUDIES)
    return ends.fuse.passed


@pytest.mark.parametrize(
    ("which", "lossy"),
    [("first", True), ("last", True), ("first", False)],
    ids=["first-lost", "last-lost", "first-killed"],
)
def test_every_accepted_study_arrives_once_wherever_the_power_is_cut(tmp_path: Path, which: str, lossy: bool) -> None:
    passes = Counter(steps_of_a_day(tmp_path / "undisturbed"))
    assert len(passes) >= 20
    for name, count in sorted(passes.items()):
        if not lossy and not name.endswith("fsync"):
            continue  # where nothing is lost there is no difference
        ends = TwoEnds(tmp_path / name)
        ends.switch_on(Fuse((name, 1 if which == "first" else count)), lossy)
        accepted: list[Sample] = []
        with pytest.raises(PowerCut):
            live(ends, accepted)
        if lossy:
            ends.lose_unsynced()

        ends.switch_on()
        live(ends, accepted)

        try:
            ends.assert_arrived(STUDIES)
            assert all(ends.outbox.entry(s.study).status is StudyStatus.TRIAGED for s in STUDIES)
            assert (ends.store.urgent(SITE, LATE.study), ends.outbox.pending_escalations()) == (True, [])
            assert not list((tmp_path / name / "clinic").rglob("*.tmp"))
        except AssertionError as error:
            raise AssertionError(f"after a power cut at the {which} {name}: {error}") from error


@pytest.mark.parametrize("steps", [40, 53, 71])
def test_no_life_of_either_end_is_longer_than_a_few_steps(tmp_path: Path, steps: int) -> None:
    ends = TwoEnds(tmp_path)
    accepted: list[Sample] = []
    for _ in range(100):
        ends.switch_on(Cutoff(steps))
        try:
            live(ends, accepted)
            break
        except PowerCut:
            ends.lose_unsynced()
    ends.switch_on()
    live(ends, accepted)
    ends.assert_arrived(STUDIES)
