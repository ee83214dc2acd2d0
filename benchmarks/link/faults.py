"""The faults of a run, as a script: outages and kills, by the bytes that crossed or by the clock."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Protocol

from benchmarks.link.lab import Lab
from benchmarks.link.peers.peer import Peer

RESTART_SECONDS = 2.0
"""After which a service manager restarts a killed process."""


class Act(StrEnum):
    """The actions of a script."""

    CUT = "link cut"
    BACK = "link back"
    KILL_CLINIC = "clinic killed"
    KILL_HUB = "hub killed"
    START_CLINIC = "clinic started"
    START_HUB = "hub started"


@dataclass(frozen=True)
class Happened:
    """at: seconds since the first study was given."""

    at: float
    act: Act


class Faults(Protocol):
    """Asked again and again while a run lasts."""

    def due(self, now: float, crossed: int, is_down: bool) -> list[Act]:
        """The actions that are due. now: seconds since the start; crossed: bytes that reached the hub's side since;
        is_down: whether the link is down now."""
        ...


class NoFaults:
    def due(self, now: float, crossed: int, is_down: bool) -> list[Act]:
        return []


@dataclass
class AfterBytes:
    """A script that begins when so many bytes have crossed."""

    crossed: int
    script: tuple[tuple[float, Act], ...]
    """(seconds from then, what)."""
    _began: float | None = None
    _done: int = 0

    def due(self, now: float, crossed: int, is_down: bool) -> list[Act]:
        if self._began is None and crossed >= self.crossed:
            self._began = now
        acts = []
        while self._began is not None and self._done < len(self.script):
            after, act = self.script[self._done]
            if now < self._began + after:
                break
            acts.append(act)
            self._done += 1
        return acts


@dataclass
class PowerCuts:
    """The clinic's processes die with the link and are started when it is back."""

    _was_down: bool = False

    def due(self, now: float, crossed: int, is_down: bool) -> list[Act]:
        if is_down == self._was_down:
            return []
        self._was_down = is_down
        return [Act.KILL_CLINIC if is_down else Act.START_CLINIC]


@dataclass
class Barrage:
    """Every `every` seconds an outage of 2 to 10 s, and in half of the rounds one end killed at some moment of it."""

    random: Random
    seconds: float = 600.0
    every: float = 30.0
    _script: list[tuple[float, Act]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._script = sorted(self._acts())

    def due(self, now: float, crossed: int, is_down: bool) -> list[Act]:
        acts = []
        while self._script and self._script[0][0] <= now:
            acts.append(self._script.pop(0)[1])
        return acts

    def _acts(self) -> Iterator[tuple[float, Act]]:
        for round in range(int(self.seconds / self.every)):
            begins = round * self.every + self.every / 2
            yield begins, Act.CUT
            yield begins + self.random.uniform(2, 10), Act.BACK
            # Both are drawn in every round, so that one round's chance does not move the others.
            killed, clinic = self.random.random() < 0.5, self.random.random() < 0.5
            at = round * self.every + self.random.uniform(0, self.every - RESTART_SECONDS - 1)
            if killed:
                yield at, Act.KILL_CLINIC if clinic else Act.KILL_HUB
                yield at + RESTART_SECONDS, Act.START_CLINIC if clinic else Act.START_HUB


def outage(crossed: int, seconds: float) -> Faults:
    return AfterBytes(crossed, ((0.0, Act.CUT), (seconds, Act.BACK)))


def kill(crossed: int, clinic: bool) -> Faults:
    acts = (Act.KILL_CLINIC, Act.START_CLINIC) if clinic else (Act.KILL_HUB, Act.START_HUB)
    return AfterBytes(crossed, ((0.0, acts[0]), (RESTART_SECONDS, acts[1])))


def do(act: Act, lab: Lab, peer: Peer) -> None:
    match act:
        case Act.CUT | Act.BACK:
            lab.board.switch(act is Act.CUT)
        case Act.KILL_CLINIC:
            peer.kill_clinic()
        case Act.KILL_HUB:
            peer.kill_hub()
        case Act.START_CLINIC:
            peer.start_clinic()
        case Act.START_HUB:
            peer.start_hub()
