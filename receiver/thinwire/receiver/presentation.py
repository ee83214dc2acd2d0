"""Output of the hub's command line: worklist, study and links, for a terminal of 100 columns."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from thinwire.receiver.inference.calibration import PredictionSet
from thinwire.receiver.store.records import StoredFinding, StoredPrediction
from thinwire.receiver.store.worklist import WorklistEntry
from thinwire.receiver.transport.link_status import SiteLink
from thinwire.shared.identifiers import SiteName, Tier, Urgency

COLOUR = {
    Urgency.IMMEDIATE: "bold white on red",
    Urgency.URGENT: "bold red",
    Urgency.UNCERTAIN: "yellow",
    Urgency.ROUTINE: "green",
}
SHORT = 8
"""Hex digits of a study key on the worklist."""
MOST_FINDINGS = 3
"""Findings in one row of the worklist, the likeliest first; `show` has all."""
MOST_PATCHES = 2
"""Patches in the row of a drafted sentence: those with the highest attention."""
LEAST_SHOWN = 0.1
"""Findings below this probability are left out of the worklist's row, except the likeliest."""


def worklist_table(rows: Sequence[WorklistEntry], now: datetime) -> Table:
    """now: for the age of each study."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    table.add_column("urgency", no_wrap=True)
    table.add_column("age", justify="right", no_wrap=True)
    table.add_column("site", no_wrap=True, overflow="ellipsis", max_width=12)
    table.add_column("study", no_wrap=True)
    table.add_column("findings (95 % interval)")
    table.add_column("kept", justify="right", no_wrap=True)
    table.add_column("text", no_wrap=True)
    table.add_column("tiers", no_wrap=True)
    for row in rows:
        study = row.study
        table.add_row(
            urgency_text(row),
            age((now - study.received).total_seconds()),
            study.site,
            study.study.hex()[:SHORT],
            findings_text(study.prediction.findings if study.prediction else {}),
            patches_text(row, "\n"),
            text_source(row),
            tiers_text(row),
        )
    return table


def links_table(serves: bool, links: Sequence[SiteLink], sites: Sequence[SiteName], now: datetime) -> Table:
    """One row for each clinic, and one for each arriving object. sites: all enrolled ones."""
    table = Table(
        title="the hub is running" if serves else "the hub is not running: thinwire-receiver serve",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=0,
    )
    for name in ("site", "link", "last heard", "rate", "study", "tier"):
        table.add_column(name, no_wrap=True)
    table.add_column("durable at the hub", justify="right", no_wrap=True)
    by_site = {link.site: link for link in links}
    for site in sorted({*sites, *by_site}):
        link = by_site.get(site)
        if link is None:
            table.add_row(site, Text("never connected", "dim"))
            continue
        since = age((now - link.since).total_seconds())
        state = Text(f"connected {since}", "green") if link.connected else Text(f"disconnected {since}", "yellow")
        last_heard = f"{age((now - link.last_heard).total_seconds())} ago"
        rate = f"{link.rate / 1000:,.1f} KB/s" if link.rate else ""
        table.add_row(site, state, last_heard, rate)
        for each in link.arriving:
            share = f"{each.durable:,} of {each.size:,} ({100 * each.durable // each.size} %)"
            table.add_row("", "", "", "", each.study.hex()[:SHORT], each.kind.name.lower(), share)
    return table


def study_page(
    row: WorklistEntry,
    now: datetime,
    arriving: Mapping[Tier, str],
    draft: Mapping[str, Any] | None = None,
    warnings: Sequence[str] = (),
    others: Sequence[StoredPrediction] = (),
) -> RenderableType:
    """Everything that the hub knows of one study, without the patient's identity.

    arriving: a label for each tier that is usable already and not received whole. draft: as the hub stores it
    (docs/report-decoder.md). warnings: of the clinic's intake. others: predictions that the worklist does not show.
    """
    study, prediction = row.study, row.study.prediction
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()
    facts.add_row("study", study.study.hex())
    facts.add_row("site", study.site)
    received = study.received.strftime("%Y-%m-%d %H:%M:%S UTC")
    facts.add_row("received", f"{received}, {age((now - study.received).total_seconds())} ago")
    facts.add_row("urgency", urgency_text(row))
    if prediction is not None:
        facts.add_row("because", prediction.reason)
    if study.urgent_asked:
        facts.add_row("", "sent as urgent by the clinic")
    facts.add_row("image", f"{study.modality or '?'} {study.view_position or ''}".strip())
    for number, each in enumerate(warnings):
        facts.add_row("" if number else "warnings", Text(each, "yellow"))
    for addition in study.additions:
        kind = "corrected header" if addition.corrects else "added later"
        state = f"; {addition.decision}" if addition.decision else "; a reader decides" if addition.corrects else ""
        facts.add_row(kind, f"{len(addition.files) or 'no'} files{state}")
    facts.add_row("kept", patches_text(row) + (" of the attention" if study.patches_kept is not None else ""))
    facts.add_row("text", text_source(row))
    for tier in Tier:
        size = study.sealed_sizes.get(tier)
        here = f"arriving: {arriving[tier]}" if tier in arriving else "not received"
        facts.add_row(tier.name.lower(), here if size is None else f"{size:,} bytes on the wire")
    complete = {True: "yes, all listed tiers are stored", False: "not yet", None: "no manifest yet"}
    facts.add_row("complete", complete[study.complete])
    facts.add_row("bundle", "" if study.bundle is None else study.bundle.hex())
    if prediction is None:
        return facts
    table = Table("finding", "probability", "95 % interval", "", "present?")
    for name, (value, low, high, outcome) in _likeliest_first(prediction.findings):
        shown = Text(outcome, "yellow" if outcome is PredictionSet.EITHER else "")
        table.add_row(name, f"{value:.2f}", f"{low:.2f} to {high:.2f}", _bar(value, low, high), shown)
    parts: list[RenderableType] = [facts, "", table]
    if others:
        history = Table("other bundle", "predicted", "urgency", "findings (95 % interval)")
        for other in others:
            said = findings_text(other.findings)
            history.add_row(other.bundle.hex()[:SHORT], other.at.strftime("%Y-%m-%d"), str(other.urgency), said)
        parts += ["", history]
    return Group(*parts, "", *draft_lines(draft, prediction.unfamiliar)) if draft is not None else Group(*parts)


def draft_lines(draft: Mapping[str, Any], unfamiliar: bool) -> list[RenderableType]:
    """The draft, marked as machine-written: each sentence with the patches of its highest attention."""
    kept, side = draft["cells"], draft["side"]
    marked = f"Machine-written draft from {len(kept)} patches of the image alone, unchecked. It may be wrong."
    lines: list[RenderableType] = [Text(marked, "bold yellow")]
    if unfamiliar:
        lines.append(Text("The image is unlike the training images. Do not rely on the draft.", "yellow"))
    if not draft["sentences"]:
        lines.append(Text("The decoder wrote nothing.", "dim"))
        return lines
    table = Table("sentence", "attention on image", "highest at (row, column)")
    for sentence in draft["sentences"]:
        ranked = sorted(zip(sentence["share"], kept, strict=True), key=lambda each: (-each[0], each[1]))
        places = [f"({cell // side}, {cell % side}) {share:.0%}" for share, cell in ranked[:MOST_PATCHES]]
        table.add_row(Text(sentence["text"], "yellow"), f"{sentence['on_image']:.0%}", "\n".join(places))
    return [*lines, table]


def urgency_text(row: WorklistEntry) -> Text:
    if row.urgency is None:
        urgent = "\nsent as urgent" if row.study.urgent_asked else ""
        return Text(f"not triaged{urgent}", "dim")
    text = Text(str(row.urgency), COLOUR[row.urgency])
    if row.done:
        return text.append("\nsigned", "dim")
    return text.append("\noverdue", "yellow") if row.overdue else text


def findings_text(findings: Mapping[str, StoredFinding]) -> str:
    """As `consolidation 0.83 (0.71-0.91) yes`, one a line, the likeliest first."""
    ordered = _likeliest_first(findings)[:MOST_FINDINGS]
    shown = [each for each in ordered if each[1][0] >= LEAST_SHOWN] or ordered[:1]
    return "\n".join(f"{name} {f.probability:.2f} ({f.low:.2f}-{f.high:.2f}) {f.outcome}" for name, f in shown)


def patches_text(row: WorklistEntry, between: str = " patches, ") -> str:
    """As `6/252 patches, 31 %`: kept patches of all, and their share of the attention."""
    study = row.study
    if study.patches_kept is None or study.attention_kept is None:
        return ""
    return f"{study.patches_kept}/{study.patches_total}{between}{100 * study.attention_kept:.0f} %"


def text_source(row: WorklistEntry) -> Text:
    """The source of the text that guided the pruning; generated text stands out."""
    source = row.study.text_source or ""
    return Text(source, "yellow" if row.text_given is False else "")


def tiers_text(row: WorklistEntry) -> str:
    """The tiers that are stored; `all` if none that the clinic listed is missing."""
    return "all" if row.study.complete else "\n".join(tier.name.lower() for tier in row.study.sealed_sizes)


def _likeliest_first(findings: Mapping[str, StoredFinding]) -> list[tuple[str, StoredFinding]]:
    return sorted(findings.items(), key=lambda each: (-each[1][0], each[0]))


def _bar(value: float, low: float, high: float, width: int = 30) -> Text:
    """The interval as a line, the probability as a mark on it."""
    first, last, mark = (min(width - 1, int(v * width)) for v in (low, high, value))
    cells = ["│" if n == mark else "─" if first <= n <= last else "·" for n in range(width)]
    return Text("".join(cells), "cyan")


def age(seconds: float) -> str:
    """A time for people: "12 s", "3 min", "5 h", "2 d"."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(max(0, seconds))} s"
