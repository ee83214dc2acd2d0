"""A link in simulated time for the pace: rate, delay, loss, and a hub that acknowledges at once or in heaps."""

import heapq
import random
from collections import deque
from dataclasses import replace

from tests.support.clock import FakeClock
from thinwire.receiver.transport.inbox import SYNC_BYTES
from thinwire.receiver.transport.ingest import PROGRESS_SECONDS, SYNC_SECONDS
from thinwire.sender.transport.flow import Flow
from thinwire.sender.transport.pace import Pace, RateSample

PACKET = 1400
LOOKS = 500


class Pipe:
    """A link of `rate` bytes a second and `delay` seconds of round trip with a queue without end.

    loss: share of packets that are sent a second time, a round trip later; later packets wait for it, as
    in TCP. tcp: the pace hears what TCP says of the flow, selective acknowledgements included. heaps: the hub
    acknowledges after 256 KiB or 200 ms instead of each piece; either way only what asks for it, or was not told for a
    second. jitter: seconds by which an answer is late at most.
    proxy: TCP's own word is that of something near by, which takes whatever comes and passes it on.
    """

    def __init__(
        self,
        rate: float,
        delay: float,
        loss: float = 0.0,
        heaps: bool = False,
        jitter: float = 0.0,
        seed: int = 1,
        tcp: bool = False,
        proxy: bool = False,
    ) -> None:
        self.clock = FakeClock()
        self.pace = Pace(self.clock)
        self.rate, self.delay, self.loss, self.heaps, self.jitter = rate, delay, loss, heaps, jitter
        self.random = random.Random(seed)
        self.free_at = 0.0
        self.delivered = 0
        """Bytes that reached the hub."""
        self._last_arrival = 0.0
        self._events: list[tuple[float, int, str, list[RateSample]]] = []
        self._count = 0
        self._unsynced: deque[RateSample] = deque()
        self._last_answer = self._told_at = 0.0
        self.tcp, self.proxy = tcp, proxy
        self._sent = self._reached = 0
        self._round_trips: deque[float] = deque([delay], maxlen=8)
        self._least = delay

    def look(self) -> None:
        """Let the pace hear of the flow, as before each piece."""
        if self.proxy:
            self.pace.heard(Flow(self._sent, 0, 0.001, 0.001))
        elif self.tcp:
            smoothed = sum(self._round_trips) / len(self._round_trips)
            self.pace.heard(Flow(self._reached, self._sent - self._reached, self._least, smoothed))

    @property
    def queue_seconds(self) -> float:
        """How long a byte that is sent now waits before it goes out."""
        return max(0.0, self.free_at - self.clock.monotonic())

    def send(self, size: int) -> None:
        mark = self.pace.sent(size)
        lost = sum(self.random.random() < self.loss for _ in range(-(-size // PACKET))) if self.loss else 0
        self.free_at = max(self.free_at, self.clock.monotonic()) + (size + lost * PACKET) / self.rate
        arrival = self.free_at + self.delay / 2 + (self.delay if lost else 0.0)
        self._last_arrival = max(self._last_arrival, arrival)
        self._at(self._last_arrival, "arrival", [mark])
        self._sent += size
        if self.tcp:
            # Packet by packet, at most eight, whatever they wait for in the hub's machine.
            parts = min(8, -(-size // PACKET))
            for n in range(parts):
                part = size * (n + 1) // parts - size * n // parts
                early = size * (parts - 1 - n) / parts / self.rate
                self._at(arrival - early + self.delay / 2, "acknowledgement", [replace(mark, size=part)])

    def run(self, seconds: float, bulk: bool = True) -> list[float]:
        """Send bulk for so long; returns the waits that an urgent byte meets which comes at one of LOOKS moments."""
        waits: list[float] = []
        now = self.clock.monotonic()
        looks = [now + (n + 1) * seconds / LOOKS for n in range(LOOKS)]
        while looks:
            self.look()
            while bulk and (self.pace.in_flight == 0 or self.pace.chunk <= self.pace.send_space):
                self.send(self.pace.chunk)
                self.look()
            now = self.clock.monotonic()
            wake = now + self.pace.wait if bulk and self.pace.wait else looks[0]
            answer = self._events[0][0] if self._events else looks[0]
            self.clock.advance(max(min(wake, answer, looks[0]) - now, 1e-9))
            if looks[0] <= self.clock.monotonic():
                waits.append(self.queue_seconds)
                looks.pop(0)
            elif self._events and self._events[0][0] <= self.clock.monotonic():
                _, _, what, marks = heapq.heappop(self._events)
                self._take(what, marks)
        return waits

    def _take(self, what: str, marks: list[RateSample]) -> None:
        now = self.clock.monotonic()
        match what:
            case "arrival":
                self._unsynced.extend(marks)
                self.delivered += sum(each.size for each in marks)
                if not self.heaps or sum(each.size for each in self._unsynced) >= SYNC_BYTES:
                    self._sync()
                elif len(self._unsynced) == 1:
                    self._at(now + SYNC_SECONDS, "sync", [])
            case "acknowledgement":
                self._reached += sum(mark.size for mark in marks)
                self._round_trips.extend(now - mark.at for mark in marks)
                self._least = min(self._least, *self._round_trips)
            case "sync":
                self._sync()
            case "answer":
                for mark in marks:
                    self.pace.arrived(mark)

    def _sync(self) -> None:
        now = self.clock.monotonic()
        if any(each.asks for each in self._unsynced) or (self._unsynced and now >= self._told_at + PROGRESS_SECONDS):
            self._told_at = now
            self._answer()
        elif self._unsynced:
            self._at(self._told_at + PROGRESS_SECONDS, "sync", [])

    def _answer(self) -> None:
        late = self.random.random() * self.jitter
        self._last_answer = max(self._last_answer, self.clock.monotonic() + self.delay / 2 + late)
        self._at(self._last_answer, "answer", list(self._unsynced))
        self._unsynced.clear()

    def _at(self, when: float, what: str, marks: list[RateSample]) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, what, marks))
