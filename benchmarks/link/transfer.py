"""Studies given at one end, watched until they stand at the other: the step of every scenario."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.link.faults import Act, Faults, Happened, do
from benchmarks.link.lab import Lab
from benchmarks.link.peers.peer import Peer, Sending

TICK = 0.01
"""Seconds between two readings: the precision of every moment."""
RETRY_SECONDS = 5.0
"""After which a failed sending is given again, where a script stands around it."""
LINGER_SECONDS = 60.0
"""A study whose sender gave up is awaited at the hub so long: some report failure for studies that arrive."""
FLOWING = 3000
"""Bytes at the hub's side after an outage that are more than handshakes and probes."""


@dataclass
class TransferResult:
    """One study's way. Seconds count from the first study's command."""

    study: Path
    sending: Sending
    given: float
    attempts: int = 1
    failures: list[tuple[float, str]] = field(default_factory=list)
    moments: dict[str, float] = field(default_factory=dict)
    stored_at_failure: list[int] = field(default_factory=list)
    """Bytes that the hub had of it when an attempt failed."""
    again_at: float | None = None
    """When a script gives it again."""
    given_up: bool = False
    """It failed, and nobody gives it again."""
    verified: bool | None = None
    """Whether the hub's files equal those sent; None: not checked."""
    needed: int | None = None
    """Bytes to send: the file, recompressed or sealed where it is. None: not measured."""

    @property
    def stored(self) -> bool:
        return "stored" in self.moments

    def told(self) -> dict[str, Any]:
        return {
            "study": self.study.stem,
            "bytes": self.study.stat().st_size,
            "given": round(self.given, 3),
            "moments": {name: round(at, 3) for name, at in self.moments.items()},
            "attempts": self.attempts,
            "failures": [{"at": round(at, 2), "what": what} for at, what in self.failures],
            "kept_at_failure": self.stored_at_failure,
            "needed_bytes": self.needed,
            "verified": self.verified,
        }


class TransferRun:
    """lab, peer: started. faults: the script of faults. persist: whether a script gives a failed study again. phase:
    seconds of the profile's schedule of outages that are over when the first study is given."""

    def __init__(self, lab: Lab, peer: Peer, faults: Faults, persist: bool, phase: float = 0.0) -> None:
        self.lab, self.peer, self.faults, self.persist = lab, peer, faults, persist
        self.journeys: list[TransferResult] = []
        self.happened: list[Happened] = []
        lab.board.begin(phase)
        self.began = time.monotonic()
        self.first_up, self.first_down = lab.board.up, lab.board.down
        self._back: tuple[float, int] | None = None
        """(when an outage ended, bytes that had crossed by then), until bytes flow again."""
        self.silences: list[float] = []
        """Seconds from the end of each outage until bytes flow to the hub again."""
        self._was_down = lab.board.is_down

    @property
    def now(self) -> float:
        return time.monotonic() - self.began

    @property
    def crossed(self) -> int:
        """Bytes that came out at the hub's side since the start."""
        return self.lab.board.up.delivered_bytes - self.first_up.delivered_bytes

    def give(self, study: Path, urgent: bool = False) -> TransferResult:
        sending = self.peer.send(study, urgent)
        journey = TransferResult(study, sending, sending.began - self.began)
        self.journeys.append(journey)
        return journey

    def until(self, journeys: Sequence[TransferResult], limit: float) -> None:
        """Until all of these are stored, or have failed for good, or the clock says `limit`."""
        while self.now < limit:
            self.look()
            if all(each.stored or self._is_over(each) for each in journeys):
                return
            time.sleep(TICK)

    def look(self) -> None:
        """One turn: due faults, arrivals, failures."""
        for act in self.faults.due(self.now, self.crossed, self.lab.board.is_down):
            do(act, self.lab, self.peer)
            self.happened.append(Happened(self.now, act))
        self._note_silence()
        for journey in self.journeys:
            if journey.stored:
                continue
            for name, at in self.peer.moments(journey.sending).items():
                journey.moments.setdefault(name, at - self.began)
            if journey.again_at is not None:
                self._maybe_again(journey)
            elif not journey.stored and not journey.given_up and (said := self.peer.verdict(journey.sending)).failed:
                journey.failures.append((self.now, said.failed))
                journey.stored_at_failure.append(self.peer.kept(journey.sending))
                journey.again_at = self.now + RETRY_SECONDS if self.persist else None
                journey.given_up = not self.persist

    def verify(self) -> None:
        for journey in self.journeys:
            journey.verified = journey.stored and self.peer.verified(journey.sending)
            journey.needed = self.peer.needed(journey.sending)

    def told(self) -> dict[str, Any]:
        """The columns of a run that every row has."""
        up, down = self.lab.board.up, self.lab.board.down
        worst, late = self.lab.board.lateness
        return {
            "journeys": [each.told() for each in self.journeys],
            "happened": [{"at": round(each.at, 2), "what": str(each.act)} for each in self.happened],
            "silences": [round(each, 3) for each in self.silences],
            "up_bytes_sent": up.offered_bytes - self.first_up.offered_bytes,
            "up_bytes_delivered": up.delivered_bytes - self.first_up.delivered_bytes,
            "up_packets_sent": up.offered - self.first_up.offered,
            "down_bytes_sent": down.offered_bytes - self.first_down.offered_bytes,
            "down_packets_sent": down.offered - self.first_down.offered,
            "emulator_worst_lateness_ms": round(worst * 1000, 2),
            "emulator_late_deliveries": late,
        }

    def _is_over(self, journey: TransferResult) -> bool:
        return journey.given_up and self.now > journey.failures[-1][0] + LINGER_SECONDS

    def _maybe_again(self, journey: TransferResult) -> None:
        assert journey.again_at is not None
        unpowered = self.happened and self._clinic_is_dead()
        if self.now < journey.again_at or unpowered or self.lab.board.is_down:
            return
        try:
            journey.sending = self.peer.send(journey.study)
        except OSError:
            journey.again_at = self.now + RETRY_SECONDS  # nothing listens at the clinic yet
            return
        journey.attempts += 1
        journey.again_at = None

    def _clinic_is_dead(self) -> bool:
        last = [each.act for each in self.happened if each.act in (Act.KILL_CLINIC, Act.START_CLINIC)]
        return bool(last) and last[-1] is Act.KILL_CLINIC

    def _note_silence(self) -> None:
        is_down = self.lab.board.is_down
        if self._was_down and not is_down:
            self._back = (self.now, self.crossed)
        self._was_down = is_down
        if is_down:
            self._back = None
        elif self._back is not None and self.crossed - self._back[1] >= FLOWING:
            self.silences.append(self.now - self._back[0])
            self._back = None
