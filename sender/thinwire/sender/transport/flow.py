"""The rate of the link by TCP's statistics, which are more exact than the hub's answers.

A lost packet delays all later ones until it is sent again, and the hub's answers with them. TCP's selective
acknowledgements (RFC 2018) name the packets that arrived meanwhile, so the bytes in the network are always known.
"""

from collections import deque
from dataclasses import dataclass, field

from thinwire.shared.clock import Clock

_PACKETS, _FIRST_PACKETS = 12, 4
"""A rate is measured over so many packets at least: one more or less is then 8 %. While the link was never full, a
lower bound of its rate is needed sooner."""
_SPAN, _FIRST_SPAN, _MEMORY = 0.2, 0.02, 2.0
"""Seconds over which a rate is measured, also while the link was never full, and for which it counts, at least; and a
round trip and eight."""
_LONGEST = 4.0
"""Limit of the seconds over which a rate is measured."""
_EVERY = 0.01
_GROWTH = 1.25
"""Start-up ends after three rounds that are not faster by this factor."""
_ROUNDS = 3
_WAITING = 1.25
"""Round trips of the smallest that the smoothed one takes, beside the normal queue, once a link is full."""
_LATE, _AGAIN = 5.0, 30.0
"""Seconds of late packets before the round trip is measured again, and between two such measurements."""


@dataclass(frozen=True)
class Flow:
    """TCP's statistics of the connection at one time."""

    delivered: int
    """Acknowledged bytes since the connection began, in order or not."""
    held: int
    """Bytes in flight or in the socket's buffer."""
    least: float
    """Seconds: the smallest round trip."""
    round_trip: float
    """Seconds: smoothed, time in queues included."""
    packet: int = 1448
    """Bytes of payload in a packet."""


@dataclass
class FlowMeter:
    """The measurements of one connection; empty until the first `note`. clock: monotonic seconds."""

    clock: Clock
    rate: float | None = None
    """Bytes per second, the recent maximum."""
    held: int = 0
    """Bytes in flight or buffered, including those sent since the last statistics."""
    packet: int = 1448
    """Bytes of payload in a packet."""
    flown: int = 0
    """Bytes that were delivered since the link was idle."""
    round_trip: float | None = None
    """Seconds, without queues."""
    _idle_until: int = 0
    _noted: deque[tuple[float, int]] = field(default_factory=deque)
    _rates: deque[tuple[float, float]] = field(default_factory=deque)
    _dry_at: float = -1.0
    _dry: bool = True
    _round_end: int = 0
    _slow_rounds: int = 0
    _top: float = 0.0
    draining: bool = False
    """Nothing more goes until the link is empty, and then one piece."""
    _longer: float | None = None
    _latest: float = 0.0
    """The last rate that was measured while there was enough to send."""
    _late_since: float = 0.0
    _alone_at: float | None = None
    _alone: int = 0
    _delivered: int = 0
    """Before it."""

    @property
    def starting(self) -> bool:
        """Whether the link was never full yet."""
        return self._slow_rounds < _ROUNDS

    def sent(self, size: int) -> None:
        self._dry = False
        if self.draining and self._alone_at is None:
            self._alone_at, self._alone = self.clock.monotonic(), size
        self.held += size

    def ran_dry(self) -> None:
        """Nothing is due: for a while the delivered bytes do not measure the link's rate."""
        self._dry_at, self._dry = self.clock.monotonic(), True

    def note(self, flow: Flow, queue: float, known: float) -> None:
        """Take TCP's present state. queue: seconds that bytes wait on the link where all is well. known: bytes a second
        that an earlier connection had."""
        now = self.clock.monotonic()
        self.held, self.packet = flow.held, flow.packet
        self.round_trip = self._base(flow, queue, now)
        if self._alone_at is None:
            self._delivered = flow.delivered
        idle = self._dry and flow.held == 0
        if self._noted and now - self._noted[-1][0] < _EVERY and not idle:
            return
        self._noted.append((now, flow.delivered))
        self._measure(flow, known)
        if self.rate is not None and flow.round_trip > _WAITING * self.round_trip + queue:
            # A queue has formed: the link is full, and more would only make it longer (as HyStart, RFC 9406).
            self._slow_rounds = _ROUNDS
        if idle:
            # Time in which nothing was due does not measure the link.
            self._noted.clear()
            self._noted.append((now, flow.delivered))
            self._idle_until = flow.delivered
        self.flown = flow.delivered - self._idle_until

    def _measure(self, flow: Flow, known: float) -> None:
        now = self._noted[-1][0]
        span = max(_FIRST_SPAN if self.starting else _SPAN, flow.least)
        while len(self._noted) > 1 and self._enough(*self._noted[1], span):
            self._noted.popleft()
        began, before = self._noted[0]
        if not self._enough(began, before, span) or flow.delivered == before:
            return
        rate = (flow.delivered - before) / (now - began)
        limited = self._dry_at >= began
        if not limited and not self.draining:
            self._latest = rate
        if limited and rate <= max(self.rate or 0.0, known):
            return
        while self._rates and self._rates[0][0] < now - max(_MEMORY, 8 * flow.round_trip, 2 * (now - began)):
            self._rates.popleft()
        while self._rates and self._rates[-1][1] <= rate:
            self._rates.pop()
        self._rates.append((now, rate))
        self.rate = self._rates[0][1]
        if not limited and before >= self._round_end:
            self._round_end = flow.delivered
            self._slow_rounds = 0 if self.rate > _GROWTH * self._top else self._slow_rounds + 1
            self._top = max(self._top, self.rate)

    def _enough(self, at: float, delivered: int, span: float) -> bool:
        """Whether a rate can be measured from that moment to the last that was noted."""
        now, last = self._noted[-1]
        packets = _FIRST_PACKETS if self.starting else _PACKETS
        return now - at >= span and (last - delivered >= packets * self.packet or now - at >= _LONGEST)

    def _base(self, flow: Flow, queue: float, now: float) -> float:
        """TCP remembers its smallest round trip for minutes. Where all is late, either the line became slower or the
        path longer: it is let run empty once, and the time of one piece alone shows which."""
        if self._alone_at is not None and flow.delivered > self._delivered:
            # The first packet of the piece that went alone.
            took = now - self._alone_at - min(self._alone, self.packet) / (self._latest or 1.0)
            self._longer = took if took > flow.least + queue else None
            self.draining, self._alone_at, self._late_since = False, None, now + _AGAIN
        least = max(flow.least, self._longer or 0.0)
        if self.starting or flow.held == 0 or flow.round_trip <= least + 2 * queue:
            self._late_since = min(self._late_since, now) if self.draining else max(self._late_since, now)
        elif now - self._late_since > _LATE:
            self.draining = True
        return least
