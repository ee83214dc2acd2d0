import pytest

from tests.support.clock import FakeClock
from tests.support.pipe import PACKET, Pipe
from thinwire.receiver.transport.ingest import SYNC_SECONDS
from thinwire.sender.transport.flow import Flow
from thinwire.sender.transport.pace import FIRST_CHUNK, FIRST_WINDOW, Measured, Pace, RateSample
from thinwire.shared.wire.chunks import CHUNK_SECONDS, LARGEST_CHUNK, SMALLEST_CHUNK

RATES = (2_000, 8_000, 32_000, 125_000, 1_250_000, 12_500_000)
"""Bytes a second: 16 kbit/s to 100 Mbit/s."""
DELAYS = (0.005, 0.15, 0.65, 1.5)
LINKS = {
    "gprs": (8_000, 0.7, 0.01),
    "edge": (16_000, 0.4, 0.01),
    "vsat": (32_000, 0.65, 0.005),
    "malawi": (48_000, 0.715, 0.005),
    "threeg": (64_000, 0.15, 0.01),
    "leo": (1_250_000, 0.06, 0.005),
}


def warm_up(there: Pipe) -> None:
    there.run(10 + 20 * there.delay + 32 * SMALLEST_CHUNK / there.rate)


def measured(there: Pipe) -> tuple[float, float, float]:
    """Bulk's share of the link, and the wait of an urgent byte behind it: median and 99th percentile, seconds."""
    warm_up(there)
    before, began = there.delivered, there.clock.monotonic()
    waits = sorted(there.run(15 + 15 * there.delay + 64 * SMALLEST_CHUNK / there.rate))
    share = (there.delivered - before) / there.rate / (there.clock.monotonic() - began)
    return share, waits[len(waits) // 2], waits[int(0.99 * len(waits))]


def chunk_seconds(rate: float) -> float:
    return max(CHUNK_SECONDS, SMALLEST_CHUNK / rate)


@pytest.mark.parametrize("delay", DELAYS)
@pytest.mark.parametrize("rate", RATES)
def test_bulk_fills_the_link_and_urgent_bytes_hardly_wait(rate: float, delay: float) -> None:
    there = Pipe(rate, delay)
    share, median, most = measured(there)
    assert share >= 0.95
    assert median <= delay / 2 + 1.5 * chunk_seconds(rate)
    assert most <= delay + 2.5 * chunk_seconds(rate)
    assert 0.9 * rate < (there.pace.rate or 0) < 1.1 * rate


@pytest.mark.parametrize(
    ("rate", "delay"), [(rate, delay) for rate in RATES for delay in DELAYS if rate * delay < 2_000_000]
)
def test_what_tcp_says_keeps_the_link_full_and_its_queue_short(rate: float, delay: float) -> None:
    there = Pipe(rate, delay, tcp=True)
    share, median, most = measured(there)
    assert share >= 0.98
    assert median <= 2 * chunk_seconds(rate) + PACKET / rate
    assert most <= 2.5 * chunk_seconds(rate) + PACKET / rate
    assert 0.9 * rate < (there.pace.rate or 0) < 1.2 * rate


@pytest.mark.parametrize("delay", DELAYS)
@pytest.mark.parametrize("rate", [2_000, 32_000, 1_250_000])
def test_a_hub_that_answers_in_heaps_is_no_slower(rate: float, delay: float) -> None:
    share, median, most = measured(Pipe(rate, delay, heaps=True))
    assert share >= 0.95
    assert median <= delay / 2 + 2 * chunk_seconds(rate) + SYNC_SECONDS
    assert most <= delay + 2 * chunk_seconds(rate) + 2 * SYNC_SECONDS


@pytest.mark.parametrize("tcp", [True, False])
@pytest.mark.parametrize("link", LINKS)
def test_lost_packets_neither_stop_the_link_nor_fill_it(link: str, tcp: bool) -> None:
    rate, delay, loss = LINKS[link]
    share, median, most = measured(Pipe(rate, delay, loss, jitter=0.03, tcp=tcp))
    assert share / (1 - loss) >= 0.94
    assert median <= delay / 2 + 2.5 * CHUNK_SECONDS
    assert most <= delay + 4 * CHUNK_SECONDS


@pytest.mark.parametrize("rate", RATES)
def test_the_first_seconds_fill_the_link_soon(rate: float) -> None:
    there = Pipe(rate, 0.65)
    there.run(10)
    assert there.delivered > 0.35 * rate * 9 or there.delivered > 5_000_000


def test_a_new_stream_begins_with_what_the_last_one_knew() -> None:
    there = Pipe(64_000, 0.65)
    warm_up(there)
    known = there.pace.measured
    assert known is not None
    assert known.rate == pytest.approx(64_000, rel=0.1)
    assert known.round_trip == pytest.approx(0.65, rel=0.1)
    again = Pipe(64_000, 0.65)
    again.pace = Pace(again.clock, known)
    assert again.pace.measured == known
    again.run(3)
    first = Pipe(64_000, 0.65)
    first.run(3)
    assert again.delivered > 1.3 * first.delivered
    assert again.delivered > 0.7 * 64_000 * 2


@pytest.mark.parametrize("tcp", [True, False])
def test_a_link_that_slows_down_is_followed(tcp: bool) -> None:
    there = Pipe(64_000, 0.3, tcp=tcp)
    there.run(30)
    there.rate = 8_000
    there.run(30)
    waits = there.run(30)
    assert (there.pace.rate or 0) < 10_000
    assert sorted(waits)[len(waits) // 2] < 0.7
    there.rate = 64_000
    there.run(30)
    before = there.delivered
    there.run(20)
    assert there.delivered - before > 0.9 * 64_000 * 20


@pytest.mark.parametrize("tcp", [True, False])
def test_a_round_trip_that_grows_is_followed(tcp: bool) -> None:
    there = Pipe(32_000, 0.1, tcp=tcp)
    there.run(30)
    there.delay = 0.6
    there.run(60)
    before = there.delivered
    there.run(40)
    assert there.delivered - before > 0.9 * 32_000 * 40


@pytest.mark.parametrize("tcp", [True, False])
def test_small_objects_on_an_idle_link_do_not_make_it_look_slow(tcp: bool) -> None:
    there = Pipe(64_000, 0.3, tcp=tcp)
    there.run(30)
    for _ in range(50):
        there.send(700)
        there.pace.ran_dry()
        there.clock.advance(2)
        there.run(1, bulk=False)
    assert (there.pace.rate or 0) > 0.85 * 64_000


def test_a_link_with_little_to_do_is_not_taken_for_a_slow_one() -> None:
    there = Pipe(64_000, 0.3, tcp=True)
    for _ in range(5):
        for _ in range(8):
            there.look()
            there.send(1_396)
        there.pace.ran_dry()
        there.run(20, bulk=False)
    # The time of eight packets with their round trip; ten seconds without a byte are no part of it.
    assert (there.pace.rate or 0) > 0.8 * 8 * 1_396 / (0.3 + 8 * 1_396 / 64_000)


@pytest.mark.parametrize("link", LINKS)
def test_the_first_seconds_fill_the_link_and_no_long_queue(link: str) -> None:
    rate, delay, _ = LINKS[link]
    there = Pipe(rate, delay, tcp=True)
    waits = there.run(4 * delay + 1)
    assert there.delivered > 0.75 * rate * (3 * delay + 1)
    assert max(waits) < 2 * max(CHUNK_SECONDS, delay, FIRST_WINDOW / rate) + CHUNK_SECONDS


@pytest.mark.parametrize(("rate", "times"), [(8_000, (4, 14)), (32_000, (4, 14)), (1_250_000, (60, 10_000))])
def test_where_tcp_tells_the_rest_the_hub_is_asked_once_a_second(
    monkeypatch: pytest.MonkeyPatch, rate: float, times: tuple[int, int]
) -> None:
    there = Pipe(rate, 0.65, tcp=True)
    warm_up(there)
    asks: list[bool] = []
    sent = there.pace.sent

    def noted(size: int) -> RateSample:
        mark = sent(size)
        asks.append(mark.asks)
        return mark

    monkeypatch.setattr(there.pace, "sent", noted)
    there.run(10)
    assert times[0] <= sum(asks) <= times[1]
    assert all(there.pace.sent(1).asks for there in (Pipe(rate, 0.65), Pipe(rate, 0.65, tcp=True)))


def test_nothing_known_yet() -> None:
    pace = Pace(FakeClock())
    assert (pace.window, pace.chunk, pace.rate, pace.round_trip) == (FIRST_WINDOW, FIRST_CHUNK, None, None)
    assert (pace.wait, pace.measured) == (0.0, None)
    before = Measured(8_000.0, 0.7)
    pace = Pace(FakeClock(), before)
    assert (pace.window, pace.chunk, pace.rate) == (5_600 + 2 * FIRST_CHUNK, FIRST_CHUNK, None)
    pace = Pace(FakeClock(), Measured(1e7, 0.5))  # it may be another network now
    assert (pace.window, pace.chunk) == (64 << 10, 16 << 10)


def test_what_crossed_before_tcp_said_anything_of_it_is_known_from_the_answers() -> None:
    clock = FakeClock()
    pace = Pace(clock)
    pace.heard(Flow(delivered=0, held=0, least=0.1, round_trip=0.1))
    mark = pace.sent(10_000)
    clock.advance(2)
    pace.arrived(mark)
    assert pace.rate is None
    assert pace.measured == Measured(5_000.0, 0.0)


@pytest.mark.parametrize(("rate", "delay"), [(8_000, 0.7), (32_000, 0.65), (1_250_000, 0.06), (12_500_000, 0.15)])
def test_a_hub_that_answers_late_is_taken_for_no_proxy(rate: float, delay: float) -> None:
    there = Pipe(rate, delay, heaps=True, jitter=0.03, tcp=True)
    share, _, most = measured(there)
    assert share >= 0.98
    assert most <= 2.5 * chunk_seconds(rate) + PACKET / rate


@pytest.mark.parametrize("rate", RATES[1:])
def test_a_proxy_that_acknowledges_for_the_hub_is_found_out(rate: float) -> None:
    there = Pipe(rate, 0.65, proxy=True)
    assert max(there.run(10)) <= 9  # seconds of data that it took before it was recognised
    share, _, most = measured(there)
    assert share >= 0.95
    assert most <= 0.65 + 2 * there.pace.chunk / rate + PACKET / rate
    assert there.pace.rate == pytest.approx(rate, rel=0.1)


@pytest.mark.parametrize("rate", [8_000, 32_000, 128_000])
def test_a_proxy_that_is_found_out_after_hours_of_graphs_alone_does_not_stop_the_link(rate: float) -> None:
    there = Pipe(rate, 0.65, tcp=True)
    there.run(10)
    for _ in range(4):
        there.run(30, bulk=False)
        there.send(158)  # all that the hub's rate is known from
    there.run(30, bulk=False)
    there.proxy = True
    before = there.delivered
    there.run(30)
    assert there.delivered - before > 0.85 * 30 * rate


def test_a_refused_piece_leaves_the_window() -> None:
    pace = Pace(FakeClock())
    mark = pace.sent(700)
    assert pace.send_space == FIRST_WINDOW - 700
    pace.lost(mark)
    assert pace.send_space == FIRST_WINDOW
    assert pace.rate is None


def test_chunks_stay_within_the_limits_of_the_protocol() -> None:
    for rate in (10.0, 1e8):
        there = Pipe(rate, 0.01)
        there.run(1)
        assert SMALLEST_CHUNK <= there.pace.chunk <= LARGEST_CHUNK
