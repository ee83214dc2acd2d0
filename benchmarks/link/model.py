"""One direction of a link as a queue that time runs through: packets in, packets out, no socket, no clock.

The model, in the order in which a packet meets it:

1. **Queue** of `queue` bytes before the line (a modem's buffer). A packet that does not fit is dropped (tail drop).
2. **Line**: one packet at a time, `bits / rate` seconds each. IP bytes count, headers included; framing beneath IP is
   part of the rate.
3. **Loss** on the line: each packet at random, or in bursts after Gilbert (1960) and Elliott (1963): two states, good
   and bad, that change between packets. A lost packet has used the line.
4. **Propagation**: `delay` seconds and up to `jitter` more, uniformly. A packet never overtakes another unless
   `reorder` says so.

While the direction is down, packets that wait, are on the line or are offered are lost; those that had left the line
arrives. Seconds are of any clock that never steps back. The same seed and the same packets at the same times give the
same fates.
"""

import heapq
from collections import deque
from dataclasses import dataclass, field
from random import Random


@dataclass(frozen=True)
class Burst:
    """Gilbert-Elliott loss beside the random one."""

    begins: float
    """Chance, per packet, that a good line turns bad."""
    ends: float
    """Chance, per packet, that a bad line turns good."""
    loss: float = 1.0
    """Chance that a packet is lost on a bad line."""

    @property
    def share(self) -> float:
        """Of packets that are lost in the long run."""
        return self.loss * self.begins / (self.begins + self.ends)


@dataclass(frozen=True)
class Way:
    """One direction's figures."""

    rate: float
    """Bits a second, of IP."""
    delay: float
    """Seconds of propagation."""
    queue: int
    """Bytes that may wait for the line."""
    loss: float = 0.0
    """Chance that a packet is lost at random."""
    jitter: float = 0.0
    """Seconds of delay that come on top at most."""
    burst: Burst | None = None
    reorder: bool = False
    """Whether jitter may let a packet overtake another."""

    @property
    def loss_share(self) -> float:
        """Of packets that are lost on the line in the long run, both kinds together."""
        bad = self.burst.share if self.burst else 0.0
        return 1 - (1 - self.loss) * (1 - bad)


@dataclass
class Counts:
    """Since the direction began. bytes are of IP."""

    offered: int = 0
    offered_bytes: int = 0
    delivered: int = 0
    delivered_bytes: int = 0
    lost: int = 0
    """On the line."""
    overflowed: int = 0
    """Did not fit into the queue."""
    cut: int = 0
    """Lost because the direction was down."""
    queued_bytes: int = 0
    """Now, the packet on the line included."""


@dataclass
class Direction:
    """A `Way` under traffic. Times given to it never go back."""

    way: Way
    random: Random
    counts: Counts = field(default_factory=Counts)
    _waiting: deque[bytes] = field(default_factory=deque)
    _in_air: list[tuple[float, int, bytes]] = field(default_factory=list)
    _off_line_at: float = 0.0
    """When the packet at the head of `_waiting` has left the line."""
    _last_arrival: float = 0.0
    _number: int = 0
    _bad: bool = False
    _down: bool = False

    def offer(self, packet: bytes, now: float) -> bool:
        """A packet comes to the queue; whether it got in. Call `advance(now)` first."""
        counts, size = self.counts, len(packet)
        counts.offered += 1
        counts.offered_bytes += size
        if self._down:
            counts.cut += 1
            return False
        # The packet on the line has left the queue; an idle line takes a packet of any size.
        on_line = len(self._waiting[0]) if self._waiting else 0
        if self._waiting and counts.queued_bytes - on_line + size > self.way.queue:
            counts.overflowed += 1
            return False
        if not self._waiting:
            self._off_line_at = now + size * 8 / self.way.rate
        self._waiting.append(packet)
        counts.queued_bytes += size
        return True

    def advance(self, now: float) -> list[tuple[float, bytes]]:
        """The packets that arrived by `now`, in the order of arrival, with the exact second of each."""
        while self._waiting and self._off_line_at <= now:
            self._leave_line()
        arrived = []
        while self._in_air and self._in_air[0][0] <= now:
            at, _, packet = heapq.heappop(self._in_air)
            self.counts.delivered += 1
            self.counts.delivered_bytes += len(packet)
            arrived.append((at, packet))
        return arrived

    @property
    def next_at(self) -> float | None:
        """When `advance` has something to do; None while nothing is under way."""
        line = self._off_line_at if self._waiting else None
        air = self._in_air[0][0] if self._in_air else None
        if line is None or air is None:
            return air if line is None else line
        return min(line, air)

    @property
    def down(self) -> bool:
        return self._down

    def set_down(self, down: bool) -> None:
        """The direction goes down or comes back. Call `advance` first."""
        if down and not self._down:
            self.counts.cut += len(self._waiting)
            self.counts.queued_bytes = 0
            self._waiting.clear()
        self._down = down

    def _leave_line(self) -> None:
        at, packet = self._off_line_at, self._waiting.popleft()
        self.counts.queued_bytes -= len(packet)
        if self._waiting:
            self._off_line_at = at + len(self._waiting[0]) * 8 / self.way.rate
        if self._lost():
            self.counts.lost += 1
            return
        arrival = at + self.way.delay + (self.random.uniform(0, self.way.jitter) if self.way.jitter else 0.0)
        if not self.way.reorder:
            arrival = max(arrival, self._last_arrival)
            self._last_arrival = arrival
        self._number += 1
        heapq.heappush(self._in_air, (arrival, self._number, packet))

    def _lost(self) -> bool:
        way = self.way
        lost = way.loss > 0 and self.random.random() < way.loss
        if way.burst is not None:
            turns = way.burst.ends if self._bad else way.burst.begins
            if self.random.random() < turns:
                self._bad = not self._bad
            lost = (self._bad and self.random.random() < way.burst.loss) or lost
        return lost


@dataclass(frozen=True)
class Schedule:
    """When a link is up, by itself, again and again: `up` seconds, then `down` seconds, first up."""

    up: float
    down: float

    def is_down(self, since: float) -> bool:
        """since: seconds from the link's beginning."""
        return since % (self.up + self.down) >= self.up

    def next_change(self, since: float) -> float:
        """Seconds from the link's beginning until it next goes down or comes back."""
        round, within = divmod(since, self.up + self.down)
        begun = round * (self.up + self.down)
        return begun + (self.up if within < self.up else self.up + self.down)
