"""The clinic's command line. Docs: docs/architecture.md; exit codes: thinwire.shared.errors."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.live import Live as RichLive

from thinwire.sender import presentation
from thinwire.sender.clinic import JoinedClinic, bring_clinic_forward, open_clinic, outbox_of
from thinwire.sender.config import SenderConfig, read_config, read_when
from thinwire.sender.enrolment import join as join_hub
from thinwire.sender.graph.pruning import KeepAbove, KeepPercent, Policy
from thinwire.sender.intake.deidentify import MEANINGS
from thinwire.sender.intake.study import load_study
from thinwire.sender.intake.text import read_text
from thinwire.sender.outbox.entries import EntryState, PartState
from thinwire.sender.outbox.outbox import Outbox
from thinwire.sender.outbox.tiers import When, checked, read_kind
from thinwire.sender.pipeline import GraphMaker
from thinwire.sender.service import Accepted, RefusedStudy, SendOptions, StudyText, accept_files
from thinwire.sender.transport import link_status, progress
from thinwire.sender.transport.offline import export_to, import_from
from thinwire.sender.transport.progress import by_tier
from thinwire.shared.clock import SystemClock
from thinwire.shared.crypto.certificates import expiry, load
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import BadInput, Final, ThinwireError, exit_code, system_error
from thinwire.shared.formats.bundle import default_bundle_folder, load_bundle
from thinwire.shared.formats.stick import Stick
from thinwire.shared.identifiers import STUDY_KEY_BYTES, StudyKey, TextSource
from thinwire.shared.logs import log_to
from thinwire.shared.parked import as_json as parked_json
from thinwire.shared.parked import parked_lines
from thinwire.shared.storage.durable import Disk
from thinwire.shared.storage.status_file import EVERY

EXIT_CODES = (
    "Exit codes: 0 done · 65 refused input · 66 no such study · 69 link lost · 70 final error · 74 disk full or "
    "unusable · 75 try again later · 76 protocol · 77 not enrolled or forged · 78 configuration · 130 interrupted."
)
app = typer.Typer(
    help="thinwire at the clinic: sends the graph of a chest X-ray first, and the complete study after it.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
SHOWN = 20
"""Studies that `status` lists: the newest."""
out = Console()
err = Console(stderr=True)

Data = Annotated[Path, typer.Option("--data", help="The clinic's data folder: keys, outbox, quarantine.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
GraphBytes = Annotated[
    int | None,
    typer.Option(
        "--graph-bytes", min=1, help="Most bytes of a graph on the link, 400 to 4000; as configured by default."
    ),
]


@app.command(epilog="Example: thinwire-sender join thinwire-join-1.eNo... --data clinic --hub hub.example.org:7443")
def join(
    token: Annotated[str, typer.Argument(help="The join token that the hub printed; - reads it from standard input.")],
    data: Data,
    hub: Annotated[str, typer.Option("--hub", help="HOST:PORT of the hub.")],
) -> None:
    """Enrol this clinic with a hub, once. After an interruption run it again with the same token.

    After the hub was restored from a backup that is older than the enrolment, stop `run` and join again with a new
    token of the same name: all studies stay, and the hub's address is not changed.
    """
    text = sys.stdin.read() if token == "-" else token
    site = join_hub(data, text, hub, Disk(), SystemClock())
    out.print(f"Joined as [bold]{site}[/bold]. Next: thinwire-sender send FILE --data {data} --wait")


@app.command(
    epilog="Example: thinwire-sender send study.dcm --data clinic --text note.txt --text-source indication --wait"
)
def send(
    paths: Annotated[
        list[Path], typer.Argument(help="DICOM files, folders, zip archives or a DICOMDIR.", metavar="PATH...")
    ],
    data: Data,
    text: Annotated[
        str | None, typer.Option("--text", help="File with the text of the study; - reads standard input.")
    ] = None,
    text_source: Annotated[
        TextSource, typer.Option("--text-source", help="Kind of the text: report or indication.")
    ] = TextSource.INDICATION,
    urgent: Annotated[bool, typer.Option("--urgent", help="Give the study priority at both ends.")] = False,
    tiers: Annotated[
        str | None,
        typer.Option("--tiers", help="Policy of each tier, if not as configured: preview=always,originals=on-request"),
    ] = None,
    add_to: Annotated[
        str | None,
        typer.Option(
            "--add-to", help="The study to which a late view belongs: its key, or how it starts.", metavar="STUDY"
        ),
    ] = None,
    graph_bytes: GraphBytes = None,
    wait: Annotated[bool, typer.Option("--wait", help="Send now, and wait for the hub's triage and receipts.")] = False,
    as_json: Json = False,
) -> None:
    """Accept studies for sending. An accepted study stays on this disk until the hub has confirmed that it is stored.

    The running `thinwire-sender run` sends it; with --wait this command sends it and waits for the hub's prediction.
    Tiers that the policy sends later (window, budget, request) are not waited for. Refused files are kept in
    quarantine with their reason, and the other studies go on. Sending an accepted study again with --urgent or --tiers
    changes its priority or its policy. A view that comes longer after its study than `keep_days` is refused: --add-to
    names its study.
    """
    if text_source is TextSource.GENERATED:
        raise typer.BadParameter(
            "--text-source generated is not an input: the decoder writes that text; give report or indication"
        )
    if graph_bytes is not None and not wait:
        raise typer.BadParameter(
            "--graph-bytes needs --wait here; otherwise `run` makes the graph: give --graph-bytes to `run`"
        )
    clinic = open_clinic(data, graph_bytes, forward=True)
    outbox = clinic.outbox
    study_text = StudyText(read_text(text), text_source) if text is not None else None
    outcomes: list[Accepted | RefusedStudy] = []
    send_options = SendOptions(urgent, _choice(tiers), None if add_to is None else _key(outbox, add_to))
    for outcome in accept_files(clinic.pipeline, clinic.quarantine, paths, study_text, send_options):
        outcomes.append(outcome)
        if not as_json:
            presentation.print_outcome(outcome, out, err)
    studies = [outcome.study.key for outcome in outcomes if isinstance(outcome, Accepted)]
    if wait and studies:
        with presentation.live(err, as_json, outbox, studies, clinic.current_policy) as show:
            clinic.send(studies, show)
    if as_json:
        out.print_json(json.dumps(presentation.outcomes_json(outcomes, outbox)))
    elif wait and studies:
        entries = [outbox.entry(study) for study in studies]
        out.print(presentation.status_table(entries, outbox, waits=clinic.current_policy().waits(entries)))
    not_taken = [study for study in studies if wait and outbox.entry(study).state is EntryState.REFUSED]
    if not_taken:
        raise Final(
            f"the hub refused a part of {len(not_taken)} of {len(studies)} studies", "See the reasons in status."
        )
    refused = [outcome for outcome in outcomes if isinstance(outcome, RefusedStudy)]
    if refused:
        raise typer.Exit(exit_code(refused[0].error))
    if not outcomes:
        raise BadInput("no DICOM was found", "Give DICOM files, a folder that holds some, or a DICOMDIR.")


@app.command(epilog="Example: thinwire-sender run --data clinic --watch /srv/xray-export")
def run(
    data: Data,
    watch: Annotated[Path | None, typer.Option("--watch", help="Accept studies that appear in this folder.")] = None,
    graph_bytes: GraphBytes = None,
) -> None:
    """Prepare and send accepted studies until stopped (Ctrl-C, SIGTERM). One such process a data folder.

    A data folder of an earlier version is brought forward first, as by `migrate`.
    """
    if watch is not None and not watch.is_dir():
        raise BadInput(f"{watch} is not a folder", "Create the folder to which the modality exports.")
    if data.is_dir():
        log_to(sys.stderr, read_config(data).log)
    open_clinic(data, graph_bytes, forward=True).run(watch)


@app.command(epilog="Example: thinwire-sender migrate --data clinic --check")
def migrate(
    data: Data,
    check: Annotated[bool, typer.Option("--check", help="Say what it would do, and change nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Bring the data folder of an earlier version forward to this one. `run`, `send` and `export` do the same.

    First stop `run` of the earlier version. Nothing is lost: an interrupted migration is repeated, and an unreadable
    file stays in its place; `status` lists it. Small files of the earlier version stay in DATA/earlier.
    """
    done = bring_clinic_forward(data, check)
    if as_json:
        out.print_json(json.dumps(presentation.forwarded_json(done)))
    else:
        presentation.show_forwarded(done, check, out)


@app.command(epilog="Example: thinwire-sender status --data clinic --watch")
def status(
    data: Data,
    as_json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Repeat once a second until interrupted.")] = False,
    whole: Annotated[bool, typer.Option("--all", help="List all studies; JSON always has all.")] = False,
) -> None:
    """List the newest studies at the clinic: their tiers, transfers, reasons for waiting, and the hub's receipts."""
    if watch and whole:
        raise typer.BadParameter("give --watch or --all, not both")
    clinic = open_clinic(data)
    if as_json:
        while True:
            _print_json(clinic)
            if not watch:
                return
            time.sleep(EVERY)
    if not watch:
        if whole:
            _print_all(clinic)
        out.print(_status(clinic, 0 if whole else SHOWN))
        for last in clinic.quarantine.reasons(1):
            out.print(f"{clinic.quarantine.count()} refused files in quarantine; the last: {last['what']}")
        presentation.show_unreadable(clinic.outbox.unreadable(), out)
        parked = clinic.outbox.parked
        for line in parked_lines(parked.items(SHOWN), sum(parked.counts().values()), "thinwire-sender retry"):
            out.print(line, markup=False, highlight=False, soft_wrap=True)
        out.print(f"Execution provider: {presentation.provider(clinic.config)}", style="dim")
        return
    with RichLive(console=out, auto_refresh=False) as view:
        while True:
            view.update(_status(clinic, SHOWN), refresh=True)
            time.sleep(EVERY)


def _status(clinic: JoinedClinic, most: int) -> Group:
    """The newest studies, at most `most`, and the summary of all."""
    current_policy, outbox = clinic.current_policy(), clinic.outbox
    shown, due = outbox.overview.newest(most)[::-1], outbox.due()
    link, states = link_status.read_status(outbox.folder, current_policy.now), outbox.overview.states()
    tiers = by_tier(outbox.overview.totals(), due, link, current_policy)
    budget = (
        "" if current_policy.policy.budget is None else f" of {presentation.bytes_text(current_policy.policy.budget)}"
    )
    word = clinic.config.identity
    identity = f"Identity: {word} ({MEANINGS[word]})"
    used = f"This month on the link: {presentation.bytes_text(current_policy.used)}{budget}"
    if current_policy.paused:
        used += "\n[bold yellow]All sending is paused[/]; continue with: thinwire-sender resume"
    count = presentation.states_text(states)
    if most and sum(states.values()) > most:
        count += f"; the newest {most} are shown, all with --all"
    certificate = presentation.certificate_text(clinic.enrolment.identity.certificate_pem, current_policy.now)
    summary = presentation.tiers_table(tiers, link), count, used, identity, certificate
    if not most:
        return Group(*summary)
    return Group(presentation.status_table(shown, outbox, link, current_policy.waits(shown, due)), "", *summary)


def _print_all(clinic: JoinedClinic) -> None:
    """All studies, oldest first, page by page."""
    current_policy, outbox = clinic.current_policy(), clinic.outbox
    due, link = outbox.due(), link_status.read_status(outbox.folder, current_policy.now)
    for page in outbox.overview.pages():
        out.print(presentation.status_table(page, outbox, link, current_policy.waits(page, due)), "")


def _print_json(clinic: JoinedClinic) -> None:
    """All studies, one a line, printed while they are read."""
    current_policy, outbox = clinic.current_policy(), clinic.outbox
    due, link = outbox.due(), link_status.read_status(outbox.folder, current_policy.now)
    tiers = by_tier(outbox.overview.totals(), due, link, current_policy)
    head = {
        "site": str(outbox.epochs.site),
        "bundle": load_bundle(clinic.config.bundle).id.hex(),
        "execution_provider": presentation.provider(clinic.config),
        "link": presentation.link_json(link),
        "identity": clinic.config.identity,
        "certificate_expires": expiry(load(clinic.enrolment.identity.certificate_pem)).isoformat(),
        "paused": current_policy.paused,
        "audit_head": outbox.audit_heads.text() or None,
        "month": {"bytes": current_policy.used, "budget": current_policy.policy.budget},
        "tiers": {tier.kind.name.lower(): progress.as_json(tier) for tier in tiers},
        "quarantine": clinic.quarantine.reasons(),
        "unreadable": [presentation.unreadable_json(each) for each in outbox.unreadable()],
        "parked": [parked_json(each) for each in outbox.parked.items()],
    }
    typer.echo(json.dumps(head)[:-1] + ', "studies": [', nl=False)
    before = "\n"
    for page in outbox.overview.pages():
        waits = current_policy.waits(page, due)
        for entry in page:
            typer.echo(before + json.dumps(presentation.entry_json(entry, outbox, waits)), nl=False)
            before = ",\n"
    typer.echo("\n]}")


Which = Annotated[str | None, typer.Argument(help="The study key or its first digits; all sending by default.")]


@app.command(epilog="Example: thinwire-sender pause --data clinic, or thinwire-sender pause 4f21 --data clinic")
def pause(data: Data, study: Which = None) -> None:
    """Pause a study, or all sending, until `resume`. Studies are still accepted."""
    outbox = outbox_of(data)
    outbox.pause(outbox.find(study).study if study else None)
    out.print("Paused. Go on with: thinwire-sender resume", highlight=False)


@app.command(epilog="Example: thinwire-sender resume --data clinic")
def resume(data: Data, study: Which = None) -> None:
    """Resume a study, or all sending; studies paused individually stay paused."""
    outbox = outbox_of(data)
    outbox.resume(outbox.find(study).study if study else None)
    out.print("Sending continues" + (", but all sending is paused" if study and outbox.paused else ""), highlight=False)


@app.command(name="urgent", hidden=True)  # its former name, which stands in scripts
@app.command(epilog="Example: thinwire-sender escalate 4f21 --data clinic")
def escalate(data: Data, study: Annotated[str, typer.Argument(help="The study key or its first digits.")]) -> None:
    """Make an accepted study urgent at both ends. This cannot be undone."""
    outbox = outbox_of(data)
    entry = outbox.make_urgent(outbox.find(study).study)
    out.print(f"{entry.study.hex()[:12]} is urgent; the hub is told with the next message", highlight=False)


@app.command(epilog="Example: thinwire-sender retry 4f21 --data clinic, or thinwire-sender retry --data clinic")
def retry(
    data: Data,
    study: Annotated[
        str | None, typer.Argument(help="The study key or its first digits; everything parked by default.")
    ] = None,
) -> None:
    """Retry tiers that the hub refused or that could not be made, and parked items, after the cause is removed.

    `status` shows them with their reasons. The running `thinwire-sender run` makes and sends them.
    """
    outbox = outbox_of(data)
    if study is None:
        out.print(f"Tried again: {outbox.parked.retry()} parked items", highlight=False)
        return
    entry = outbox.find(study)
    again = outbox.retry(entry.study)
    left = [part.kind for part in entry.parts if part.state is PartState.ABSENT and part.kind not in again]
    if left:
        err.print(
            f"Not tried again: {_named(left)}; the files of this study are no longer at the clinic", highlight=False
        )
    out.print(f"Tried again: {_named(again)}" if again else "No part of this study can be tried again", highlight=False)


def _named(kinds: Sequence[Kind]) -> str:
    return ", ".join(kind.name.lower() for kind in kinds)


@app.command(epilog="Example: thinwire-sender export --to /media/stick/thinwire --data clinic")
def export(
    data: Data,
    to: Annotated[Path, typer.Option("--to", help="Folder on the drive.", file_okay=False)],
    study: Annotated[
        list[str] | None, typer.Option("--study", help="Only this study: its key or the first digits. Repeatable.")
    ] = None,
    include_held: Annotated[
        bool, typer.Option("--include-held", help="Also tiers that wait for a reader's request.")
    ] = False,
    held: Annotated[bool, typer.Option("--held", hidden=True, help="--include-held by its former name.")] = False,
    as_json: Json = False,
) -> None:
    """Write waiting tiers to a USB drive: the same sealed objects that the link would send.

    Next, at the hub: `thinwire-receiver import`. Nothing is removed here before the hub's receipt is back, over the
    link or by `thinwire-sender import`. Objects that cross both ways count once. The command is idempotent; `run` may
    go on meanwhile.
    """
    clinic = open_clinic(data, forward=True)
    outbox = clinic.outbox
    with outbox.own_stick():
        clinic.make_parts()
        held = include_held or held
        here = (PartState.MISSING, PartState.WAITING, *((PartState.HELD,) if held else ()))
        chosen = [outbox.find(each) for each in study] if study else outbox.entries(*here)
        done = export_to(Stick(to), outbox, [due for entry in chosen for due in entry.due(held)])
    unmade = sum(len(entry.missing) for entry in chosen)
    if as_json:
        out.print_json(json.dumps(presentation.exported_json(done, unmade)))
    else:
        presentation.show_exported(done, unmade, to, out)
    if done.full is not None:
        raise done.full


@app.command(name="import", epilog="Example: thinwire-sender import /media/stick/thinwire --data clinic")
def import_(
    folder: Annotated[Path, typer.Argument(help="Folder on the drive.", file_okay=False)],
    data: Data,
    as_json: Json = False,
) -> None:
    """Read the hub's receipts and requests from a USB drive that was at the hub, and tidy the drive.

    Each receipt is verified and made durable; then the stored objects are removed here, as after a receipt over the
    link. Replies to other clinics stay on the drive. `run` may go on meanwhile.
    """
    outbox = open_clinic(data).outbox
    with outbox.own_stick():
        done = import_from(Stick(folder), outbox)
    if as_json:
        out.print_json(json.dumps(presentation.imported_json(done)))
    else:
        presentation.show_imported(done, out)
    if done.refused:
        raise typer.Exit(exit_code(done.refused[0]))


@app.command(epilog="Example: thinwire-sender inspect study.dcm --png seen.png")
def inspect(
    path: Annotated[Path, typer.Argument(help="A DICOM file, PNG or JPEG.")],
    text: Annotated[
        str | None, typer.Option("--text", help="File with the text of the study; - reads standard input.")
    ] = None,
    text_source: Annotated[TextSource, typer.Option("--text-source")] = TextSource.REPORT,
    keep: Annotated[float | None, typer.Option("--keep", help="Percent of the cells to keep.")] = None,
    tau: Annotated[float | None, typer.Option("--tau", help="Keep cells above this share of the attention.")] = None,
    graph_bytes: GraphBytes = None,
    bundle: Annotated[Path | None, typer.Option("--bundle", help="Another model bundle.")] = None,
    png: Annotated[Path | None, typer.Option("--png", help="Write a picture of the kept patches.")] = None,
    as_json: Json = False,
) -> None:
    """Show the kept patches of a study without any network: scores, bytes by tier, milliseconds by stage."""
    config = SenderConfig(graph_bytes=graph_bytes, bundle=bundle or default_bundle_folder())
    began = time.perf_counter()
    given = read_text(text) if text is not None else None
    study = load_study([path], given, text_source)
    read_ms = (time.perf_counter() - began) * 1000
    began = time.perf_counter()
    maker = GraphMaker(load_bundle(config.bundle), config, _policy(keep, tau))
    load_ms = (time.perf_counter() - began) * 1000
    made = maker.make_graph(study)
    facts = presentation.inspection(study, made, maker, {"read": read_ms, "load models": load_ms})
    if png is not None:
        presentation.picture(study, made, maker).save(png)
    if as_json:
        out.print_json(json.dumps(facts))
    else:
        presentation.show_inspection(facts, out)
        if png is not None:
            out.print(f"Picture: {png}")


def _policy(keep: float | None, tau: float | None) -> Policy | None:
    if keep is not None and tau is not None:
        raise typer.BadParameter("give --keep or --tau, not both")
    try:
        return KeepPercent(keep) if keep is not None else KeepAbove(tau) if tau is not None else None
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _key(outbox: Outbox, text: str) -> StudyKey:
    """A study key, or the one study of the outbox whose key starts so. Raises UnknownStudy."""
    with contextlib.suppress(ValueError):
        if len(key := bytes.fromhex(text)) == STUDY_KEY_BYTES:
            return StudyKey(key)  # the outbox forgets a study after keep_days
    return outbox.find(text).study


def _choice(text: str | None) -> dict[Kind, When]:
    """As preview=always,originals=on-request; the former names evidence and pixels stand in scripts."""
    overrides = {}
    try:
        for each in (text or "").split(",") if text else ():
            name, _, when = each.partition("=")
            overrides[read_kind(name.strip().lower())] = read_when(when)
        checked(overrides)
    except KeyError as error:
        raise typer.BadParameter(f"no tier {error}; preview, crops or originals") from error
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return overrides


def main() -> None:
    """Entry point: errors become one line with a remedy and the exit code of their class."""
    os.umask(0o077)  # whoever starts it: no other user of the machine reads what it writes
    try:
        app()
    except (ThinwireError, OSError) as error:
        known = system_error(error) if isinstance(error, OSError) else error
        err.print(str(known), style="bold red", markup=False, highlight=False)
        err.print(known.remedy, markup=False, highlight=False)
        sys.exit(exit_code(known))
    except KeyboardInterrupt as error:
        sys.exit(exit_code(error))
