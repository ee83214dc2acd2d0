"""Which parts a study has, which of them go unasked and when, and which goes first."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta, tzinfo
from enum import StrEnum
from types import MappingProxyType

from thinwire.shared.crypto.envelope import Kind


class When(StrEnum):
    """When a part of a study is sent."""

    ALWAYS = "always"
    WHEN_IDLE = "when idle"
    """When nothing else is to be sent."""
    IN_WINDOW = "in window"
    """In the clinic's hours for it."""
    ON_REQUEST = "on request"
    """Made and kept at the clinic; sent when a reader asks for it."""
    NEVER = "never"
    """Not made."""


ORDER = (Kind.GRAPH, Kind.MANIFEST, Kind.PREVIEW, Kind.CROPS, Kind.ORIGINALS)
"""In which order a reader needs them: the manifest is small and says whose the study is and when it is complete."""
WHOLE = (Kind.GRAPH, Kind.MANIFEST, Kind.ORIGINALS)
"""What is always made: it is the study."""
FORMER_NAMES = MappingProxyType({Kind.CROPS: "evidence", Kind.ORIGINALS: "pixels"})
"""What two kinds were called until version 3 of the outbox: in its files, in settings and in scripts."""
MEANING = (Kind.GRAPH, Kind.MANIFEST)
"""What always goes, budget or not: without it the hub does not know that there is a study."""


_ON_THE_LINK = 1.06
"""Bytes on the link for a byte of an object: messages, TLS records, acknowledgements."""


def _today() -> Mapping[Kind, When]:
    return MappingProxyType(
        {
            Kind.GRAPH: When.ALWAYS,
            Kind.MANIFEST: When.ALWAYS,
            Kind.PREVIEW: When.ALWAYS,
            Kind.CROPS: When.ON_REQUEST,
            Kind.ORIGINALS: When.ALWAYS,
        }
    )


@dataclass(frozen=True)
class Hours:
    """A part of each day by the clinic's clock, from `start` to before `end`, over midnight where end is not later."""

    start: time
    end: time

    def __contains__(self, at: time) -> bool:
        if self.start < self.end:
            return self.start <= at < self.end
        return at >= self.start or at < self.end


NIGHT = Hours(time(20), time(6))


@dataclass(frozen=True)
class TierPolicy:
    """A clinic's choice. The graph, the originals and the manifest are always made: they are the study."""

    when: Mapping[Kind, When] = field(default_factory=_today)
    window: Hours = NIGHT
    zone: tzinfo | None = None
    """The clinic's; the system's own where None."""
    budget: int | None = None
    """Bytes a month on the link, both ways; None for no limit."""

    def __post_init__(self) -> None:
        checked({**dict.fromkeys(WHOLE, When.NEVER), **self.when})

    @property
    def plan(self) -> tuple[Kind, ...]:
        """The parts that are made, in the order in which they go."""
        return self.plan_of({})

    def plan_of(self, overrides: Mapping[Kind, When]) -> tuple[Kind, ...]:
        """The same for a study that has a choice of its own."""
        return tuple(kind for kind in ORDER if self.when_of(kind, overrides) is not When.NEVER)

    def when_of(self, kind: Kind, overrides: Mapping[Kind, When]) -> When:
        return overrides.get(kind, self.when.get(kind, When.NEVER))

    def held(self, kind: Kind, overrides: Mapping[Kind, When] = MappingProxyType({})) -> bool:
        """Whether this part waits at the clinic until a reader asks."""
        return self.when_of(kind, overrides) is When.ON_REQUEST

    def local(self, now: datetime) -> datetime:
        """The same moment by the clinic's clock."""
        return now.astimezone(self.zone)


def read_kind(name: str) -> Kind:
    """The kind of a name, or of a former name, in lower case. Raises KeyError."""
    former = {each: kind for kind, each in FORMER_NAMES.items()}
    return former[name] if name in former else Kind[name.upper()]


def checked(when: Mapping[Kind, When]) -> Mapping[Kind, When]:
    """A choice as it is. Raises ValueError for one that would keep a study from its reader."""
    for kind in MEANING:
        if when.get(kind, When.ALWAYS) is not When.ALWAYS:
            raise ValueError(f"the {kind.name.lower()} of a study always goes: without it the hub knows of no study")
    if when.get(Kind.ORIGINALS) is When.NEVER:
        raise ValueError("a study without its originals is not kept whole; choose 'on request'")
    return when


@dataclass(frozen=True)
class PendingPart:
    """A part of a study that is made and not at the hub, as far as the policy cares."""

    kind: Kind | None
    """None for an epoch record."""
    remaining: int
    """Bytes that are still to cross."""
    urgent: bool = False
    """Asked for by the clinic, or by a reader at the hub."""
    held: bool = False
    """Kept until a reader asks."""
    overrides: Mapping[Kind, When] = field(default_factory=dict)
    """The study's own."""
    paused: bool = False
    """A person at the clinic holds the study back."""


@dataclass(frozen=True)
class Verdict:
    """Whether a part may go now, and if not, until when it waits."""

    goes: bool
    reason: str = ""


GO = Verdict(True)


def decide(policy: TierPolicy, part: PendingPart, now: datetime, idle: bool, used: int) -> Verdict:
    """Whether a part goes now. idle: nothing else is to be sent. used: bytes of this month on the link.

    What is urgent or was asked for goes at any time, and beyond the budget; so do the graph and the manifest. What a
    person paused does not go.
    """
    if part.paused:
        return Verdict(False, "paused, until it is resumed")
    if part.urgent or part.kind is None or part.kind in MEANING:
        return GO
    when = policy.when_of(part.kind, part.overrides)
    if part.held or when in (When.ON_REQUEST, When.NEVER):
        return Verdict(False, "until a reader asks for it")
    local = policy.local(now)
    if when is When.IN_WINDOW and local.time() not in policy.window:
        return Verdict(False, f"until {policy.window.start:%H:%M}")
    if when is When.WHEN_IDLE and not idle:
        return Verdict(False, "until nothing else is to be sent")
    if policy.budget is not None and used + int(part.remaining * _ON_THE_LINK) > policy.budget:
        left = max(0, policy.budget - used)
        return Verdict(False, f"until {_next_month(local):%-d %B}: {left:,} bytes of the month's budget are left")
    return GO


def month(local: datetime) -> str:
    """The month of a moment, as 2026-03."""
    return f"{local:%Y-%m}"


def _next_month(local: datetime) -> datetime:
    return (local.replace(day=1) + timedelta(days=32)).replace(day=1)
