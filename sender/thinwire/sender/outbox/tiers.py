"""The tier policy: the parts of a study, their order, and when each is sent."""

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
    """Within the clinic's configured hours."""
    ON_REQUEST = "on request"
    """Made and held at the clinic; sent on a reader's request."""
    NEVER = "never"
    """Not made."""


ORDER = (Kind.GRAPH, Kind.MANIFEST, Kind.PREVIEW, Kind.CROPS, Kind.ORIGINALS)
"""The order of sending, by use to a reader. The manifest is small and has the identity and the list of parts."""
ALWAYS_MADE = (Kind.GRAPH, Kind.MANIFEST, Kind.ORIGINALS)
"""The parts that are always made; without them a study is not complete."""
FORMER_NAMES = MappingProxyType({Kind.CROPS: "evidence", Kind.ORIGINALS: "pixels"})
"""The names of two kinds until version 3 of the outbox, in its files, in settings and in scripts."""
OF_ADDITION = (Kind.MANIFEST, Kind.ORIGINALS)
"""The parts of further files of a study."""
ALWAYS_SENT = (Kind.GRAPH, Kind.MANIFEST)
"""The parts that are always sent, also beyond the budget: without them the hub does not know of the study."""


_ON_THE_LINK = 1.06
"""Bytes on the link for a byte of an object: messages, TLS records, acknowledgements."""


def _defaults() -> Mapping[Kind, When]:
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
    """Hours of each day by the clinic's clock, from `start` to before `end`; over midnight if end is not later."""

    start: time
    end: time

    def __contains__(self, at: time) -> bool:
        if self.start < self.end:
            return self.start <= at < self.end
        return at >= self.start or at < self.end


NIGHT = Hours(time(20), time(6))


@dataclass(frozen=True)
class TierPolicy:
    """A clinic's tier policy. The graph, the originals and the manifest are always made."""

    when: Mapping[Kind, When] = field(default_factory=_defaults)
    window: Hours = NIGHT
    zone: tzinfo | None = None
    """The clinic's time zone; None: the system's."""
    budget: int | None = None
    """Bytes a month on the link, both ways; None for no limit."""

    def __post_init__(self) -> None:
        checked({**dict.fromkeys(ALWAYS_MADE, When.NEVER), **self.when})

    @property
    def plan(self) -> tuple[Kind, ...]:
        """The parts that are made, in the order of sending."""
        return self.plan_of({})

    def plan_of(self, overrides: Mapping[Kind, When]) -> tuple[Kind, ...]:
        """The same for a study with overrides."""
        return tuple(kind for kind in ORDER if self.when_of(kind, overrides) is not When.NEVER)

    def when_of(self, kind: Kind, overrides: Mapping[Kind, When]) -> When:
        return overrides.get(kind, self.when.get(kind, When.NEVER))

    def held(self, kind: Kind, overrides: Mapping[Kind, When] = MappingProxyType({})) -> bool:
        """Whether this part is sent only on a reader's request."""
        return self.when_of(kind, overrides) is When.ON_REQUEST

    def local(self, now: datetime) -> datetime:
        """The same time by the clinic's clock."""
        return now.astimezone(self.zone)


def read_kind(name: str) -> Kind:
    """The kind of a name, or of a former name, in lower case. Raises KeyError."""
    former = {each: kind for kind, each in FORMER_NAMES.items()}
    return former[name] if name in former else Kind[name.upper()]


def checked(when: Mapping[Kind, When]) -> Mapping[Kind, When]:
    """The argument. Raises ValueError for a policy that would withhold a study from its readers."""
    for kind in ALWAYS_SENT:
        if when.get(kind, When.ALWAYS) is not When.ALWAYS:
            raise ValueError(f"the {kind.name.lower()} is always sent: without it the hub does not know of the study")
    if when.get(Kind.ORIGINALS) is When.NEVER:
        raise ValueError("without its originals a study is not complete; choose 'on request'")
    return when


@dataclass(frozen=True)
class PendingPart:
    """The facts of a waiting or held part for the policy."""

    kind: Kind | None
    """None for an epoch record."""
    remaining: int
    """Bytes that are still to be sent."""
    urgent: bool = False
    """Urgent by the clinic, or requested by a reader."""
    held: bool = False
    """Sent only on a reader's request."""
    overrides: Mapping[Kind, When] = field(default_factory=dict)
    """The tier policy of the study, where it differs."""
    paused: bool = False
    """The study is paused by a person at the clinic."""
    adds: bool = False
    """Of an addition to a study."""


@dataclass(frozen=True)
class Decision:
    """Whether a part may be sent now, and if not, until when it waits."""

    sends: bool
    reason: str = ""


SEND = Decision(True)


def decide(policy: TierPolicy, part: PendingPart, now: datetime, idle: bool, used: int) -> Decision:
    """Whether a part is sent now. idle: nothing else is to be sent. used: bytes of this month on the link.

    Urgent and requested parts, the graph and the manifest are sent at any time and beyond the budget; paused parts are
    not sent.
    """
    if part.paused:
        return Decision(False, "paused, until it is resumed")
    if part.urgent or part.kind is None or part.kind in ALWAYS_SENT:
        return SEND
    when = policy.when_of(part.kind, part.overrides)
    if part.held or when in (When.ON_REQUEST, When.NEVER):
        return Decision(False, "until a reader asks for it")
    local = policy.local(now)
    if when is When.IN_WINDOW and local.time() not in policy.window:
        return Decision(False, f"until {policy.window.start:%H:%M}")
    if when is When.WHEN_IDLE and not idle:
        return Decision(False, "until nothing else is to be sent")
    if policy.budget is not None and used + int(part.remaining * _ON_THE_LINK) > policy.budget:
        left = max(0, policy.budget - used)
        return Decision(False, f"until {_next_month(local):%-d %B}: {left:,} bytes of the month's budget are left")
    return SEND


def month(local: datetime) -> str:
    """The month of a time, as 2026-03."""
    return f"{local:%Y-%m}"


def _next_month(local: datetime) -> datetime:
    return (local.replace(day=1) + timedelta(days=32)).replace(day=1)
