"""When the next part of a study will be here, from the rate at which the clinic's link carries now."""

from dataclasses import dataclass

from thinwire.receiver.store.records import StoredStudy
from thinwire.receiver.transport.link_status import SiteLink
from thinwire.shared.identifiers import Tier


@dataclass(frozen=True)
class NextTier:
    """The next part of a study that is not here whole."""

    tier: Tier
    share: float | None
    """Of its bytes that are here, 0 to 1; None where none is."""
    seconds: float | None
    """About how long still; None where nothing can be said."""
    why: str
    """Why nothing can be said, or empty."""


def next_tier(study: StoredStudy, link: SiteLink | None) -> NextTier | None:
    """None where nothing more is to come. link: of the study's site, as `link_status.read_status` gives it."""
    if study.complete:
        return None
    awaited = {tier for tier in study.listed or Tier if tier not in study.sealed_sizes} | study.requested
    if Tier.ORIGINALS in study.sealed_sizes:
        awaited -= {Tier.PREVIEW, Tier.CROPS}  # the originals hold what these show
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
            return NextTier(tier, share, None, "the link carries nothing now")
        # What is of an earlier kind overtakes it.
        ahead = sum(a.size - a.durable for a in link.arriving if a.kind < each.kind and a is not each)
        return NextTier(tier, share, (each.size - each.durable + ahead) / link.rate, "")
    tier = min(study.requested or awaited)
    if link is None or not link.connected:
        return NextTier(tier, None, None, "the clinic is not connected")
    return NextTier(
        tier, None, None, "requested, not begun" if tier in study.requested else "at the clinic, not requested"
    )
