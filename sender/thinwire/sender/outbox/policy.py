"""The policy over everything that is due: what may go now, and what waits and why."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from thinwire.sender.outbox.entries import Due, OutboxEntry, Part, PartState
from thinwire.sender.outbox.tiers import PendingPart, TierPolicy, Verdict, decide, month
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.identifiers import Digest, StudyKey

_REASON = {
    PartState.MISSING: "to be made",
    PartState.HELD: "until a reader asks for it",
}


@dataclass(frozen=True)
class CurrentPolicy:
    """A clinic's policy at one moment. used: bytes of this month on the link. paused: a person holds all sending."""

    policy: TierPolicy
    now: datetime
    used: int
    paused: bool = False

    @classmethod
    def at(
        cls, policy: TierPolicy, now: datetime, months: Mapping[str, Iterable[int]], paused: bool = False
    ) -> "CurrentPolicy":
        """months: bytes by month, as `usage.read_usage` gives them."""
        return cls(policy, now, sum(months.get(month(policy.local(now)), ())), paused)

    def partition(self, dues: Iterable[Due], durable: Mapping[Digest, int]) -> tuple[list[Due], list[tuple[Due, str]]]:
        """(what may go, what waits with its reason), each in the order of `dues`. durable: bytes at the hub, by
        object."""
        dues = list(dues)
        verdicts = [self._decide(due.pending(durable.get(due.object, 0)), idle=False) for due in dues]
        if not any(verdict.goes for verdict in verdicts):
            verdicts = [self._decide(due.pending(durable.get(due.object, 0)), idle=True) for due in dues]
        both = list(zip(dues, verdicts, strict=True))
        return [due for due, v in both if v.goes], [(due, v.reason) for due, v in both if not v.goes]

    def sends_soon(self, entry: OutboxEntry, part: Part) -> bool:
        """Whether a part is made or sent without waiting for an hour, a month or a reader."""
        if part.state is PartState.MISSING:
            return True
        return part.state is PartState.WAITING and self._decide(_asked(entry, part), idle=True).goes

    def waits(self, entries: Iterable[OutboxEntry]) -> dict[tuple[StudyKey, Kind], str]:
        """Why each part that is not at the hub is not on its way, for people; a part that may go is not named."""
        entries = list(entries)
        _, waiting = self.partition((due for entry in entries for due in entry.due()), {})
        reasons = {(due.study, due.kind): reason for due, reason in waiting if due.kind is not None}
        for entry in entries:
            for part in entry.parts:
                if part.state in _REASON:
                    reasons[entry.study, part.kind] = _REASON[part.state]
        return reasons

    def _decide(self, pending: PendingPart, idle: bool) -> Verdict:
        if self.paused:
            return Verdict(False, "all sending is paused, until it is resumed")
        return decide(self.policy, pending, self.now, idle, self.used)


def _asked(entry: OutboxEntry, part: Part) -> PendingPart:
    return PendingPart(
        part.kind,
        part.size,
        entry.urgent or part.requested,
        part.state is PartState.HELD,
        entry.overrides,
        entry.paused,
    )
