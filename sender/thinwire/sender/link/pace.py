"""How fast the link is, measured from what the hub says is durable; how much may be on its way because of it.

The model is that of BBR (Cardwell et al., BBR: Congestion-Based Congestion Control, ACM Queue 2016): the largest
recent delivery rate and the smallest recent round trip. It rules over TCP's own, so that bytes wait here, where an
urgent one can overtake them, and not in a socket's buffer.
"""

from collections import deque
from dataclasses import dataclass, field

from thinwire.shared.chunks import chunk_size
from thinwire.shared.clock import Clock

FIRST_WINDOW = 16 << 10
"""Bytes before anything is known: what TCP itself would send first (RFC 6928)."""
FIRST_CHUNK = 4 << 10

_STARTUP_GAIN = 2.0
_GAIN = 1.25
_GROWTH = 1.25
"""A round that is not faster by so much, three times over, ends the start-up."""
_ROUNDS = 3
_RATE_MEMORY = 8
"""Round trips for which a measured rate counts, and at least two seconds."""
_LEAST_MEMORY = 2.0
_ROUND_TRIP_LIFE = 30.0
"""Seconds after which the round trip is measured anew, on a link that holds little for that moment."""
_DRAIN = 0.5


@dataclass(frozen=True)
class Mark:
    """What was so when a piece was sent."""

    at: float
    """Seconds, monotonic."""
    size: int
    """Bytes."""
    delivered: int
    """Bytes known to be durable then, since the stream began."""
    in_flight: int
    """Bytes on their way then, this piece included."""


@dataclass
class Pace:
    """One stream's measure."""

    clock: Clock
    in_flight: int = 0
    round_trip: float | None = None
    """Seconds, the smallest of late."""
    _delivered: int = 0
    _rates: deque[tuple[float, float]] = field(default_factory=deque)
    _best: float | None = None
    _round_trip_at: float = 0.0
    _dry_at: float = -1.0
    _round_end: int = 0
    _slow_rounds: int = 0
    _before: float = 0.0

    @property
    def rate(self) -> float | None:
        """Bytes a second, the largest of late; None before the first acknowledgement."""
        return self._best

    @property
    def chunk(self) -> int:
        """Bytes of the next chunk."""
        return FIRST_CHUNK if self._best is None else chunk_size(self._best)

    @property
    def window(self) -> int:
        """Bytes that may be on their way at a time: about the bandwidth-delay product, and the chunk that is being
        sent and the one behind it, because a chunk is acknowledged as a whole."""
        if self._best is None or self.round_trip is None:
            return FIRST_WINDOW
        product = self._best * self.round_trip
        if self._draining:
            return max(self.chunk, int(_DRAIN * product))
        if self._slow_rounds < _ROUNDS:
            # Until the link was full once, what little there was to send says nothing.
            least = 0 if self._round_end else FIRST_WINDOW
            return max(least, int(_STARTUP_GAIN * product) + 2 * self.chunk)
        return int(_GAIN * product) + 2 * self.chunk

    @property
    def room(self) -> int:
        """Bytes that may be sent now; any piece may go while nothing is on its way."""
        return self.window - self.in_flight

    def sent(self, size: int) -> Mark:
        """A piece goes out."""
        self.in_flight += size
        return Mark(self.clock.monotonic(), size, self._delivered, self.in_flight)

    def ran_dry(self) -> None:
        """There is room and nothing to send: what is on its way says nothing about how fast the link can be."""
        self._dry_at = self.clock.monotonic()

    def arrived(self, mark: Mark) -> None:
        """The whole piece is known to be durable at the hub, or is known before it was needed."""
        self.in_flight -= mark.size
        self._delivered += mark.size
        now = self.clock.monotonic()
        took = max(now - mark.at, 1e-6)
        self._note_round_trip(now, took, mark)
        rate = (self._delivered - mark.delivered) / took
        while self._rates and self._rates[0][0] < now - max(_LEAST_MEMORY, _RATE_MEMORY * (self.round_trip or 0)):
            self._rates.popleft()
        limited = self._dry_at >= mark.at
        if not limited or rate > (self._best or 0):
            self._rates.append((now, rate))
        if self._rates:
            self._best = max(each for _, each in self._rates)
        if mark.delivered >= self._round_end and not limited:
            self._round_end = self._delivered
            self._slow_rounds = 0 if (self._best or 0) > _GROWTH * self._before else self._slow_rounds + 1
            self._before = max(self._before, self._best or 0)

    def lost(self, mark: Mark) -> None:
        """The piece will not be acknowledged: its object was refused."""
        self.in_flight -= mark.size

    @property
    def _draining(self) -> bool:
        return self._slow_rounds >= _ROUNDS and self.clock.monotonic() - self._round_trip_at > _ROUND_TRIP_LIFE

    def _note_round_trip(self, now: float, took: float, mark: Mark) -> None:
        stale = now - self._round_trip_at > _ROUND_TRIP_LIFE
        alone = mark.in_flight <= max(self.chunk, _DRAIN * (self._best or 0) * (self.round_trip or 0))
        if self.round_trip is None or took <= self.round_trip or (stale and alone):
            self.round_trip, self._round_trip_at = took, now
