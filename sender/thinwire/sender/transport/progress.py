"""Progress of the clinic's studies by tier: parts at the hub, in transfer and waiting, with reasons and times."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thinwire.sender.outbox.entries import Due, PartState, PartTotal
from thinwire.sender.outbox.policy import REASONS, CurrentPolicy
from thinwire.sender.outbox.tiers import ORDER
from thinwire.sender.transport.link_status import LinkState, LinkStatus, TransferProgress
from thinwire.sender.transport.schedule import rank
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.identifiers import Digest, StudyKey

_AFTER_OTHERS = "until others of this tier are sent"
"""Reason of waiting parts beyond those that the link considers at a time."""


@dataclass(frozen=True)
class TierProgress:
    """All parts of one kind."""

    kind: Kind
    stored: int
    """Parts with a signed receipt."""
    open: int
    """Parts that are not yet at the hub."""
    size: int
    """Bytes of the open parts that are already sealed."""
    sent: int
    """Bytes of these that were sent in this session, or that the hub had before."""
    durable: int
    """Bytes of these that are durable at the hub."""
    seconds: float | None
    """Seconds until the last part that may be sent is at the hub, at the measured rate; None if unknown."""
    waits: Mapping[str, int]
    """Reasons for waiting, with the number of parts."""


def by_tier(
    totals: Iterable[PartTotal], due: Iterable[Due], link: LinkStatus, current_policy: CurrentPolicy
) -> list[TierProgress]:
    """One for each kind of which the clinic has or had a part, in sending order. due: the waiting parts; of very many,
    those that are sent first."""
    counts = {(each.kind, each.state): each for each in totals}
    due = list(due)
    crossing = {each.object: each for each in link.transfers}
    reasons = {each.object: reason for each, reason in current_policy.partition(due, {})[1]}
    seconds = {each.kind: seconds for each, seconds in _arrivals(due, crossing, current_policy, link)}
    found = []
    for kind in ORDER:
        of_kind = [each for (this, _), each in counts.items() if this is kind]
        open_parts = [each for each in of_kind if each.state in (PartState.MISSING, PartState.HELD, PartState.WAITING)]
        known = [crossing[each.object] for each in due if each.kind is kind and each.object in crossing]
        if of_kind:
            found.append(
                TierProgress(
                    kind=kind,
                    stored=sum(each.count for each in of_kind if each.state is PartState.STORED),
                    open=sum(each.count for each in open_parts),
                    size=sum(each.size for each in open_parts),
                    sent=sum(each.sent for each in known),
                    durable=sum(each.durable for each in known),
                    seconds=seconds.get(kind),
                    waits=_reasons(open_parts, [each for each in due if each.kind is kind], reasons),
                )
            )
    return found


def _reasons(open_parts: Iterable[PartTotal], due: Sequence[Due], reasons: Mapping[Digest, str]) -> dict[str, int]:
    """Reasons for waiting of the parts of one kind, with the number of parts. reasons: by object, of parts in `due`."""
    found = Counter(reasons[each.object] for each in due if each.object in reasons)
    for each in open_parts:
        if each.state is PartState.WAITING:
            found[_AFTER_OTHERS] += each.count - len(due)
        else:
            found[REASONS[each.state]] += each.count
    return {reason: count for reason, count in found.items() if count > 0}


def as_json(tier: TierProgress) -> dict[str, Any]:
    """The form of `status --json`."""
    return {
        "stored": tier.stored,
        "open": tier.open,
        "bytes": tier.size,
        "sent": tier.sent,
        "durable": tier.durable,
        "seconds": None if tier.seconds is None else round(tier.seconds, 1),
        "waits": dict(tier.waits),
    }


def study_seconds(due: Iterable[Due], link: LinkStatus, current_policy: CurrentPolicy) -> dict[StudyKey, float]:
    """Seconds until all parts of each study that may be sent are at the hub, at the measured rate; empty if unknown.
    due: as for `by_tier`."""
    crossing = {each.object: each for each in link.transfers}
    return {each.study: seconds for each, seconds in _arrivals(due, crossing, current_policy, link)}


def _arrivals(
    due: Iterable[Due],
    crossing: Mapping[Digest, TransferProgress],
    current_policy: CurrentPolicy,
    link: LinkStatus,
) -> Iterator[tuple[Due, float]]:
    """The parts that may be sent, in order, with seconds until arrival; empty without a link or a measured rate."""
    if link.state is not LinkState.CONNECTED or not link.rate:
        return
    bytes_before = 0
    going, _ = current_policy.partition(sorted(due, key=rank), {})
    for each in going:
        known = crossing.get(each.object)
        bytes_before += each.size - (known.durable if known else 0)
        yield each, bytes_before / link.rate + (link.round_trip or 0.0)
