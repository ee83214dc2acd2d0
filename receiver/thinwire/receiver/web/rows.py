"""The worklist as a page shows it: rows with texts and numbers, filters, search, pagination."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from thinwire.receiver.inference.calibration import PredictionSet
from thinwire.receiver.inference.triage import ORDER
from thinwire.receiver.presentation import LEAST_SHOWN, MOST_FINDINGS, age
from thinwire.receiver.store.content import patient_of_number
from thinwire.receiver.store.records import StoredFinding, StoredStudy
from thinwire.receiver.store.worklist import WorklistEntry
from thinwire.receiver.transport.link_status import SiteLink
from thinwire.receiver.transport.next_tier import NextTier, next_tier
from thinwire.shared.identifiers import SiteName, Tier, Urgency

PAGE = 40
"""Rows of a page."""
MOST_FOUND = 200
"""Rows that a search shows."""
BAR = 96
"""Width of an interval's bar, in its own units."""

STATES = ("waiting", "new", "opened", "preliminary", "read", "all")
"""Which studies are shown: those without a signed report, not opened yet, opened, with a preliminary, signed, all."""


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
    state: str = "waiting"
    urgency: str = ""
    site: str = ""
    page: int = 1

    def matches(self, entry: WorklistEntry) -> bool:
        study = entry.study
        if self.urgency and str(entry.urgency or "") != self.urgency:
            return False
        if self.site and study.site != self.site:
            return False
        match self.state:
            case "all":
                return True
            case "read":
                return entry.done
            case "new":
                return not entry.done and not study.opened and study.report is None
            case "opened":
                return not entry.done and study.opened
            case "preliminary":
                return not entry.done and study.report is not None and study.report.value == "preliminary"
            case _:
                return not entry.done

    def query(self, **change: str | int) -> str:
        """The address of the list with these changes, at its first page unless given."""
        values = {"state": self.state, "urgency": self.urgency, "site": self.site, "page": 1, **change}
        plain = {"state": "waiting", "urgency": "", "site": "", "page": 1}
        query = "&".join(f"{name}={value}" for name, value in values.items() if value != plain[name])
        return f"/?{query}" if query else "/"


def filter_of(state: str, urgency: str, site: str, page: int, sites: Sequence[SiteName]) -> Filter:
    """The filter that the parameters of an address give; an unknown value counts as not given."""
    return Filter(
        state if state in STATES else "waiting",
        urgency if urgency in [str(each) for each in Urgency] else "",
        site if site in sites else "",
        max(1, page),
    )


@dataclass(frozen=True)
class WorklistPage:
    """One page of the worklist."""

    rows: tuple[WorklistRow, ...] = field(repr=False)
    found: int
    """Rows that match the filter, on all pages."""
    pages: int
    page: int
    waiting: int
    """Studies without a signed report, whatever the filter."""
    overdue: int
    longest: str | None
    """The longest waiting time of these."""
    counts: Mapping[str, int]
    """Of those, by urgency."""
    cap: str


def worklist_page(
    entries: Sequence[WorklistEntry], chosen: Filter, links: Mapping[SiteName, SiteLink], now: datetime, cap: timedelta
) -> WorklistPage:
    """entries: all, in the order of the worklist."""
    left = [entry for entry in entries if chosen.matches(entry)]
    pages = max(1, -(-len(left) // PAGE))
    page = min(chosen.page, pages)
    return _page(entries, left[(page - 1) * PAGE : page * PAGE], len(left), pages, page, links, now, cap)


def search(
    entries: Sequence[WorklistEntry], query: str, links: Mapping[SiteName, SiteLink], now: datetime, cap: timedelta
) -> WorklistPage:
    """Studies in which every word of the query is found: in the site, the study key, the urgency with its reason, a
    finding that is suspected or uncertain, the view or the state; or whose patient's number is the query."""
    wanted = query.lower().split()
    found = [entry for entry in entries if wanted and all(word in _search_text(entry) for word in wanted)]
    number = query.strip()
    if number:
        also = [entry for entry in entries if entry.study.patient == patient_of_number(entry.study.site, number)]
        found += [entry for entry in also if entry not in found]
    return _page(entries, found[:MOST_FOUND], len(found), 1, 1, links, now, cap)


def _search_text(entry: WorklistEntry) -> str:
    study = entry.study
    texts = [study.site, study.study.hex(), str(entry.urgency or "not triaged"), study.text_source or ""]
    texts += [study.modality or "", study.view_position or "", str(study.report or "")]
    if study.prediction is not None:
        texts.append(study.prediction.reason)
        texts += [name for name, found in study.prediction.findings.items() if found.outcome is not PredictionSet.NO]
    return " ".join(texts).lower()


def _page(
    entries: Iterable[WorklistEntry],
    shown: Sequence[WorklistEntry],
    found: int,
    pages: int,
    page: int,
    links: Mapping[SiteName, SiteLink],
    now: datetime,
    cap: timedelta,
) -> WorklistPage:
    waiting = [entry for entry in entries if not entry.done]
    oldest = min((entry.study.received for entry in waiting), default=None)
    counts = {str(each): sum(entry.urgency is each for entry in waiting) for each in ORDER}
    return WorklistPage(
        tuple(WorklistRow(entry, now, links.get(entry.study.site)) for entry in shown),
        found,
        pages,
        page,
        len(waiting),
        sum(entry.overdue for entry in waiting),
        None if oldest is None else age((now - oldest).total_seconds()),
        counts,
        duration(cap.total_seconds()),
    )
