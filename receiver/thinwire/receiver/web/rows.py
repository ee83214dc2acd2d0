"""The worklist as a page shows it: rows with texts and numbers, filters, search, pagination."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from thinwire.receiver.inference.calibration import PredictionSet
from thinwire.receiver.presentation import LEAST_SHOWN, MOST_FINDINGS, age
from thinwire.receiver.store.records import StoredFinding, StoredStudy
from thinwire.receiver.store.worklist import WorklistEntry
from thinwire.receiver.store.worklist_order import ListState, Position, Selection, position_of
from thinwire.receiver.store.worklist_query import Count, Counts, Worklist
from thinwire.receiver.transport.link_status import SiteLink
from thinwire.receiver.transport.next_tier import NextTier, next_tier
from thinwire.shared.identifiers import SiteName, Tier, Urgency

PAGE = 40
"""Rows of a page."""
MOST_FOUND = 100
"""Rows that a search shows."""
BAR = 96
"""Width of an interval's bar, in its own units."""

_MEANING = {PredictionSet.YES: "suspected", PredictionSet.NO: "not suspected", PredictionSet.EITHER: "uncertain"}


@dataclass(frozen=True)
class Bar:
    """One finding with its interval, as numbers of a bar BAR wide."""

    name: str
    found: StoredFinding

    @property
    def low(self) -> float:
        return round(self.found.low * BAR, 1)

    @property
    def width(self) -> float:
        return round(max(1.5, (self.found.high - self.found.low) * BAR), 1)

    @property
    def at(self) -> float:
        return round(self.found.probability * BAR, 1)

    @property
    def numbers(self) -> tuple[str, str, str]:
        """Probability, low, high as they are shown."""
        return (
            probability_text(self.found.probability),
            probability_text(self.found.low),
            probability_text(self.found.high),
        )

    @property
    def label(self) -> str:
        value, low, high = self.numbers
        return f"{value}, 95 % interval {low} to {high}, {_MEANING[self.found.outcome]}"


def probability_text(probability: float) -> str:
    """Two digits; never rounded to 0 or 1."""
    return "<0.01" if probability < 0.01 else ">0.99" if probability > 0.99 else f"{probability:.2f}"


@dataclass(frozen=True)
class WorklistRow:
    """One row of the list."""

    entry: WorklistEntry
    now: datetime
    link: SiteLink | None

    @property
    def study(self) -> StoredStudy:
        return self.entry.study

    @property
    def key(self) -> str:
        return f"{self.study.site}/{self.study.study.hex()}"

    @property
    def short(self) -> str:
        return self.study.study.hex()[:8]

    @property
    def age(self) -> str:
        return age((self.now - self.study.received).total_seconds())

    @property
    def urgency(self) -> str:
        return str(self.entry.urgency or "not triaged")

    @property
    def reason(self) -> str:
        if self.study.prediction is not None:
            return self.study.prediction.reason
        return "sent as urgent by the clinic; no prediction yet" if self.study.urgent_asked else "no prediction yet"

    @property
    def bars(self) -> list[Bar]:
        every = bars(self.study)
        return [each for each in every[:MOST_FINDINGS] if each.found.probability >= LEAST_SHOWN] or every[:1]

    @property
    def kept(self) -> str:
        """Share of the image's cells that were kept, as "2.4 %"."""
        kept, total = self.study.patches_kept, self.study.patches_total
        return f"{100 * kept / total:.1f} %" if kept is not None and total else ""

    @property
    def tiers(self) -> list[tuple[Tier, str]]:
        """Each tier with its state: received, transferring, requested, not needed or not received."""
        return [(tier, self._tier_state(tier)) for tier in Tier]

    def _tier_state(self, tier: Tier) -> str:
        next_ = self.next_tier
        if tier in self.study.sealed_sizes:
            return "received"
        if Tier.ORIGINALS in self.study.sealed_sizes:
            return "not needed"
        if next_ is not None and next_.tier is tier and next_.share is not None:
            return "transferring"
        return "requested" if tier in self.study.requested else "not received"

    @property
    def next_tier(self) -> NextTier | None:
        return next_tier(self.study, self.link)

    @property
    def next_label(self) -> str:
        return next_tier_label(self.next_tier, self.study)

    @property
    def state(self) -> str:
        """The state of its report: new, opened, draft, preliminary or signed."""
        if self.entry.done:
            return "signed"
        return str(self.study.report) if self.study.report else "opened" if self.study.opened else "new"


def bars(study: StoredStudy) -> list[Bar]:
    """Every finding, the likeliest first."""
    found = {} if study.prediction is None else study.prediction.findings
    return [Bar(name, f) for name, f in sorted(found.items(), key=lambda each: (-each[1].probability, each[0]))]


def next_tier_label(next_: NextTier | None, study: StoredStudy) -> str:
    """The tier that arrives next, and when, in a few words."""
    if next_ is None:
        return "complete" if study.complete else "all listed tiers received"
    name = next_.tier.name.lower()
    if next_.seconds is not None:
        return f"{name} {100 * (next_.share or 0):.0f} %, about {duration(next_.seconds)}"
    return f"{name}: {next_.why}"


def duration(seconds: float) -> str:
    """A time to wait, for people: "8 s", "3 min", "2.5 h"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h".replace(".0 h", " h")


@dataclass(frozen=True)
class Filter:
    """The list that an address asks for, and the position at which its page begins or ends."""

    selection: Selection = field(default_factory=Selection)
    after: Position | None = None
    before: Position | None = None

    @property
    def state(self) -> str:
        return str(self.selection.state)

    @property
    def urgency(self) -> str:
        return str(self.selection.urgency or "")

    @property
    def site(self) -> str:
        return str(self.selection.site or "")

    def query(self, **change: object) -> str:
        """The address of the list with these changes, at its first page unless given."""
        values = {"state": self.state, "urgency": self.urgency, "site": self.site, **change}
        query = "&".join(f"{name}={value}" for name, value in values.items() if value and value != _PLAIN.get(name))
        return f"/?{query}" if query else "/"


_PLAIN = {"state": str(ListState.WAITING)}


def filter_of(state: str, urgency: str, site: str, after: str, before: str, sites: Sequence[SiteName]) -> Filter:
    """The filter that the parameters of an address give; an unknown value counts as not given."""
    selection = Selection(
        ListState(state) if state in list(ListState) else ListState.WAITING,
        Urgency(urgency) if urgency in list(Urgency) else None,
        SiteName(site) if site in sites else None,
    )
    starts, ends = (
        None if at is None or selection.site not in (None, at.site) else at
        for at in (position_of(after), position_of(before))
    )
    return Filter(selection, starts, ends)


@dataclass(frozen=True)
class WorklistPage:
    """One page of the worklist, or the result of a search."""

    rows: tuple[WorklistRow, ...] = field(repr=False)
    found: Count
    """Studies that match the filter or the search, on all pages."""
    earlier: Position | None
    later: Position | None
    counts: Counts
    longest: str | None
    """The longest waiting time of an unread study."""
    cap: str


def worklist_page(
    worklist: Worklist, chosen: Filter, links: Mapping[SiteName, SiteLink], now: datetime, cap: timedelta
) -> WorklistPage:
    page = worklist.page(chosen.selection, now, PAGE, chosen.after, chosen.before)
    return _page(worklist, page.entries, Count(page.selected), page.earlier, page.later, links, now, cap)


def search_page(
    worklist: Worklist, query: str, links: Mapping[SiteName, SiteLink], now: datetime, cap: timedelta
) -> WorklistPage:
    """As `Worklist.search`."""
    found = worklist.search(query, now, MOST_FOUND)
    return _page(worklist, found.entries, found.count, None, None, links, now, cap)


def _page(
    worklist: Worklist,
    entries: Sequence[WorklistEntry],
    found: Count,
    earlier: Position | None,
    later: Position | None,
    links: Mapping[SiteName, SiteLink],
    now: datetime,
    cap: timedelta,
) -> WorklistPage:
    counts = worklist.counts(now)
    return WorklistPage(
        tuple(WorklistRow(entry, now, links.get(entry.study.site)) for entry in entries),
        found,
        earlier,
        later,
        counts,
        None if counts.oldest is None else age((now - counts.oldest).total_seconds()),
        duration(cap.total_seconds()),
    )
