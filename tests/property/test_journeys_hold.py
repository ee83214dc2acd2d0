"""Whatever a hub lives through: backups, restores, folders put back in silence, power cuts. No study is lost, and none
is there twice."""

import tempfile
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support.journeys import assert_once, backed_up, bring_back, copied, put_back
from tests.support.power import Cutoff, PowerCut
from tests.support.soak import TIMES
from tests.support.two_ends import Sample, TwoEnds, samples
from thinwire.sender.outbox import followed_store


class Act(Enum):
    ACCEPT = "accept"
    CARRY = "carry"
    CUT = "carry until the power is cut"
    FOLLOW = "follow"
    BACK_UP = "back up"
    COPY = "copy"
    PUT_BACK = "put back"
    RESTORE = "restore"


@settings(max_examples=10 * TIMES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(acts=st.lists(st.tuples(st.sampled_from(Act), st.integers(1, 60)), min_size=4, max_size=14))
@example([(Act.ACCEPT, 1), (Act.CARRY, 1), (Act.COPY, 1), (Act.RESTORE, 1), (Act.CARRY, 1), (Act.PUT_BACK, 1)])
@example([(Act.ACCEPT, 1), (Act.CARRY, 1), (Act.RESTORE, 1), (Act.CUT, 30), (Act.FOLLOW, 1), (Act.RESTORE, 1)])
def test_no_study_is_lost_in_time(monkeypatch: pytest.MonkeyPatch, acts: Sequence[tuple[Act, int]]) -> None:
    monkeypatch.setattr(followed_store, "MOST_FREE", 0)
    with tempfile.TemporaryDirectory() as folder:
        ends, accepted = TwoEnds(Path(folder)), list[Sample]()
        backup, copy = backed_up(ends), None
        ends.carry()
        for act, number in acts:
            ends.clock.advance(1)
            match act:
                case Act.ACCEPT if len(accepted) < 3:
                    sample = samples(len(accepted) + 1, size=400)[-1]
                    ends.accept(sample)
                    accepted.append(sample)
                    ends.make_parts()
                case Act.CARRY:
                    ends.carry()
                case Act.CUT:
                    _cut(ends, number)
                case Act.FOLLOW:
                    ends.outbox.follow()
                case Act.BACK_UP:
                    # Afterwards nobody puts back an older copy: clinics rely on the backup.
                    backup, copy = backed_up(ends), None
                case Act.COPY:
                    copy = copied(ends, f"copy {ends.clock.monotonic()}")
                case Act.PUT_BACK if copy is not None:
                    put_back(ends, copy)
                case Act.RESTORE:
                    bring_back(ends, backup)
        for _ in range(3):
            ends.outbox.follow()
            ends.make_parts()
            ends.carry()
        assert_once(ends, accepted)
        ends.outbox.database.close()
        ends.hub.database.close()


def _cut(ends: TwoEnds, steps: int) -> None:
    """One stream and what follows from it, until the power is cut at both ends; then both start again."""
    ends.switch_on(Cutoff(steps))
    try:
        ends.carry()
        ends.outbox.follow()
        ends.make_parts()
    except PowerCut:
        ends.lose_unsynced()
    ends.switch_on()
    ends.outbox.recover()
