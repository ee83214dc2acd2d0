"""A clinic's day in simulated time: 120 studies, a morning peak, two long outages, one slow link.

    python -m benchmarks.link.clinic_day [--profiles gprs,vsat] [--seed 1] [--out FILE]

The sender's own scheduler and pace (`thinwire.sender.link`) decide the order and time of each part, under a clock that
is moved by hand; the line is the emulator's model. Beside it: the same studies, first come first served, each sent
whole and without loss by one association, begun anew where an outage broke it. Both send the same bytes of pixels, so
that the difference is the order, the resumption and the graph. No socket, no process, no thread: a day takes a minute.

Left out: packet loss (TCP repeats lost packets: the line is slower by that share), and the hub's computing time.
"""

import argparse
import bisect
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from benchmarks.link.lab import ROOT
from benchmarks.link.model import Direction, Way
from benchmarks.link.profiles import PROFILES, Profile
from benchmarks.machine import machine
from thinwire.sender.outbox.entries import Due
from thinwire.sender.transport.pace import Measured, Pace, RateSample
from thinwire.sender.transport.schedule import (
    FairShare,
    Segment,
    Transfer,
    TransferEvent,
    TransferState,
    age,
    fits,
    rank,
)
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.identifiers import Digest, EpochId, StudyKey, digest

HOUR = 3600.0
STUDIES = 120
OPENS, PEAK_BEGINS, PEAK_ENDS, CLOSES = 7.5 * HOUR, 8 * HOUR, 10.5 * HOUR, 17 * HOUR
PEAK_SHARE = 0.5
"""Of the day's studies, in the morning peak."""
URGENT_SHARE = 0.05
OUTAGES = ((9.0 * HOUR, 1.0 * HOUR), (13.0 * HOUR, 1.5 * HOUR))
"""(begins, lasts), seconds of the day."""
GRAPH_BYTES, MANIFEST_BYTES = 170, 500
PIXELS_MEDIAN, PIXELS_SPREAD, PIXELS_LEAST, PIXELS_MOST = 1.6e6, 0.5, 0.4e6, 5e6
"""Bytes of a study's lossless pixels: a log-normal between two ends."""
GRAPH_SECONDS, PIXELS_SECONDS = 1.5, 20.0
"""After a study was accepted its graph, and then its pixels, are made."""
OVERHEAD_SHARE, OVERHEAD_BYTES = 52 / 1448, 50
"""Of a piece on the line: TCP and IP of each packet; TLS (22), HTTP/2 (9), gRPC (5), the message's fields of each."""
ACK_BYTES = 150
DIAL_ROUND_TRIPS, DIAL_SECONDS = 3, 1.0
"""From the link's return to a stream: TCP, TLS, and the offers that are answered."""
ASSOCIATION_ROUND_TRIPS = 4
"""TCP, association, the C-STORE's answer, release."""
START = datetime(2026, 3, 4, tzinfo=UTC)
MOST_SECONDS = 7 * 24 * HOUR
PERCENTILES = (50, 90, 99, 100)


@dataclass(frozen=True)
class Arrival:
    """A study of the day. accepted: seconds from midnight."""

    number: int
    accepted: float
    urgent: bool
    pixels: int
    """Bytes."""

    @property
    def study(self) -> StudyKey:
        return StudyKey(digest(f"study {self.number}".encode())[:16])


@dataclass(frozen=True)
class Times:
    """Seconds from accepted. triage: the graph is durable at the hub; pixels: the whole study is."""

    triage: float
    pixels: float


def clinic_day(seed: int, count: int = STUDIES) -> list[Arrival]:
    random = Random(seed)
    rows = []
    for _ in range(count):
        peak = random.random() < PEAK_SHARE
        at = random.uniform(PEAK_BEGINS, PEAK_ENDS) if peak else random.uniform(OPENS, CLOSES)
        size = PIXELS_MEDIAN * float(np.exp(PIXELS_SPREAD * random.gauss(0, 1)))
        rows.append((at, random.random() < URGENT_SHARE, int(min(PIXELS_MOST, max(PIXELS_LEAST, size)))))
    return [Arrival(number, *row) for number, row in enumerate(sorted(rows))]


def way_of(way: Way) -> Way:
    """A line under TCP: nothing is lost, and retransmissions make it slower."""
    return replace(way, rate=way.rate * (1 - way.loss_share), loss=0.0, burst=None, queue=1 << 40)


def first_come_first_served(profile: Profile, day: Sequence[Arrival]) -> list[Times]:
    """One whole study after another, in the order in which they came; an outage loses the one on its way."""
    way = way_of(profile.up)
    free, times = 0.0, []
    for arrival in day:
        takes = arrival.pixels * (1 + OVERHEAD_SHARE) * 8 / way.rate + ASSOCIATION_ROUND_TRIPS * profile.round_trip
        begins = max(free, arrival.accepted)
        for at, lasts in OUTAGES:
            if begins < at + lasts and begins + takes > at:
                begins = at + lasts
        free = begins + takes
        times.append(Times(free - arrival.accepted, free - arrival.accepted))
    return times


class DayClock:
    """Moved by the simulation; seconds from midnight."""

    def __init__(self) -> None:
        self.at = 0.0

    def now(self) -> datetime:
        return START + timedelta(seconds=self.at)

    def monotonic(self) -> float:
        return self.at


@dataclass
class Message:
    """The content of a simulated packet."""

    stream: int
    number: int
    """Of the transfer."""
    end: int
    """Up: where its piece ends. Down: bytes that are durable."""


@dataclass
class ThinDay:
    """thinwire's day: both ends and the line."""

    profile: Profile
    day: Sequence[Arrival]
    clock: DayClock = field(default_factory=DayClock)
    triage: dict[StudyKey, float] = field(default_factory=dict)
    whole: dict[StudyKey, float] = field(default_factory=dict)
    sent: int = 0
    """Bytes of objects that were sent, repeats among them."""
    _durable: dict[Digest, int] = field(default_factory=dict)
    _stored: set[Digest] = field(default_factory=set)
    _left: dict[StudyKey, int] = field(default_factory=dict)
    """Parts that the hub has yet to get."""
    _queue: list[Due] = field(default_factory=list)
    _by_age: list[Due] = field(default_factory=list)
    _wake: float | None = None
    """When the pace lets the next piece go."""
    _messages: dict[int, Message] = field(default_factory=dict)
    _number: int = 0
    _stream: int = 0
    _connected: bool = True

    def __post_init__(self) -> None:
        self._up = Direction(way_of(self.profile.up), Random(0))
        self._down = Direction(way_of(self.profile.down), Random(0))
        self._new_stream(None)

    def run(self) -> list[Times]:
        """The whole day and the parts unsent in the evening. Raises RuntimeError where it does not end."""
        happens = self._script()
        while len(self.whole) < len(self.day):
            line = [at for at in (self._up.next_at, self._down.next_at, self._wake) if at is not None]
            at = min([*line, *([happens[0][0]] if happens else [])], default=None)
            if at is None or at > MOST_SECONDS:
                raise RuntimeError("the day does not end: something waits that nothing sends")
            self.clock.at = at
            for _, packet in self._up.advance(at):
                self._at_hub(self._taken(packet))
            for _, packet in self._down.advance(at):
                self._at_clinic(self._taken(packet))
            while happens and happens[0][0] <= at:
                self._happen(happens.pop(0)[2])
            self._send()
        return [
            Times(self.triage[each.study] - each.accepted, self.whole[each.study] - each.accepted) for each in self.day
        ]

    def _script(self) -> list[tuple[float, int, Due | str]]:
        """(when, number, what): parts that are made, and the link's changes, in their order."""
        script: list[tuple[float, Due | str]] = []
        for arrival in self.day:
            self._left[arrival.study] = 3
            for kind, size, after in (
                (Kind.GRAPH, GRAPH_BYTES, GRAPH_SECONDS),
                (Kind.ORIGINALS, arrival.pixels, PIXELS_SECONDS),
                (Kind.MANIFEST, MANIFEST_BYTES, PIXELS_SECONDS),
            ):
                script.append((arrival.accepted + after, self._due(arrival, kind, size)))
        for begins, lasts in OUTAGES:
            script.append((begins, "gone"))
            script.append((begins + lasts, "back"))
            script.append((begins + lasts + DIAL_SECONDS + DIAL_ROUND_TRIPS * self.profile.round_trip, "dialled"))
        return sorted((at, number, what) for number, (at, what) in enumerate(script))

    def _due(self, arrival: Arrival, kind: Kind, size: int) -> Due:
        return Due(
            object=digest(f"{arrival.number} {kind.name}".encode()),
            size=size,
            urgent=arrival.urgent,
            accepted=START + timedelta(seconds=arrival.accepted),
            epoch=EpochId(bytes(8)),
            study=arrival.study,
            kind=kind,
        )

    def _happen(self, what: Due | str) -> None:
        match what:
            case Due():
                bisect.insort(self._queue, what, key=rank)
                bisect.insort(self._by_age, what, key=age)
            case "dialled":
                self._connected = True
                self._new_stream(self._pace.measured)
            case _:
                for direction in (self._up, self._down):
                    direction.set_down(what == "gone")
                self._connected = False

    def _new_stream(self, before: Measured | None) -> None:
        self._stream += 1
        self._pace, self._floor = Pace(self.clock, before), FairShare()
        self._under_way: dict[bytes, Transfer] = {}
        self._by_number: dict[int, Transfer] = {}

    # The methods below are the uplink's part of the work: docs/wire-protocol.md.

    def _send(self) -> None:
        self._wake = None
        while self._connected:
            pace = self._pace
            piece = self._floor.choose(self._queue, self._by_age, self._under_way, pace.window, pace.chunk)
            if piece is None:
                pace.ran_dry()
                return
            if not fits(piece, pace.send_space, pace.in_flight):
                # A nanosecond at least, so that time moves.
                self._wake = self.clock.at + max(pace.wait, 1e-9) if pace.wait > 0 else None
                return
            self._floor.sent(piece)
            self._put(piece)

    def _put(self, piece: Segment) -> None:
        transfer = piece.transfer
        if transfer is None:
            transfer = Transfer(len(self._by_number) + 1, piece.due)
            self._by_number[transfer.number] = self._under_way[piece.due.object] = transfer
        transfer.position = piece.offset + piece.length
        mark: RateSample = self._pace.sent(piece.length)
        transfer.samples.append((transfer.position, mark))
        if transfer.remaining == 0:
            transfer.on(TransferEvent.LAST_BYTE)
        self.sent += piece.length
        size = int(piece.length * (1 + OVERHEAD_SHARE)) + OVERHEAD_BYTES
        self._offer(self._up, size, Message(self._stream, transfer.number, transfer.position))

    def _at_hub(self, message: Message) -> None:
        if message.stream != self._stream:
            return  # of a stream that broke: the hub has closed it
        due = self._by_number[message.number].due
        durable = self._durable[due.object] = max(self._durable.get(due.object, 0), message.end)
        if durable == due.size and due.object not in self._stored:
            self._keep(due)
        self._offer(self._down, ACK_BYTES, Message(self._stream, message.number, durable))

    def _keep(self, due: Due) -> None:
        """The hub has all of an object."""
        self._stored.add(due.object)
        if due.kind is Kind.GRAPH:
            self.triage[due.study] = self.clock.at
        self._left[due.study] -= 1
        if not self._left[due.study]:
            self.whole[due.study] = self.clock.at

    def _at_clinic(self, message: Message) -> None:
        if message.stream != self._stream:
            return
        transfer = self._by_number[message.number]
        if transfer.due.object not in self._under_way:
            return
        transfer.durable = message.end
        transfer.position = max(transfer.position, message.end)
        while transfer.samples and transfer.samples[0][0] <= message.end:
            self._pace.arrived(transfer.samples.popleft()[1])
        if message.end == transfer.due.size:
            del self._under_way[transfer.due.object]
            self._queue = [due for due in self._queue if due.object != transfer.due.object]
            self._by_age = [due for due in self._by_age if due.object != transfer.due.object]
            return
        transfer.on(TransferEvent.PROGRESS)
        if transfer.remaining == 0 and transfer.state is TransferState.SENDING:
            transfer.on(TransferEvent.LAST_BYTE)

    def _offer(self, direction: Direction, size: int, message: Message) -> None:
        self._number += 1
        self._messages[self._number] = message
        if not direction.offer(self._number.to_bytes(8, "big").ljust(size, b"\0"), self.clock.at):
            del self._messages[self._number]

    def _taken(self, packet: bytes) -> Message:
        return self._messages.pop(int.from_bytes(packet[:8], "big"))


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    found = np.percentile(seconds, PERCENTILES)
    return {
        f"p{each}" if each < 100 else "worst": round(float(at), 1) for each, at in zip(PERCENTILES, found, strict=True)
    }


def measured(profile: Profile, seed: int) -> list[dict[str, Any]]:
    day = clinic_day(seed)
    thin = ThinDay(profile, day)
    ours, theirs = thin.run(), first_come_first_served(profile, day)
    needed = sum(each.pixels + GRAPH_BYTES + MANIFEST_BYTES for each in day)
    urgent = [each.urgent for each in day]
    rows = []
    for name, times in (("thinwire", ours), ("first come, first served", theirs)):
        rows.append(
            {
                "profile": profile.name,
                "sender": name,
                "studies": len(day),
                "to_triage": percentiles([each.triage for each in times]),
                "to_triage_urgent": percentiles([each.triage for each, u in zip(times, urgent, strict=True) if u]),
                "to_pixels": percentiles([each.pixels for each in times]),
                "bytes_sent_over_needed": round(thin.sent / needed, 4) if name == "thinwire" else None,
            }
        )
    return rows


def shown(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * HOUR else f"{seconds / HOUR:.1f} h"


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    names = list(rows[0]["to_triage"])
    header = ["link", "sender", "time to", *names]
    lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    for row in rows:
        for what, words in (("to_triage", "triage"), ("to_triage_urgent", "triage, urgent"), ("to_pixels", "pixels")):
            cells = [shown(row[what][name]) for name in names]
            lines.append(f"| {' | '.join([row['profile'], row['sender'], words, *cells])} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profiles", default="gprs,vsat")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "link_day.json")
    options = parser.parse_args()
    rows = [row for name in options.profiles.split(",") for row in measured(PROFILES[name], options.seed)]
    told = {
        "command": f"python -m benchmarks.link.clinic_day --profiles {options.profiles} --seed {options.seed}",
        "machine": machine(),
        "simulated": True,
        "outages": [list(each) for each in OUTAGES],
        "rows": rows,
    }
    options.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
