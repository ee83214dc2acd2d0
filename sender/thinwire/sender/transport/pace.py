"""The rate and round trip of the link, and the limit of bytes in flight.

The model is that of BBR (Cardwell et al., BBR: Congestion-Based Congestion Control, ACM Queue 2016): the largest
recent delivery rate and the smallest recent round trip. Delivery rates are sampled as in
draft-cheng-iccrg-delivery-rate-estimation-02. This limit is tighter than TCP's, so that bytes wait in the outbox,
where an urgent object can overtake them, and not in a socket's buffer.

With TCP's own statistics (`flow.py`), the queue on the link is held at a chunk and a half, or a chunk and two packets.
Without them the hub's answers are used; also if a proxy acknowledges bytes before the hub has them, as on many
satellite links (RFC 3135), since TCP's statistics are then of another path.

Two rules delay a piece. First, it is sent shortly before the link is idle: one chunk is in transmission and one waits,
so that an urgent object waits for at most a round trip and CHUNK_SECONDS, if the smallest chunk allows it. The
acknowledgements show the length of the queue, and the sending rate follows it. Second, the bytes in flight are at most
two bandwidth-delay products and the bytes that a hub collects before an answer, so that a retransmission by TCP does
not leave the link idle.
"""

from collections import deque
from dataclasses import dataclass, field

from thinwire.sender.transport.flow import Flow, FlowMeter
from thinwire.shared.clock import Clock
from thinwire.shared.wire.chunks import CHUNK_BYTES, CHUNK_SECONDS, LARGEST_CHUNK, chunk_size

_PACKET = 1448
FIRST_WINDOW = 10 * _PACKET
"""Bytes in flight before any measurement, as in TCP (RFC 6928)."""
FIRST_CHUNK = _PACKET - CHUNK_BYTES
_UNPROVEN = 64 << 10
"""Limit of bytes in flight by the last session's measurement, until this one has its own: the network may differ."""

_STARTUP_BY_ANSWERS, _STARTUP_BY_TCP = 2.0, 2.89
"""Bandwidth-delay products in flight during start-up, by the hub's answers and by TCP; the second is BBR's 2 / ln 2."""
_GROWTH = 1.25
"""Start-up ends after three rounds that are not faster by this factor."""
_ROUNDS = 3
_RATE_MEMORY = 8
"""Round trips for which a measured rate counts, and at least two seconds."""
_LEAST_MEMORY = 2.0
_ROUND_TRIP_LIFE = 30.0
"""Seconds after which the round trip is measured again, with few bytes in flight..."""
_ROUND_TRIP_LIVES = 40
"""...and at least this number of round trips: the measurement costs about 1 % of the link."""
_DRAIN = 0.75
_SLOWEST, _FASTEST = 0.75, 1.15
"""Limits of the sending rate as a share of the measured rate; it depends on the queue."""
_PROBE = 1.1
_PACKETS = 1.5
"""Packets in the queue in addition to the last chunk: acknowledgements are of whole packets, and late."""
_FULLER = 0.2
"""A chunk of few packets is extended by at most this share of a packet, so that its last one is full."""
_FEW = 16 << 10
"""Bytes of the largest chunk that is extended."""
_PROXY = 4.0
"""Ratio of TCP's rate to the hub's above which, for _DOUBT_SECONDS and two round trips, a proxy is assumed."""
_DOUBT_SECONDS = 1.0
_LOOK = 0.005
"""Least seconds between two reads of TCP's statistics."""
_LOOK_SECONDS = 1.0
"""Seconds between two checks of the queue, or two round trips."""
_ANSWER_SECONDS = 0.2
"""Seconds of bytes that a hub collects before it makes them durable and answers."""
_ASK_SECONDS, _ASK_BYTES = 1.0, _UNPROVEN // 2
"""Interval of progress requests to the hub if TCP's statistics are used: each answer costs 26 bytes upwards."""
_AGREED = 0.5
"""Share of TCP's rate above which the hub's answers agree. Below it each piece requests progress: it may be a proxy."""


@dataclass(frozen=True)
class Measured:
    """The measurement of a session; the next one begins with it."""

    rate: float
    """Bytes a second."""
    round_trip: float
    """Seconds."""


@dataclass(frozen=True)
class RateSample:
    """The state at the sending of a piece."""

    at: float
    """Seconds, monotonic."""
    size: int
    """Bytes."""
    delivered: int
    """Bytes known to be durable then, since the stream began."""
    in_flight: int
    """Bytes on their way then, this piece included."""
    delivered_at: float
    """When the last of these became known, or when the link ceased to be idle."""
    first_at: float
    """When the last piece that was known to be durable had been sent, or when the link ceased to be idle."""
    asks: bool = True
    """Whether the hub is to say at once that it has the piece."""


@dataclass
class Pace:
    """One stream's measure. before: the previous stream's estimates of the same link."""

    clock: Clock
    before: Measured | None = None
    in_flight: int = 0
    _delivered: int = 0
    _delivered_at: float = 0.0
    _first_at: float = 0.0
    _rates: deque[tuple[float, float]] = field(default_factory=deque)
    _best: float | None = None
    _free_at: float = 0.0
    _gain: float = 1.0
    _least_wait: float | None = None
    _last_wait: float = 0.0
    _looked_at: float = 0.0
    _quickest: tuple[float, int] | None = None
    _quickest_at: float = 0.0
    _dry_at: float = -1.0
    _round_end: int = 0
    _slow_rounds: int = 0
    _top: float = 0.0
    _meter: FlowMeter | None = None
    _asked_at: float = 0.0
    _unasked: int = 0
    _doubted_at: float | None = None
    _proxied: bool = False

    def heard(self, flow: Flow) -> None:
        """Take TCP's statistics; called before each piece."""
        if self._proxied:
            return
        if self._meter is None:
            self._meter = FlowMeter(self.clock)
        queue = self._standing / self.rate if self.rate else CHUNK_SECONDS
        self._meter.note(flow, queue, self.before.rate if self.before else 0.0)

    @property
    def _standing(self) -> int:
        """Bytes of the queue on the link, behind the chunk in transmission."""
        return int(self.chunk + max(self.chunk / 2, _PACKETS * min(self.chunk, _PACKET)))

    @property
    def rate(self) -> float | None:
        """Bytes per second, the recent maximum; None before the first acknowledgement."""
        return self._best if self._meter is None else self._meter.rate

    @property
    def round_trip(self) -> float | None:
        """Seconds, the recent minimum, without the transmission time of the bytes."""
        return self._answered if self._meter is None else self._meter.round_trip

    @property
    def _answered(self) -> float | None:
        """The round trip by the hub's answers."""
        if self._quickest is None or self._best is None:
            return None
        took, size = self._quickest
        return max(0.0, took - size / self._best)

    @property
    def measured(self) -> Measured | None:
        """For the next session; None without a measurement.

        A short transfer ends before TCP has statistics; the hub's answers are then used.
        """
        for rate, round_trip in ((self.rate, self.round_trip), (self._best, self._answered)):
            if rate is not None and round_trip is not None:
                return Measured(rate, round_trip)
        return self.before

    @property
    def chunk(self) -> int:
        """Bytes of the next chunk. A short round trip gives short chunks, since an urgent object waits for one."""
        known = self.measured
        if known is None:
            return FIRST_CHUNK
        most = min(LARGEST_CHUNK, self._believed // 4)
        return self._full(min(most, chunk_size(known.rate, (CHUNK_SECONDS + known.round_trip) / 2)))

    def _full(self, size: int) -> int:
        """About so many bytes, in packets that are full: headers and framing are a tenth of a slow link."""
        packet = _PACKET if self._meter is None else self._meter.packet
        packets = int((size + CHUNK_BYTES) / packet + _FULLER)
        return packets * packet - CHUNK_BYTES if packets and size < _FEW else size

    @property
    def window(self) -> int:
        """Bytes that may be on their way at a time."""
        meter = self._meter
        if self.rate is not None and meter is not None and meter.round_trip is not None:
            crossing = int(self.rate * meter.round_trip)
            if meter.starting:
                # As TCP's own slow start, limited by the known rate of the link.
                return max(FIRST_WINDOW, min(FIRST_WINDOW + meter.flown, int(_STARTUP_BY_TCP * crossing))) + self.chunk
            return crossing + self._standing
        if self._best is None or self._quickest is None or meter is not None:
            flown = 0 if meter is None else meter.flown
            if self.before is None:
                return FIRST_WINDOW + flown
            return min(_UNPROVEN, int(self.before.rate * self.before.round_trip) + 2 * self.chunk + flown)
        if self.starting:
            # Until the link was full once, a few bytes do not measure it.
            least = 0 if self._round_end else FIRST_WINDOW
            return max(least, int(_STARTUP_BY_ANSWERS * self._best * self._quickest[0]) + 2 * self.chunk)
        round_trip = self.round_trip or 0.0
        if self._draining:
            return max(self.chunk, int(_DRAIN * self._best * round_trip))
        return int(self._best * (2 * round_trip + _ANSWER_SECONDS)) + 2 * self.chunk

    @property
    def send_space(self) -> int:
        """Bytes that may be sent now; any piece may go while nothing is on its way."""
        if self._meter is not None:
            if self._meter.draining:
                return self.chunk if self._meter.held == 0 else 0
            return min(self.window - self._meter.held, self._believed - self.in_flight)
        return 0 if self.wait > 0 else self.window - self.in_flight

    @property
    def _believed(self) -> int:
        """Bytes without the hub's answer at which TCP's word that they crossed is not enough."""
        if self._best is None or self._answered is None:
            return _UNPROVEN
        return max(_UNPROVEN, int(_PROXY * self._best * (self._answered + _ANSWER_SECONDS + CHUNK_SECONDS)))

    @property
    def wait(self) -> float:
        """Seconds until the link needs the next piece."""
        if self._meter is not None:
            missing = self.chunk - self.send_space
            if missing <= 0 or self.rate is None:
                return 0.0
            return _LOOK if self._meter.draining else max(_LOOK, missing / self.rate)
        if self._best is None or self.starting:
            return 0.0
        return max(0.0, self._free_at - self.clock.monotonic() - self.chunk / self._best)

    @property
    def starting(self) -> bool:
        """Whether the link was never full yet."""
        return self._slow_rounds < _ROUNDS if self._meter is None else self._meter.starting

    def sent(self, size: int) -> RateSample:
        """A piece goes out."""
        now = self.clock.monotonic()
        if self.in_flight == 0:
            self._delivered_at = self._first_at = now
        self.in_flight += size
        self._unasked += size
        measured = self._meter.rate if self._meter is not None else None
        agreed = measured is not None and (self._best or 0.0) >= _AGREED * measured
        asks = not agreed or now - self._asked_at >= _ASK_SECONDS or self._unasked >= _ASK_BYTES
        if asks:
            self._asked_at, self._unasked = now, 0
        if self._meter is not None:
            self._meter.sent(size)
        elif self._best is not None and not self.starting:
            self._free_at = max(now, self._free_at) + size / (self._best * self._gain)
        return RateSample(now, size, self._delivered, self.in_flight, self._delivered_at, self._first_at, asks)

    def ran_dry(self) -> None:
        """The window is open and nothing is due: the bytes on their way do not measure the link's rate."""
        self._dry_at = self.clock.monotonic()
        if self._meter is not None:
            self._meter.ran_dry()

    def arrived(self, sample: RateSample) -> None:
        """The whole piece is known to be durable at the hub, or is known before it was needed."""
        now = self.clock.monotonic()
        self.in_flight -= sample.size
        self._delivered += sample.size
        self._delivered_at, self._first_at = now, sample.at
        took = max(now - sample.at, 1e-6)
        # Pieces that were sent slowly did not arrive fast, though their acknowledgements may come at once.
        rate = (self._delivered - sample.delivered) / max(now - sample.delivered_at, sample.at - sample.first_at, 1e-6)
        while self._rates and self._rates[0][0] < now - max(_LEAST_MEMORY, _RATE_MEMORY * (self.round_trip or took)):
            self._rates.popleft()
        limited = self._dry_at >= sample.at
        if not limited or rate > (self._best or 0):
            # The first is always the largest of late: a smaller and older value never counts again.
            while self._rates and self._rates[-1][1] <= rate:
                self._rates.pop()
            self._rates.append((now, rate))
        if self._rates:
            self._best = self._rates[0][1]
        self._note_round_trip(now, took, sample)
        self._note_proxy(now, limited)
        self._note_queue(now, took - sample.size / (self._best or rate))
        if sample.delivered >= self._round_end and not limited:
            self._round_end = self._delivered
            self._slow_rounds = 0 if (self._best or 0) > _GROWTH * self._top else self._slow_rounds + 1
            self._top = max(self._top, self._best or 0)

    def lost(self, sample: RateSample) -> None:
        """The piece will not be acknowledged: its object was refused."""
        self.in_flight -= sample.size

    @property
    def _life(self) -> float:
        return max(_ROUND_TRIP_LIFE, _ROUND_TRIP_LIVES * (self.round_trip or 0.0))

    @property
    def _draining(self) -> bool:
        return not self.starting and self.clock.monotonic() - self._quickest_at > self._life

    def _note_proxy(self, now: float, limited: bool) -> None:
        """Whether TCP's connection ends before the hub."""
        measured = self._meter.rate if self._meter is not None else None
        if limited or measured is None or measured < _PROXY * (self._best or measured):
            self._doubted_at = None
            return
        self._doubted_at = now if self._doubted_at is None else self._doubted_at
        if now - self._doubted_at > _DOUBT_SECONDS + 2 * (self._answered or 0.0):
            self._proxied, self._meter = True, None

    def _note_round_trip(self, now: float, took: float, sample: RateSample) -> None:
        rate, known = self._best or 0.0, self._answered
        stale = now - self._quickest_at > self._life
        alone = sample.in_flight <= max(self.chunk, _DRAIN * rate * (known or 0.0))
        if known is None or took - sample.size / max(rate, 1e-6) <= known or (stale and alone):
            self._quickest, self._quickest_at = (took, sample.size), now

    def _note_queue(self, now: float, took: float) -> None:
        """Send a little slower when even the luckiest piece of late waited for more than a chunk, else faster."""
        wait = took - (self.round_trip or 0.0)
        self._least_wait = wait if self._least_wait is None else min(wait, self._least_wait)
        every = max(_LOOK_SECONDS, 2 * (self.round_trip or 0.0))
        if now - self._looked_at < every:
            return
        wanted = self.chunk / (self._best or 1.0)
        gain = min(_FASTEST, max(_SLOWEST, 1 + (wanted - self._least_wait) / every))
        if self._least_wait < wanted / 4:
            gain = _FASTEST  # the link runs empty at times
        elif self._gain == _SLOWEST and self._least_wait > self._last_wait - every * (1 - _SLOWEST) / 2:
            gain = _PROBE  # going slower did not help, so it is not our bytes that wait: TCP mends losses
        self._gain, self._last_wait = gain, self._least_wait
        self._least_wait, self._looked_at = None, now
