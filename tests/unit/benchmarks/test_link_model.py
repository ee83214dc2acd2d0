"""The emulator's queue, line, loss and air under a clock that the tests own."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.link.model import Burst, Direction, Schedule, Way
from benchmarks.link.profiles import PROFILES

LINE = Way(rate=8000.0, delay=0.5, queue=3000)
"""1,000 bytes a second."""


def direction(way: Way = LINE, seed: int = 1) -> Direction:
    return Direction(way, Random(seed))


def drained(under: Direction, until: float = 1e9) -> list[tuple[float, bytes]]:
    arrived = []
    while (at := under.next_at) is not None and at <= until:
        arrived += under.advance(at)
    return arrived


def test_a_packet_takes_its_time_on_the_line_and_in_the_air() -> None:
    under = direction()
    assert under.offer(bytes(1000), 2.0)
    assert (under.next_at, under.advance(3.4)) == (3.0, [])
    assert under.advance(3.5) == [(3.5, bytes(1000))]
    told = under.counts
    assert (under.next_at, told.delivered, told.delivered_bytes, told.queued_bytes) == (None, 1, 1000, 0)


def test_packets_wait_for_one_another() -> None:
    under = direction()
    for number in range(3):
        under.offer(bytes([number]) * 500, 0.0)
    assert [(at, packet[0]) for at, packet in drained(under)] == [(1.0, 0), (1.5, 1), (2.0, 2)]


def test_what_does_not_fit_into_the_queue_is_dropped() -> None:
    under = direction()
    # One on the line, three in the queue.
    assert [under.offer(bytes(1000), 0.0) for _ in range(6)] == [True] * 4 + [False] * 2
    assert under.counts.overflowed == 2
    under.advance(1.0)
    assert under.offer(bytes(1000), 1.0)
    assert not under.offer(bytes(1000), 1.0)
    assert len(drained(under)) == 5


def test_an_idle_line_takes_a_packet_that_is_larger_than_its_queue() -> None:
    under = direction(Way(rate=8000.0, delay=0.0, queue=100))
    assert under.offer(bytes(1000), 0.0)
    assert drained(under) == [(1.0, bytes(1000))]


def test_an_outage_loses_what_waits_and_spares_what_is_in_the_air() -> None:
    under = direction()
    for number in range(3):
        under.offer(bytes([number]) * 1000, 0.0)
    under.advance(1.2)  # the first is in the air
    under.set_down(True)
    assert not under.offer(bytes(10), 1.3)
    assert [packet[0] for _, packet in under.advance(1.5)] == [0]
    assert under.next_at is None
    under.set_down(False)
    assert under.counts.cut == 3
    assert under.offer(bytes(1000), 9.0)
    assert drained(under) == [(10.5, bytes(1000))]


def test_random_loss_comes_to_its_share_and_uses_the_line() -> None:
    under = direction(Way(rate=8e6, delay=0.0, queue=10**9, loss=0.02))
    for _ in range(20_000):
        under.offer(bytes(100), 0.0)
    arrived = drained(under)
    assert under.counts.lost / 20_000 == pytest.approx(0.02, abs=0.003)
    assert arrived[-1][0] == pytest.approx(20_000 * 100 / 1e6, rel=0.01)


def test_bursts_come_to_their_share_and_in_runs() -> None:
    burst = Burst(begins=0.01, ends=0.25)
    under = direction(Way(rate=8e6, delay=0.0, queue=10**9, burst=burst))
    fates = []
    for _ in range(20_000):
        under.offer(bytes(10), 0.0)
        before = under.counts.lost
        drained(under)
        fates.append(under.counts.lost > before)
    assert sum(fates) / len(fates) == pytest.approx(burst.share, abs=0.008)
    runs = sum(now and not before for before, now in zip([False, *fates], fates, strict=False))
    assert sum(fates) / runs == pytest.approx(1 / burst.ends, rel=0.15)


def test_jitter_never_reorders_unless_asked() -> None:
    for reorder in (False, True):
        under = direction(Way(rate=8e6, delay=0.01, queue=10**9, jitter=0.05, reorder=reorder))
        for number in range(200):
            under.offer(number.to_bytes(100, "big"), 0.0)
        numbers = [int.from_bytes(packet, "big") for _, packet in drained(under)]
        assert sorted(numbers) == list(range(200))
        assert (numbers == list(range(200))) is not reorder


@given(st.lists(st.tuples(st.floats(0, 2), st.integers(1, 1500)), max_size=60), st.integers(0, 99), st.booleans())
def test_every_packet_has_one_fate_and_the_line_is_never_faster_than_its_rate(
    packets: list[tuple[float, int]], seed: int, cut: bool
) -> None:
    under = direction(Way(rate=64_000.0, delay=0.1, queue=6000, loss=0.2, jitter=0.02), seed)
    now, arrived = 0.0, []
    for number, (pause, size) in enumerate(packets):
        now += pause
        arrived += under.advance(now)
        under.set_down(cut and number % 7 > 4)
        under.offer(bytes(size), now)
        assert under.counts.queued_bytes <= 6000 + 1500
    under.set_down(False)
    arrived += drained(under)
    counts = under.counts
    assert counts.offered == len(packets) == counts.delivered + counts.lost + counts.overflowed + counts.cut
    assert counts.queued_bytes == 0
    times = [at for at, _ in arrived]
    assert times == sorted(times)
    if arrived:
        carried = sum(len(packet) for _, packet in arrived)
        assert carried * 8 / 64_000 <= times[-1] - 0.1 + 1e-6


@given(st.integers(0, 99))
def test_the_same_seed_gives_the_same_fates(seed: int) -> None:
    def run() -> list[tuple[float, bytes]]:
        under = direction(Way(rate=64_000.0, delay=0.1, queue=10**6, loss=0.3, jitter=0.1), seed)
        for number in range(50):
            under.offer(bytes([number]) * 100, 0.0)
        return drained(under)

    assert run() == run()


def test_a_schedule_is_up_then_down_again_and_again() -> None:
    schedule = Schedule(up=40, down=20)
    downs = [schedule.is_down(at) for at in (0, 39.9, 40, 59.9, 60, 100, 119)]
    assert downs == [False, False, True, True, False, True, True]
    assert [schedule.next_change(at) for at in (0, 40, 59, 60, 110)] == [40, 60, 60, 100, 120]


def test_the_profiles_are_those_that_are_named() -> None:
    assert list(PROFILES) == ["gprs", "edge", "vsat", "threeg", "leo", "flaky-vsat", "malawi"]
    for profile in PROFILES.values():
        for way in (profile.up, profile.down):
            assert way.queue * 8 / way.rate >= 2 * profile.round_trip or way.queue * 8 / way.rate >= 1
        assert profile.lossless.up.loss_share == 0
    assert PROFILES["vsat"].round_trip == pytest.approx(0.65)
