"""Progress of the clinic's studies by tier: parts at the hub, in transfer and waiting, with reasons and times."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from thinwire.sender.outbox.entries import Due, OutboxEntry, PartState
from thinwire.sender.outbox.policy import CurrentPolicy
from thinwire.sender.outbox.tiers import ORDER
from thinwire.sender.transport.link_status import LinkState, LinkStatus, TransferProgress
from thinwire.sender.transport.schedule import rank
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.identifiers import Digest, StudyKey


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


def by_tier(entries: Iterable[OutboxEntry], link: LinkStatus, current_policy: CurrentPolicy) -> list[TierProgress]:
    """One for each kind of which the clinic has or had a part, in sending order."""
    entries = list(entries)
    crossing = {each.object: each for each in link.transfers}
    waits = current_policy.waits(entries)
    seconds = _estimates(entries, crossing, current_policy, link)
    found = []
    for kind in ORDER:
        parts = [(entry, part) for entry in entries for part in entry.parts if part.kind is kind]
        open_parts = [(e, p) for e, p in parts if p.state in (PartState.MISSING, PartState.HELD, PartState.WAITING)]
        known = [crossing[p.object] for _, p in open_parts if p.object in crossing]
        if parts:
            found.append(
                TierProgress(
                    kind=kind,
                    stored=sum(p.state is PartState.STORED for _, p in parts),
                    open=len(open_parts),
                    size=sum(p.size for _, p in open_parts),
                    sent=sum(each.sent for each in known),
                    durable=sum(each.durable for each in known),
                    seconds=seconds.get(kind),
                    waits=Counter(waits[e.study, kind] for e, _ in open_parts if (e.study, kind) in waits),
                )
            )
    return found


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


def study_seconds(
    entries: Iterable[OutboxEntry], link: LinkStatus, current_policy: CurrentPolicy
) -> dict[StudyKey, float]:
    """Seconds until all parts of each study that may be sent are at the hub, at the measured rate; empty if unknown."""
    crossing = {each.object: each for each in link.transfers}
    return {due.study: seconds for due, seconds in _arrivals(entries, crossing, current_policy, link)}


def _estimates(
    entries: Iterable[OutboxEntry],
    crossing: Mapping[Digest, TransferProgress],
    current_policy: CurrentPolicy,
    link: LinkStatus,
) -> dict[Kind, float]:
    found = _arrivals(entries, crossing, current_policy, link)
    return {due.kind: seconds for due, seconds in found if due.kind is not None}


def _arrivals(
    entries: Iterable[OutboxEntry],
    crossing: Mapping[Digest, TransferProgress],
    current_policy: CurrentPolicy,
    link: LinkStatus,
) -> Iterator[tuple[Due, float]]:
    """The parts that may be sent, in order, with seconds until arrival; empty without a link or a measured rate."""
    if link.state is not LinkState.CONNECTED or not link.rate:
        return
    bytes_before = 0
    going, _ = current_policy.partition(sorted((due for entry in entries for due in entry.due()), key=rank), {})
    for due in going:
        known = crossing.get(due.object)
        bytes_before += due.size - (known.durable if known else 0)
        yield due, bytes_before / link.rate + (link.round_trip or 0.0)
