import heapq

import pytest

from tests.support.clock import FakeClock
from thinwire.sender.link.pace import FIRST_CHUNK, FIRST_WINDOW, Mark, Pace
from thinwire.shared.chunks import LARGEST_CHUNK, SMALLEST_CHUNK


class Pipe:
    """A link of `rate` bytes a second and `delay` seconds of round trip with a queue without end.

    An acknowledgement comes when the whole piece has crossed and the answer is back.
    """

    def __init__(self, pace: Pace, clock: FakeClock, rate: float, delay: float) -> None:
        self.pace, self.clock, self.rate, self.delay = pace, clock, rate, delay
        self.free_at = 0.0
        self.answers: list[tuple[float, int, Mark]] = []
        self.delivered = 0
        self.sent = 0

    @property
    def queue_seconds(self) -> float:
        """How long a byte that is sent now waits before it goes out."""
        return max(0.0, self.free_at - self.clock.monotonic())

    def send(self, size: int) -> None:
        self.free_at = max(self.free_at, self.clock.monotonic()) + size / self.rate
        self.sent += 1
        heapq.heappush(self.answers, (self.free_at + self.delay, self.sent, self.pace.sent(size)))

    def run(self, seconds: float, bulk: bool = True) -> list[float]:
        """Send bulk for so long; returns the waits that an urgent byte would have met, one for each answer."""
        waits = []
        end = self.clock.monotonic() + seconds
        while self.clock.monotonic() < end:
            while bulk and (self.pace.in_flight == 0 or self.pace.in_flight + self.pace.chunk <= self.pace.window):
                self.send(self.pace.chunk)
            if not self.answers:
                return waits
            at, _, mark = heapq.heappop(self.answers)
            self.clock.advance(at - self.clock.monotonic())
            self.pace.arrived(mark)
            self.delivered += mark.size
            waits.append(self.queue_seconds)
        return waits


def pipe(rate: float, delay: float) -> Pipe:
    clock = FakeClock()
    return Pipe(Pace(clock), clock, rate, delay)


LINKS = {
    "gprs": (8_000, 0.7),
    "edge": (16_000, 0.4),
    "vsat": (32_000, 0.65),
    "threeg": (64_000, 0.15),
    "slow": (2_000, 1.5),
    "leo": (1_250_000, 0.06),
    "line": (12_500_000, 0.005),
}


@pytest.mark.parametrize("link", LINKS)
def test_bulk_fills_the_link_and_urgent_bytes_hardly_wait(link: str) -> None:
    rate, delay = LINKS[link]
    there = pipe(rate, delay)
    there.run(30 + 40 * delay)
    before = there.delivered
    waits = sorted(there.run(120))
    assert there.delivered - before > 0.92 * rate * 120
    assert waits[int(0.9 * len(waits))] <= max(0.25 * delay + 0.35, 3 * SMALLEST_CHUNK / rate)
    assert max(waits) <= delay + max(0.5, 3 * SMALLEST_CHUNK / rate)
    assert 0.9 * rate < (there.pace.rate or 0) < 1.2 * rate


@pytest.mark.parametrize("link", LINKS)
def test_the_first_seconds_fill_the_link_soon(link: str) -> None:
    rate, delay = LINKS[link]
    there = pipe(rate, delay)
    there.run(2 + 10 * delay)
    assert there.delivered > 0.5 * rate * (2 + 8 * delay)


def test_a_link_that_slows_down_is_followed() -> None:
    there = pipe(64_000, 0.3)
    there.run(30)
    there.rate = 8_000
    there.run(20)
    waits = there.run(30)
    assert (there.pace.rate or 0) < 10_000
    assert sorted(waits)[len(waits) // 2] < 0.6
    there.rate = 64_000
    there.run(20)
    before = there.delivered
    there.run(20)
    assert there.delivered - before > 0.85 * 64_000 * 20


def test_a_round_trip_that_grows_is_followed() -> None:
    there = pipe(32_000, 0.1)
    there.run(30)
    there.delay = 0.6
    there.run(40)
    before = there.delivered
    there.run(40)
    assert there.delivered - before > 0.85 * 32_000 * 40


def test_small_objects_on_an_idle_link_do_not_make_it_look_slow() -> None:
    there = pipe(64_000, 0.3)
    there.run(30)
    for _ in range(50):
        there.send(700)
        there.pace.ran_dry()
        there.clock.advance(2)
        there.run(1, bulk=False)
    assert (there.pace.rate or 0) > 0.9 * 64_000


def test_nothing_known_yet() -> None:
    pace = Pace(FakeClock())
    assert (pace.window, pace.chunk, pace.rate, pace.round_trip) == (FIRST_WINDOW, FIRST_CHUNK, None, None)


def test_a_refused_piece_leaves_the_window() -> None:
    pace = Pace(FakeClock())
    mark = pace.sent(700)
    assert pace.room == FIRST_WINDOW - 700
    pace.lost(mark)
    assert pace.room == FIRST_WINDOW
    assert pace.rate is None


def test_chunks_stay_within_the_limits_of_the_protocol() -> None:
    for rate in (10.0, 1e8):
        there = pipe(rate, 0.01)
        there.run(1)
        assert SMALLEST_CHUNK <= there.pace.chunk <= LARGEST_CHUNK
