"""Output of the clinic's command line: tables, live progress, JSON."""

import json
import os
import resource
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console, Group
from rich.live import Live as RichLive
from rich.markup import escape
from rich.table import Table

from thinwire.sender.config import SenderConfig
from thinwire.sender.execution import choose_provider
from thinwire.sender.intake.addition import Addition
from thinwire.sender.intake.source import file_members
from thinwire.sender.intake.study import Study
from thinwire.sender.outbox.deletion import safety
from thinwire.sender.outbox.earlier_rows import Forwarded
from thinwire.sender.outbox.entries import Due, EntryState, OutboxEntry, Part, PartState, totals_of
from thinwire.sender.outbox.outbox import Outbox
from thinwire.sender.outbox.policy import CurrentPolicy
from thinwire.sender.outbox.study_store import Unreadable
from thinwire.sender.outbox.tables import CLINIC
from thinwire.sender.outbox.tiers import ORDER
from thinwire.sender.pipeline import GraphMaker, GraphResult, crops_of, preview_of
from thinwire.sender.service import Accepted, RefusedStudy
from thinwire.sender.transport import link_status as link_status_file
from thinwire.sender.transport.credentials import left_of, renewal_time, warned_time
from thinwire.sender.transport.link_status import LinkState, LinkStatus
from thinwire.sender.transport.offline import ExportResult, ReplyImport
from thinwire.sender.transport.progress import TierProgress, by_tier
from thinwire.shared.clock import SystemClock
from thinwire.shared.crypto.envelope import EpochKey, Kind, seal
from thinwire.shared.drawing import draw
from thinwire.shared.formats.graph import Assertion
from thinwire.shared.formats.originals import pack
from thinwire.shared.formats.receipts import StudyStatus
from thinwire.shared.identifiers import EpochId, SiteName, StudyKey

if TYPE_CHECKING:
    from PIL.Image import Image

STILL = LinkStatus(LinkState.STOPPED)
_STYLE = {
    PartState.MISSING: "dim",
    PartState.HELD: "dim",
    PartState.WAITING: "yellow",
    PartState.STORED: "green",
    PartState.REFUSED: "red",
    PartState.ABSENT: "red",
}


def bytes_text(count: float) -> str:
    """A size for people: 1,045 B, 12.3 KB, 4.1 MB."""
    if count < 10_000:
        return f"{count:,.0f} B"
    return f"{count / 1e3:,.1f} KB" if count < 1e6 else f"{count / 1e6:,.1f} MB"


def provider(config: SenderConfig) -> str:
    return choose_provider(config.provider)


def print_outcome(outcome: Accepted | RefusedStudy, out: Console, err: Console) -> None:
    """One line for an accepted or refused study, as soon as that is known."""
    match outcome:
        case Accepted(study, entry):
            again = "" if entry.status is None else f" (known here; {entry.status})"
            if isinstance(study, Addition):
                known = study.adds_to == study.key
                text = "accepted before" if known else f"added to study {study.adds_to.hex()[:12]}"
            else:
                text = study.text_source if study.text is not None else "no text: the decoder generates one"
            out.print(f"accepted  {study.key.hex()[:12]}  {len(study.files)} file(s), {text}{again}", highlight=False)
            for warning in study.warnings:
                out.print(f"          note: {warning}", style="yellow", highlight=False, markup=False)
        case RefusedStudy(error, quarantined):
            err.print(f"[bold red]refused[/bold red]   {escape(str(error))}", highlight=False)
            err.print(f"          {escape(error.remedy)} ({quarantined} file(s) in quarantine)", highlight=False)


def exported_json(done: ExportResult, unmade: int) -> dict[str, Any]:
    """The output of `export --json`. unmade: parts that are still being made."""
    objects = {"written": done.written, "there_already": done.there, "damaged_here": done.damaged}
    rows = {
        name: [
            {"object": due.object.hex(), "study": due.study.hex(), "kind": _kind(due), "bytes": due.size}
            for due in dues
        ]
        for name, dues in objects.items()
    }
    return {**rows, "without_room": done.not_written, "not_made_yet": unmade}


def _studies(number: int) -> str:
    return "1 study" if number == 1 else f"{number} studies"


def show_exported(done: ExportResult, unmade: int, folder: Path, out: Console) -> None:
    studies = {due.study for due in (*done.written, *done.there)}
    size = bytes_text(sum(due.size for due in done.written))
    out.print(f"{len(done.written)} objects written, {size}; {len(done.there)} were there; {_studies(len(studies))}")
    if done.damaged:
        out.print(f"{len(done.damaged)} parts are damaged and are made again: repeat the command later")
    if unmade:
        out.print(f"{unmade} parts are not made yet: repeat the command when `status` shows them as waiting")
    if done.not_written:
        out.print(f"{done.not_written} objects have no space on the stick")
    if studies:
        out.print(f"At the hub: thinwire-receiver import {folder} --data HUB", highlight=False, soft_wrap=True)


def imported_json(done: ReplyImport) -> dict[str, Any]:
    """The output of `import --json`."""
    return {
        "receipts": [
            {"study": r.study.hex(), "status": r.status, "object": r.object.hex() if r.object else None}
            for r in done.receipts
        ],
        "requests": done.requests,
        "requests_for_unknown_studies": done.forgotten,
        "replies_to_others": done.foreign,
        "refused": [str(error) for error in done.refused],
        "objects_removed_from_stick": done.cleared,
    }


def show_imported(done: ReplyImport, out: Console) -> None:
    counts = Counter(receipt.status for receipt in done.receipts)
    said = ", ".join(f"{counts[status]} {status}" for status in StudyStatus if counts[status])
    out.print(f"{len(done.receipts)} receipts{f': {said}' if said else ''}; {done.requests} requests")
    if done.cleared:
        out.print(f"{done.cleared} objects have arrived and were removed from the stick")
    if done.requests:
        out.print("The requested tiers are sent over the link, or by the next export")
    if done.foreign:
        out.print(f"{done.foreign} replies are not for this clinic and stay on the stick")
    for error in done.refused:
        out.print(f"refused: {error}. {error.remedy}", style="bold red", markup=False, highlight=False)


def forwarded_json(done: Forwarded) -> dict[str, Any]:
    """The output of `migrate --json`."""
    counts = {"studies": done.studies, "objects": done.objects, "refused_files": done.refused}
    return {
        "found": done.found,
        "program": CLINIC.version,
        "needed": done.needed,
        **counts,
        "unreadable": done.unreadable,
        "copy": None if done.copy is None else str(done.copy),
    }


def show_forwarded(done: Forwarded, check: bool, out: Console) -> None:
    if not done.needed and not done.unreadable:
        out.print("The data folder is of this version of thinwire.")
        return
    held = f"{_studies(done.studies)}, {done.objects} objects from modalities, {done.refused} refused files"
    out.print(f"{'Can be brought' if check else 'Brought'} forward: {held}", highlight=False)
    if done.copy is not None:
        out.print(f"A copy of the database of version {done.found} is in {done.copy}", highlight=False)
    if done.unreadable:
        told = "see the lines above" if check else "`thinwire-sender status` lists it"
        out.print(f"[bold yellow]Cannot be read, and is kept: {done.unreadable}[/]; {told}", highlight=False)


UNREADABLE = (
    "Restore it from a backup, or install the version of thinwire that wrote it; then run `thinwire-sender migrate`."
)
"""The remedy for what this version cannot read."""


def unreadable_json(found: Unreadable) -> dict[str, str]:
    return {"path": found.path, "reason": found.reason, "remedy": UNREADABLE}


def show_unreadable(found: Sequence[Unreadable], out: Console) -> None:
    """Everything at the clinic that this version cannot read, with its reason; nothing for none."""
    if found:
        out.print(f"[bold yellow]Cannot be read, and is kept: {len(found)}[/]", highlight=False)
        for each in found:
            out.print(f"  {each.path}: {each.reason}", markup=False, highlight=False)
        out.print(UNREADABLE, highlight=False)


def _kind(due: Due) -> str:
    return "epoch" if due.kind is None else due.kind.name.lower()


def outcomes_json(outcomes: Sequence[Accepted | RefusedStudy], outbox: Outbox) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for outcome in outcomes:
        match outcome:
            case Accepted(study, _):
                entry = outbox.entry(study.key)
                size = sum(len(file.data) for file in study.files)
                rows.append(
                    {
                        "accepted": True,
                        "source_bytes": size,
                        "warnings": list(study.warnings),
                        **entry_json(entry, outbox),
                    }
                )
            case RefusedStudy(error, quarantined):
                what = {"error": type(error).__name__, "what": str(error), "remedy": error.remedy}
                rows.append({"accepted": False, **what, "quarantined_files": quarantined})
    return rows


def entry_json(
    entry: OutboxEntry, outbox: Outbox, waits: Mapping[tuple[StudyKey, Kind], str] = MappingProxyType({})
) -> dict[str, Any]:
    """A study at the clinic, as `status --json` gives it. waits: why parts wait (`CurrentPolicy.waits`)."""
    return {
        "study": entry.study.hex(),
        "accepted_at": entry.accepted.isoformat(),
        "urgent": entry.urgent,
        "paused": entry.paused,
        "adds_to": None if entry.adds_to is None else entry.adds_to.hex(),
        "warnings": list(entry.warnings),
        "state": entry.state,
        "hub": entry.status,
        "safety": safety(entry, outbox.history()),
        "parts": {
            part.kind.name.lower(): {
                "state": part.state,
                "bytes": part.size or None,
                "reason": part.reason or None,
                "waits": waits.get((entry.study, part.kind)),
            }
            for part in entry.parts
        },
        "result": result(entry, outbox),
    }


def result(entry: OutboxEntry, outbox: Outbox) -> dict[str, Any] | None:
    """The result of the hub's triage, from its signed receipt."""
    triaged = outbox.receipts(entry.study, StudyStatus.TRIAGED)
    found: dict[str, Any] | None = json.loads(triaged[-1].detail) if triaged else None
    return found


def status_table(
    entries: Sequence[OutboxEntry],
    outbox: Outbox,
    link: LinkStatus = STILL,
    waits: Mapping[tuple[StudyKey, Kind], str] = MappingProxyType({}),
) -> Table:
    """One row a study: its parts with their state, and the hub's result. link: the transfers in progress; waits: the
    reasons for waiting (`CurrentPolicy.waits`)."""
    crossing = {(c.study, c.kind): f"{100 * c.durable // max(1, c.size)} % of" for c in link.transfers}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("study", "accepted", "parts", "at the hub"):
        table.add_column(name, no_wrap=name in ("study", "accepted"))
    for entry in entries:
        accepted = entry.accepted.astimezone().strftime("%d %b %H:%M:%S")
        mark = (" [red]urgent[/red]" if entry.urgent else "") + (" [yellow]paused[/yellow]" if entry.paused else "")
        groups: dict[tuple[str, str, str], list[str]] = {}
        for part in sorted(entry.parts, key=lambda each: ORDER.index(each.kind)):
            here = (entry.study, part.kind)
            group, name = _part_label(part, crossing.get(here), waits.get(here))
            groups.setdefault(group, []).append(name)
        parts = "\n".join(
            f"[{style}]{said} {', '.join(names)}{reason}[/]" for (style, said, reason), names in groups.items()
        )
        if entry.adds_to is not None:
            mark += f"\n  [dim]added to {entry.adds_to.hex()[:12]}[/dim]"
        table.add_row(entry.study.hex()[:12] + mark, accepted, parts, _hub_cell(entry, outbox))
    if not entries:
        table.add_row("no study here")
    return table


def states_text(states: Mapping[EntryState, int]) -> str:
    """Number of studies by state, as "1,204 studies: 2 accepted, 1,202 arrived"."""
    counts = ", ".join(f"{count:,} {state}" for state, count in states.items() if count)
    return f"{sum(states.values()):,} studies{f': {counts}' if counts else ''}"


def tiers_table(tiers: Sequence[TierProgress], link: LinkStatus) -> Table:
    """One row a tier: parts at the hub; bytes sent and durable of the others; remaining time; reasons for waiting."""
    table = Table(box=None, pad_edge=False, header_style="bold", caption_justify="left")
    table.add_column("tier", no_wrap=True)
    for name in ("at the hub", "open", "sent", "durable", "of", "there in"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("waits")
    for tier in tiers:
        sizes = [bytes_text(size) if tier.open else "" for size in (tier.sent, tier.durable, tier.size)]
        table.add_row(
            tier.kind.name.lower(),
            str(tier.stored),
            str(tier.open or ""),
            *sizes,
            "" if tier.seconds is None else seconds_text(tier.seconds),
            "; ".join(f"{count} {reason}" for reason, count in sorted(tier.waits.items())),
        )
    table.caption = link_text(link)
    return table


def link_text(link: LinkStatus) -> str:
    """Text such as "link connected, 7,950 B/s, round trip 0.66 s"."""
    rate = f", {bytes_text(link.rate)}/s" if link.rate else ""
    trip = f", round trip {link.round_trip:.2f} s" if link.round_trip is not None else ""
    reason = f": {escape(link.reason)}" if link.reason else ""
    return f"link {link.state}{rate}{trip}{reason}"


def link_json(link: LinkStatus) -> dict[str, Any]:
    return {
        "state": link.state,
        "reason": link.reason or None,
        "bytes_per_second": link.rate and round(link.rate),
        "round_trip_seconds": link.round_trip and round(link.round_trip, 3),
        "crossing": [
            {
                "study": each.study.hex(),
                "tier": None if each.kind is None else each.kind.name.lower(),
                "sent": each.sent,
                "durable": each.durable,
                "bytes": each.size,
            }
            for each in link.transfers
        ],
    }


def certificate_text(certificate: bytes, now: datetime) -> str:
    """The end of the clinic's certificate (PEM), as a warning where there is one."""
    if warning := certificate_warning(certificate, now):
        return f"[bold yellow]{warning}[/]"
    ends = now + left_of(certificate, now)
    return f"Certificate: until {ends:%Y-%m-%d}, renewed from {renewal_time(certificate):%Y-%m-%d} on"


def certificate_warning(certificate: bytes, now: datetime) -> str:
    """What to do for a certificate (PEM) that has ended, or was not renewed for long; empty for any other."""
    left = left_of(certificate, now)
    if left <= timedelta(0):
        return (
            f"The certificate ended on {now + left:%Y-%m-%d}: ask the hub for a new token, and join again with this "
            "data folder. Studies wait in it."
        )
    if now >= warned_time(certificate):
        return f"The certificate ends on {now + left:%Y-%m-%d} and is not renewed yet: it needs the link to the hub."
    return ""


def seconds_text(seconds: float) -> str:
    """A time for people: 8 s, 3 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _part_label(part: Part, crossing: str | None, waits: str | None) -> tuple[tuple[str, str, str], str]:
    """((style, state, reason), the part with its size): parts that agree in the first are in one line."""
    size = f" {bytes_text(part.size)}" if part.size else ""
    reason = part.reason or (waits if part.state is PartState.WAITING and not crossing else "")
    shown = f" ({escape(reason)})" if reason else ""
    return (_STYLE[part.state], crossing or part.state.value, shown), f"{part.kind.name.lower()}{size}"


def _hub_cell(entry: OutboxEntry, outbox: Outbox) -> str:
    found = result(entry, outbox)
    safe = safety(entry, outbox.history())
    where = f"\n[dim]{safe}[/dim]" if safe else ""
    if found is None:
        return f"{entry.status or ''}{where}"
    findings = [(name, p) for name, p in found.get("findings", {}).items()]
    top = sorted(findings, key=lambda each: -each[1][0])[:2]
    shown = ", ".join(f"{name} {p[0]:.2f} ({p[1]:.2f}-{p[2]:.2f})" for name, p in top)
    return f"[bold]{found.get('urgency', '')}[/bold] {shown}{where}"


class LiveProgress:
    """A live table of the outbox and the link."""

    def __init__(
        self,
        view: RichLive | None,
        outbox: Outbox,
        studies: Sequence[StudyKey],
        current_policy: Callable[[], CurrentPolicy],
    ) -> None:
        self._view = view
        self._outbox = outbox
        self._studies = studies
        self._current_policy = current_policy
        self._link: LinkStatus | None = None

    def link(self, status: LinkStatus) -> None:
        """Called by the uplink of this process with each change."""
        self._link = status

    def refresh(self) -> None:
        if self._view is None:
            return
        current_policy = self._current_policy()
        entries = [self._outbox.entry(study) for study in self._studies]
        link = self._link or link_status_file.read_status(self._outbox.folder, current_policy.now)
        table = status_table(entries, self._outbox, link, current_policy.waits(entries))
        due = [each for entry in entries for each in entry.due()]
        self._view.update(Group(table, "", tiers_table(by_tier(totals_of(entries), due, link, current_policy), link)))


@contextmanager
def live(
    console: Console,
    quiet: bool,
    outbox: Outbox,
    studies: Sequence[StudyKey],
    current_policy: Callable[[], CurrentPolicy],
) -> Iterator[LiveProgress]:
    """Live progress on a terminal; no output otherwise, or if `quiet`."""
    if quiet or not console.is_terminal:
        yield LiveProgress(None, outbox, studies, current_policy)
        return
    with RichLive(console=console, refresh_per_second=5, transient=True) as view:
        yield LiveProgress(view, outbox, studies, current_policy)


def inspection(study: Study, made: GraphResult, maker: GraphMaker, before: Mapping[str, float]) -> dict[str, Any]:
    """The output of `inspect --json`. Sizes are of the sealed tiers; milliseconds are wall time."""
    graph = made.graph
    names = [concept.name for concept in maker.bundle.spec.concepts]
    # A temporary key: only the sealed sizes are used.
    epoch = EpochKey(EpochId(bytes(8)), SiteName("nowhere"), os.urandom(32), SystemClock().now())
    parts = {
        Kind.GRAPH: made.payload,
        Kind.PREVIEW: preview_of(study.frontal, maker.config.preview_bytes),
        Kind.CROPS: crops_of(study.frontal, graph),
        Kind.ORIGINALS: pack(file_members(study.files), "small"),
    }
    sealed = {kind.name.lower(): len(seal(epoch, kind, study.key, part)) for kind, part in parts.items()}
    order = np.argsort(-graph.patches.score)
    return {
        "study": study.key.hex(),
        "bundle": {"name": maker.bundle.spec.name, "id": maker.bundle.id.hex()},
        "execution_provider": maker.encoder.provider,
        "image": {
            "height": graph.grid.native_height,
            "width": graph.grid.native_width,
            "modality": graph.modality,
            "view_position": graph.view_position,
            "spacing_mm": study.frontal.spacing_mm,
            "spacing_kind": study.frontal.display.spacing_kind.name.lower(),
            "orientation": study.frontal.display.orientation,
            "file": {"place": study.read, "sop_instance_uid": study.sop_instance_uid},
        },
        "working_size": graph.grid.working_size,
        "text_source": graph.text_source,
        "text_given": graph.text_given,
        "generated_text": None if made.guidance.text == study.text else made.guidance.text,
        "policy": str(maker.policy),
        "patches": {"kept": len(graph.patches.cell), "total": graph.total_patches},
        "attention_kept": round(graph.attention_kept, 4),
        "attention_on_null_keys": round(made.guidance.null_share, 4),
        "kept": [
            {
                "cell": int(graph.patches.cell[n]),
                "box": graph.grid.native_box(int(graph.patches.cell[n])),
                "share": round(float(graph.patches.score[n]), 4),
            }
            for n in order
        ],
        "concepts": [
            {"name": names[c], "assertion": Assertion(a).name.lower()}
            for c, a in zip(graph.concepts.concept.tolist(), graph.concepts.assertion.tolist(), strict=True)
        ],
        "bytes": {"source": sum(len(file.data) for file in study.files), **sealed},
        "milliseconds": {name: round(ms, 2) for name, ms in {**before, **made.milliseconds}.items()},
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "warnings": list(study.warnings),
    }


def show_inspection(facts: Mapping[str, Any], out: Console) -> None:
    """The output of `inspect` as text."""
    image, patches, sizes = facts["image"], facts["patches"], facts["bytes"]
    view = image["view_position"] or "view not stated"
    out.print(f"[bold]{image['modality']} {view}[/bold], {image['height']} x {image['width']} pixels", highlight=False)
    out.print(
        f"kept {patches['kept']} of {patches['total']} patches with {facts['attention_kept']:.0%} of the attention "
        f"on the image; text {facts['text_source']}",
        highlight=False,
    )
    if facts["generated_text"]:
        out.print(f"generated by the decoder: {facts['generated_text']}", style="italic", highlight=False, markup=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("patch", "x, y, width, height", "share of attention"):
        table.add_column(name)
    for each in facts["kept"]:
        table.add_row(str(each["cell"]), ", ".join(map(str, each["box"])), f"{each['share']:.1%}")
    out.print(table)
    if facts["concepts"]:
        out.print(
            "concepts: " + ", ".join(f"{c['name']} ({c['assertion']})" for c in facts["concepts"]), highlight=False
        )
    out.print(
        "bytes sealed: "
        + ", ".join(f"{tier} {bytes_text(size)}" for tier, size in sizes.items() if tier != "source")
        + f"; the files as given {bytes_text(sizes['source'])}",
        highlight=False,
    )
    spent = ", ".join(f"{name} {ms:.0f}" for name, ms in facts["milliseconds"].items())
    out.print(f"milliseconds: {spent}; peak memory {facts['peak_memory_mb']:.0f} MB", style="dim", highlight=False)
    for warning in facts["warnings"]:
        out.print(f"note: {warning}", style="yellow", highlight=False, markup=False)


def picture(study: Study, made: GraphResult, maker: GraphMaker) -> "Image":
    """The radiograph with its kept patches, and the graph beside it."""
    names = [concept.name for concept in maker.bundle.spec.concepts]
    return draw(made.graph, names, study.frontal.shown)
