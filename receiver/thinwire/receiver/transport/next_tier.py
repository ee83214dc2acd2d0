"""The next tier of a study and its remaining time, from the present rate of the clinic's link."""

from dataclasses import dataclass

from thinwire.receiver.store.records import StoredStudy
from thinwire.receiver.transport.link_status import SiteLink
from thinwire.shared.identifiers import Tier


@dataclass(frozen=True)
class NextTier:
    """The next tier of a study that is not complete."""

    tier: Tier
    share: float | None
    """Share of its received bytes, 0 to 1; None before the first."""
    seconds: float | None
    """Remaining seconds, about; None if unknown."""
    why: str
    """The reason for an unknown time, or empty."""


def next_tier(study: StoredStudy, link: SiteLink | None) -> NextTier | None:
    """None for a complete study. link: of the study's site, from `link_status.read_status`."""
    if study.complete:
        return None
    awaited = {tier for tier in study.listed or Tier if tier not in study.sealed_sizes} | study.requested
    if Tier.ORIGINALS in study.sealed_sizes:
        awaited -= {Tier.PREVIEW, Tier.CROPS}  # the originals replace these
    if not awaited:
        return None
    under_way = {
        Tier(each.kind): each
        for each in (link.arriving if link else ())
        if each.study == study.study and each.kind <= 3
    }
    for tier in sorted(awaited):
        each = under_way.get(tier)
        if each is None or link is None:
            continue
        share = each.durable / max(1, each.size)
        if not link.rate:
            return NextTier(tier, share, None, "no data on the link now")
        # Objects of an earlier kind are sent first.
        ahead = sum(a.size - a.durable for a in link.arriving if a.kind < each.kind and a is not each)
        return NextTier(tier, share, (each.size - each.durable + ahead) / link.rate, "")
    tier = min(study.requested or awaited)
    if link is None or not link.connected:
        return NextTier(tier, None, None, "the clinic is not connected")
    return NextTier(
        tier, None, None, "requested, not begun" if tier in study.requested else "at the clinic, not requested"
    )
