"""The tier policy applied to all due objects: those that may be sent now, and the reasons why others wait."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from thinwire.sender.outbox.entries import Due, OutboxEntry, Part, PartState
from thinwire.sender.outbox.tiers import Decision, PendingPart, TierPolicy, decide, month
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.identifiers import Digest, StudyKey

REASONS = {
    PartState.MISSING: "to be made",
    PartState.HELD: "until a reader asks for it",
}
"""Why a part waits that is not due."""


@dataclass(frozen=True)
class CurrentPolicy:
    """A clinic's policy at one time. used: bytes of this month on the link. paused: all sending is paused."""

    policy: TierPolicy
    now: datetime
    used: int
    paused: bool = False
    takes_additions: bool = True
    """Whether the hub takes additions to studies, as far as it is known."""

    @classmethod
    def at(
        cls,
        policy: TierPolicy,
        now: datetime,
        months: Mapping[str, Iterable[int]],
        paused: bool = False,
        takes_additions: bool = True,
    ) -> "CurrentPolicy":
        """months: bytes by month, as `usage.read_usage` gives them."""
        return cls(policy, now, sum(months.get(month(policy.local(now)), ())), paused, takes_additions)

    def partition(self, dues: Iterable[Due], durable: Mapping[Digest, int]) -> tuple[list[Due], list[tuple[Due, str]]]:
        """(objects that may be sent, waiting objects with reasons), in the order of `dues`. durable: bytes at the hub,
        by object."""
        dues = list(dues)
        decisions = [self._decide(due.pending(durable.get(due.object, 0)), idle=False) for due in dues]
        if not any(decision.sends for decision in decisions):
            decisions = [self._decide(due.pending(durable.get(due.object, 0)), idle=True) for due in dues]
        both = list(zip(dues, decisions, strict=True))
        return [due for due, v in both if v.sends], [(due, v.reason) for due, v in both if not v.sends]

    def sends_soon(self, entry: OutboxEntry, part: Part) -> bool:
        """Whether a part will be made or sent without waiting for a time window, the data budget or a request."""
        if part.state is PartState.MISSING:
            return True
        return part.state is PartState.WAITING and self._decide(_asked(entry, part), idle=True).sends

    def waits(self, entries: Iterable[OutboxEntry], due: Iterable[Due] = ()) -> dict[tuple[StudyKey, Kind], str]:
        """Why each part of these studies waits, as text; parts that may be sent are left out. due: of all studies; a
        part may wait until they are sent."""
        entries = list(entries)
        every = {each.object: each for each in (*due, *(own for entry in entries for own in entry.due()))}
        _, waiting = self.partition(every.values(), {})
        reasons = {(due.study, due.kind): reason for due, reason in waiting if due.kind is not None}
        for entry in entries:
            for part in entry.parts:
                if part.state in REASONS:
                    reasons[entry.study, part.kind] = REASONS[part.state]
        return reasons

    def _decide(self, pending: PendingPart, idle: bool) -> Decision:
        if self.paused:
            return Decision(False, "all sending is paused, until it is resumed")
        if pending.adds and not self.takes_additions:
            return Decision(False, "until the hub is updated: its version takes no files after their study")
        return decide(self.policy, pending, self.now, idle, self.used)


def _asked(entry: OutboxEntry, part: Part) -> PendingPart:
    return PendingPart(
        part.kind,
        part.size,
        entry.urgent or part.requested,
        part.state is PartState.HELD,
        entry.overrides,
        entry.paused,
        entry.adds_to is not None,
    )
