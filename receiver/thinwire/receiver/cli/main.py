"""The hub's command line. Exit codes: `thinwire.shared.errors.exit_code`, listed in docs/developer.md.

Modules that load torch, highdicom or pynetdicom are imported by the commands that need them: `worklist` does not wait
for seconds.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from thinwire.receiver.access.audit_message import Act
from thinwire.receiver.archive import predictions_of
from thinwire.receiver.cli.accounts import account_app
from thinwire.receiver.cli.acts import act_of, also, audited
from thinwire.receiver.cli.archive import Ray, Workers, cohort_command, predict_archive_command
from thinwire.receiver.cli.audit import audit_app
from thinwire.receiver.cli.backup import backup_command, move_command, restore_command
from thinwire.receiver.cli.bundle import bundle_app
from thinwire.receiver.cli.check import check_command
from thinwire.receiver.cli.draft import draft_command
from thinwire.receiver.cli.forward import forward_app
from thinwire.receiver.cli.keys import keys_app
from thinwire.receiver.cli.models import evaluate_command, train_command
from thinwire.receiver.cli.offline import imported_json, imported_lines
from thinwire.receiver.cli.options import Data, Json, Site, Study, named_site, stdout, write_json, write_json_list
from thinwire.receiver.cli.retention import retention_app
from thinwire.receiver.cli.sites import site_app
from thinwire.receiver.cli.work import work_command
from thinwire.receiver.export.picture import picture
from thinwire.receiver.hub import Hub, bring_forward, make_hub, offline_lock, open_hub, rehearse_migration
from thinwire.receiver.offline import export_to, import_from
from thinwire.receiver.presentation import links_table, study_page, worklist_table
from thinwire.receiver.store.tables import HUB
from thinwire.receiver.store.worklist import WorklistEntry, as_json, as_prediction_json
from thinwire.receiver.store.worklist_order import ListState, Selection
from thinwire.receiver.transport.link_status import as_json as link_json
from thinwire.receiver.transport.link_status import read_status
from thinwire.shared.addresses import address_text
from thinwire.shared.clock import SystemClock
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import NotEnrolled, ThinwireError, exit_code, system_error
from thinwire.shared.formats.bundle import default_bundle_folder
from thinwire.shared.formats.stick import Stick
from thinwire.shared.identifiers import Tier
from thinwire.shared.logs import log_to
from thinwire.shared.parked import as_json as parked_json
from thinwire.shared.parked import parked_lines
from thinwire.shared.storage.durable import Disk
from thinwire.shared.storage.status_file import EVERY

EPILOG = """Exit codes: 0 done · 1 fault of the program · 2 wrong usage · 65 unusable input · 66 unknown study ·
69 link lost · 70 refused for good · 74 disk full or unusable · 75 busy, try again · 76 protocol ·
77 not enrolled or forged · 78 configuration · 130 interrupted.

A hub in four commands: `thinwire-receiver init --data hub`, then `enrol north-valley --data hub` (give the token to
the clinic), `serve --data hub --listen 0.0.0.0:7443`, and `worklist --data hub`."""

app = typer.Typer(
    name="thinwire-receiver",
    help="The hub: stores studies from clinics, predicts findings from their graphs, keeps the worklist.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

_PAGE = 40
"""Rows of the worklist at a time."""
_PARKED = 20
"""Parked items that `status` shows: the oldest."""

_REQUESTABLE = {
    "preview": Kind.PREVIEW,
    "crops": Kind.CROPS,
    "originals": Kind.ORIGINALS,
    # Older names, for scripts that have them.
    "evidence": Kind.CROPS,
    "pixels": Kind.ORIGINALS,
}


@app.command(epilog="Example: `thinwire-receiver init --data hub`")
def init(
    data: Data,
    bundle: Annotated[
        Path | None,
        typer.Option(help="Bundle folder for inference. Default: the bundle that comes with thinwire."),
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            help="An empty PostgreSQL database, as postgresql+psycopg://USER@HOST/NAME. A password belongs in "
            "THINWIRE_RECEIVER_DATABASE, since other users see a command line. Default: an SQLite file in the folder."
        ),
    ] = None,
    blobs: Annotated[
        str | None,
        typer.Option(
            help="An object store, as s3://BUCKET/PREFIX. Its credentials are those of the environment. Default: a "
            "folder in the folder."
        ),
    ] = None,
) -> None:
    """Create a new hub: keys, certificate authority, database, blob store, default bundle. An existing hub is never
    replaced."""
    id = make_hub(data, bundle or default_bundle_folder(), Disk(), SystemClock(), database, blobs)
    with open_hub(data, SystemClock()) as hub:
        hub.audit.record(act_of(hub, Act.HUB_MADE))
    _note(f"A hub is ready in {data} (bundle {id.hex()[:8]}). Next: thinwire-receiver enrol SITE --data {data}")
    _note("Back up keys/ separately and encrypted: keys/ together with the store decrypts every study.")


@app.command(epilog="Example: `thinwire-receiver enrol north-valley --data hub > token.txt`")
def enrol(
    site: Annotated[str, typer.Argument(help="The clinic's name: 1 to 32 of a-z, 0-9 and '-'.")],
    data: Data,
    json_: Json = False,
    remove: Annotated[bool, typer.Option("--remove", hidden=True, help="Older name of `revoke`.")] = False,
) -> None:
    """Print a one-time join token for a clinic. Keep it secret until it is used, and send it over a trusted channel."""
    if remove:
        revoke(site, data)
        return
    name = named_site(site)
    with open_hub(data, SystemClock()) as hub:
        token, expires = hub.enrolment.enrol(name, also(hub, act_of(hub, Act.SITE_ENROLLED, name)))
    if json_:
        write_json({"site": name, "token": token, "expires": expires.isoformat().replace("+00:00", "Z")})
        return
    _note(f"Join token for {name}, good for one clinic until {expires:%Y-%m-%d %H:%M} UTC. At the clinic:")
    _note("  thinwire-sender join TOKEN --data DIR --hub HOST:PORT")
    typer.echo(token)


@app.command(epilog="Example: `thinwire-receiver revoke north-valley --data hub`")
def revoke(site: Annotated[str, typer.Argument(help="The clinic's name.")], data: Data) -> None:
    """Revoke a clinic's access at once: nothing more of it is stored, and its open stream ends within a second. Its
    studies stay at the hub."""
    name = named_site(site)
    with open_hub(data, SystemClock()) as hub:
        hub.enrolment.dismiss(name, also(hub, act_of(hub, Act.SITE_REVOKED, name)))
    _note(f"The access of {name} is revoked.")


@app.command(epilog="Example: `thinwire-receiver serve --data hub --listen 0.0.0.0:7443`")
def serve(
    data: Data,
    listen: Annotated[
        str | None, typer.Option(help="HOST:PORT; port 0 takes a free one.  [default: 127.0.0.1:7443]")
    ] = None,
    web: Annotated[str | None, typer.Option(help="HOST:PORT of the reading room; HTTPS beyond this machine.")] = None,
) -> None:
    """Receive studies from clinics and triage them, until SIGINT or SIGTERM. Prints `listening on HOST:PORT`.

    With --web the reading room is served too. It prints `reading room at URL`. While no account exists it also prints a
    one-time link for the first administrator (docs/administration.md).

    Settings come from config.toml in the data folder, the environment (THINWIRE_RECEIVER_LISTEN, ..._BATCH,
    ..._LARGEST_STUDY, ..._DISK_RESERVE, ..._WEB, ..._DRAFT__ENABLED) and the command line, in rising priority. A hub
    that was stopped or killed continues where it was.
    """
    from thinwire.receiver.serve import serve as serve_hub

    brought = bring_forward(data, by_itself=True)
    if brought is not None:
        _note(f"The database was brought forward to version {HUB.version}. {_copy(*brought)}")
        _record_version(data, brought[0])
    with open_hub(data, SystemClock(), serves=True) as hub:
        log_to(sys.stderr, hub.settings.log)
        serve_hub(hub, listen or hub.settings.listen, web or hub.settings.web, lambda *at: _listening(hub, *at))


@app.command(epilog="Example: `thinwire-receiver migrate --data hub --check`")
def migrate(
    data: Data,
    check: Annotated[bool, typer.Option("--check", help="Try it on a copy and change nothing.")] = False,
    json_: Json = False,
) -> None:
    """Bring the hub's database forward to this version of thinwire. `serve` does the same when it starts.

    A copy of the database is written beside it first. An interrupted migration changes nothing; run it again.

    PostgreSQL: `serve` leaves it to this command, which writes no copy. Take one with pg_dump first, and stop every
    process of the hub on all machines; --check needs that too.
    """
    if check:
        found = rehearse_migration(data)
        if json_:
            write_json({"found": found, "program": HUB.version, "needed": found != HUB.version})
        elif found == HUB.version:
            typer.echo(f"The database has version {found}, that of this program.")
        else:
            typer.echo(f"The database has version {found}; a copy could be brought forward to {HUB.version}.")
        return
    done = bring_forward(data)
    if done is not None:
        _record_version(data, done[0])
    if json_:
        write_json({"found": HUB.version if done is None else done[0], "program": HUB.version})
    elif done is None:
        typer.echo(f"The database has version {HUB.version}, that of this program.")
    else:
        typer.echo(f"The database is now of version {HUB.version}. {_copy(*done)}")


def _copy(found: int, path: Path | None) -> str:
    """A sentence on the copy of a database before its migration."""
    return f"A copy of version {found} is in {path}." if path else f"Keep your pg_dump of version {found} for a while."


@app.command(epilog="Example: `thinwire-receiver status --data hub --watch`")
def status(
    data: Data,
    json_: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh once a second until interrupted.")] = False,
) -> None:
    """Show each clinic's link: its state, the transfers in progress, and the bytes that are durable at the hub; and
    the parked items: each failed alone, and has its reason."""
    clock = SystemClock()
    with open_hub(data, clock) as hub:
        sites = hub.enrolment.site_names()
        parked = hub.store.parked.items(None if json_ else _PARKED)
        count = sum(hub.store.parked.counts().values())
    if json_:
        while True:
            serves, links = read_status(data, clock.now())
            now = {"serving": serves, "sites": sites, "links": [link_json(link) for link in links]}
            write_json({**now, "parked": [parked_json(each) for each in parked]})
            if not watch:
                return
            time.sleep(EVERY)
    if not watch:
        stdout().print(links_table(*read_status(data, clock.now()), sites, clock.now()))
        for line in parked_lines(parked, count, "thinwire-receiver retry"):
            stdout().print(line, markup=False, highlight=False, soft_wrap=True)
        return
    with Live(console=stdout(), auto_refresh=False) as view:
        while True:
            view.update(links_table(*read_status(data, clock.now()), sites, clock.now()), refresh=True)
            time.sleep(EVERY)


@app.command(epilog="Examples: `thinwire-receiver retry --data hub` · `thinwire-receiver retry 3fa9 --data hub`")
def retry(
    data: Data,
    item: Annotated[str, typer.Argument(help="Only items that contain this: a study key, a site.")] = "",
) -> None:
    """Let `serve` try parked items (`status`) again, after the cause is removed. For deliveries: `forward retry`."""
    with open_hub(data, SystemClock()) as hub, audited(hub, act_of(hub, Act.SENT_AGAIN, "parked items")):
        count = hub.store.parked.retry(item)
    _note(f"{count} parked items will be tried again.")


@app.command(epilog="Example: `thinwire-receiver worklist --data hub --json`")
def worklist(
    data: Data,
    json_: Json = False,
    all_: Annotated[bool, typer.Option("--all", help="Every study, also the signed ones, which are last.")] = False,
) -> None:
    """List the studies to read, in reading order: most urgent first, then oldest first. The first page is shown, and
    how many more there are; with `--all` every study. `--json` gives the same studies as a list.

    A study that has waited for longer than `waiting_cap` (config.toml) is listed before all that are not immediate.

    Each probability has its 95 % interval. Text in yellow was generated by the decoder at the clinic: no person wrote
    it.
    """
    with open_hub(data, SystemClock()) as hub:
        now, selection = hub.clock.now(), Selection(ListState.ALL if all_ else ListState.WAITING)
        page = hub.worklist.page(selection, now, _PAGE)
        pages = hub.worklist.stream(selection, now, _PAGE) if all_ else iter([page.entries])
        if json_:
            write_json_list(as_json(row) for rows in pages for row in rows)
        else:
            stdout().print(
                f"{page.selected:,} {'study' if page.selected == 1 else 'studies'}{'' if all_ else ' to read'}"
            )
            for rows in pages:
                stdout().print(worklist_table(rows, now))
    if page.later is not None and not all_:
        _note(f"{page.selected - len(page.entries):,} more to read; --all lists every study.")


@app.command(epilog="Example: `thinwire-receiver show 3fa9 --data hub`")
def show(
    study: Study,
    data: Data,
    json_: Json = False,
    site: Site = None,
    png: Annotated[Path | None, typer.Option("--png", help="Write the picture of the study.", dir_okay=False)] = None,
) -> None:
    """Show one study: its kept patches, its tiers, its predicted findings, and the reason for its urgency.

    A draft, if the hub makes drafts, is machine-written and unchecked.

    The picture uses the best image available: the originals, or else the preview with the crops over it, complete or
    still arriving. Areas without image data are striped.
    """
    with open_hub(data, SystemClock()) as hub:
        row = WorklistEntry(hub.store.find(study, named_site(site) if site else None))
        hub.audit.record(act_of(hub, Act.VIEWED, study=row.study))
        arriving = hub.study_images().arriving_labels(row.study)
        stored = hub.store.draft(row.study.site, row.study.study)
        draft = None if stored is None else json.loads(stored)
        drawn = None if png is None else picture(row.study, hub.study_images(), hub.bundles)
        manifest = hub.study_images().manifest(row.study.site, row.study.study)
        if png is not None and drawn is not None:
            hub.disk.make_folder(png.absolute().parent)
            hub.disk.write(png, drawn[0], "export")
        others = predictions_of(hub).of_study(row.study.site, row.study.study)
        now = hub.clock.now()
    source = None if drawn is None else drawn[1]
    read = None if manifest is None else manifest.read
    warnings = () if read is None else read.warnings
    if json_:
        write_json(
            {
                **as_json(row),
                "arriving": {tier.name.lower(): label for tier, label in arriving.items()},
                "draft": draft,
                "other_predictions": [as_prediction_json(each) for each in others],
                "picture": source,
                "warnings": warnings,
                "sop_instance_uid": None if read is None else read.sop_instance_uid,
            }
        )
    else:
        stdout().print(study_page(row, now, arriving, draft, warnings, others))
    if png is not None:
        _note(f"{png}: drawn from {source}." if source else "No graph is received yet: there is no picture.")


@app.command(epilog="Example: `thinwire-receiver request 3fa9 crops --data hub`")
@app.command(name="ask", hidden=True)
def request(
    study: Study,
    tier: Annotated[str, typer.Argument(help="preview, crops or originals.")],
    data: Data,
    site: Site = None,
) -> None:
    """Request a tier of a study from the clinic: preview, crops or originals. A tier that is already stored is not
    requested again."""
    kind = _REQUESTABLE.get(tier)
    if kind is None:
        raise typer.BadParameter(f"{tier} is not one of preview, crops, originals")
    name, is_or_are = kind.name.lower(), "is" if kind is Kind.PREVIEW else "are"
    with open_hub(data, SystemClock()) as hub:
        found = hub.store.find(study, named_site(site) if site else None)
        if Tier(kind) in found.sealed_sizes:
            _note(f"The {name} {is_or_are} already stored.")
            return
        with audited(hub, act_of(hub, Act.ASKED, study=found, detail=name)):
            hub.store.request(found.site, found.study, kind)
    _note(f"The {name} {is_or_are} requested from the clinic.")


@app.command(
    epilog="Examples: `thinwire-receiver export 3fa9 --data hub --to here` · "
    "`thinwire-receiver export --data hub --to /media/stick/thinwire` · "
    "`thinwire-receiver export --data hub --cohort s3://research/cohort-1`"
)
def export(
    data: Data,
    to: Annotated[
        Path | None, typer.Option("--to", help="Folder to write to.", file_okay=False, show_default=False)
    ] = None,
    study: Annotated[
        str | None, typer.Argument(help="Study key or its first digits. Without it: to a stick, for clinics.")
    ] = None,
    site: Site = None,
    cohort: Annotated[
        str | None, typer.Option("--cohort", metavar="OUT", help="Folder or URL for all graphs, for researchers.")
    ] = None,
    name_sites: Annotated[bool, typer.Option("--name-sites", help="Give the clinics' names with a cohort.")] = False,
    ray: Ray = None,
    workers: Workers = None,
    json_: Json = False,
) -> None:
    """With a study: write its graph (.thinwire, PyG, GraphML), picture, draft, preview, crops, DICOM files, structured
    report and secondary capture, as far as they are available.

    Originals that are not stored yet are requested from the clinic. Formats: docs/store-format.md.

    Without a study: write the receipts and requests for every clinic, or for --site, to a USB stick, sealed. At the
    clinic run `thinwire-sender import`. Layout: docs/offline-transfer.md.

    With --cohort: write the newest graph of every study as a PyG data set without identity (docs/researcher.md), on the
    cores of this machine or on a Ray cluster. A run that was stopped or killed goes on with the same OUT.
    """
    if cohort is not None:
        cohort_command(data, cohort, name_sites, workers, ray, json_)
        return
    if to is None:
        raise typer.BadParameter("--to FOLDER or --cohort OUT is needed")
    from thinwire.receiver.export.study_files import export_study

    named = named_site(site) if site else None
    with open_hub(data, SystemClock()) as hub:
        if study is None:
            with offline_lock(data):
                sites = [named] if named else hub.enrolment.served()
                with audited(hub, act_of(hub, Act.EXPORTED, named, detail="receipts, to a stick")):
                    written = export_to(Stick(to), hub, hub.pipeline(), sites)
            if json_:
                write_json({"receipts": written})
            for each in () if json_ else sorted(written):
                typer.echo(f"{each}: {written[each]} receipts")
            return
        found = hub.store.find(study, named)
        with audited(hub, act_of(hub, Act.EXPORTED, study=found)):
            paths = export_study(found, hub.study_images(), hub.bundles, to, hub.disk)
        if Tier.ORIGINALS not in found.sealed_sizes:
            try:
                hub.store.request(found.site, found.study, Kind.ORIGINALS)
                _note("The originals are not stored yet; they are requested from the clinic.")
            except NotEnrolled as error:
                _note(f"The originals are not stored, and cannot be requested: {error}.")
    if json_:
        write_json([str(path) for path in paths])
    for path in () if json_ else paths:
        typer.echo(path)


@app.command(name="import", epilog="Example: `thinwire-receiver import /media/stick/thinwire --data hub`")
def import_(
    folder: Annotated[Path, typer.Argument(help="The folder that clinics exported to.", file_okay=False)],
    data: Data,
    json_: Json = False,
) -> None:
    """Store the objects that clinics wrote to a USB stick, triage the studies, and write the receipts onto the stick.

    Each object passes the same checks as over the link. A refused object does not stop the others, and an object that
    arrived over the link is stored once. `serve` may stay active. At the clinic run `thinwire-sender import`. Layout:
    docs/offline-transfer.md.
    """
    with (
        open_hub(data, SystemClock()) as hub,
        offline_lock(data),
        audited(hub, act_of(hub, Act.IMPORTED, detail="from a stick")),
    ):
        done = import_from(Stick(folder), hub, hub.pipeline())
    if json_:
        write_json(imported_json(done))
    for line in () if json_ else imported_lines(done):
        typer.echo(line)
    if done.full is not None:
        raise done.full
    errors = [each.error for each in done.taken if each.error is not None]
    if errors:
        raise typer.Exit(exit_code(errors[0]))


app.command(name="train", epilog="Example: `thinwire-receiver train all --data phantoms:4000 --out my-bundle`")(
    train_command
)
app.command(name="predict-archive", epilog="Example: `thinwire-receiver predict-archive --bundle 5c1e --data hub`")(
    predict_archive_command
)
app.command(name="evaluate", epilog="Example: `thinwire-receiver evaluate --phantoms 400 --out figures`")(
    evaluate_command
)
app.command(name="work", epilog="Example: `thinwire-receiver work predict --data hub`")(work_command)
app.command(name="check", epilog="Example: `thinwire-receiver check --data hub --repair`")(check_command)
app.command(name="backup", epilog="Example: `thinwire-receiver backup /mnt/backup --data hub`")(backup_command)
app.command(name="restore", epilog="Example: `thinwire-receiver restore /mnt/backup --data hub`")(restore_command)
app.command(
    name="move",
    epilog="Example: `thinwire-receiver move --to postgresql+psycopg://hub@db/hub --to s3://hub/thinwire --data hub`",
)(move_command)
app.command(name="draft", epilog="Example: `thinwire-receiver draft 3fa9 --data hub`")(draft_command)
app.add_typer(bundle_app, name="bundle")
app.add_typer(forward_app, name="forward")
app.add_typer(account_app, name="account")
app.add_typer(audit_app, name="audit")
app.add_typer(retention_app, name="retention")
app.add_typer(site_app, name="site")
app.add_typer(keys_app, name="keys")


def main() -> None:
    """Entry point: an error that thinwire knows is one line and its remedy, never a traceback."""
    os.umask(0o077)  # whoever starts it: no other user of the machine reads what it writes
    try:
        app()
    except (ThinwireError, OSError, KeyboardInterrupt) as error:
        err = Console(stderr=True, highlight=False, soft_wrap=True)
        known = system_error(error) if isinstance(error, OSError) else error
        if isinstance(known, ThinwireError):
            err.print(str(known), style="bold red", markup=False)
            err.print(known.remedy, markup=False)
        sys.exit(exit_code(known))


def _record_version(data: Path, found: int) -> None:
    with open_hub(data, SystemClock()) as hub:
        hub.audit.record(act_of(hub, Act.BROUGHT_FORWARD, detail=f"database of version {found} to {HUB.version}"))


def _listening(hub: Hub, host: str, port: int, web: str | None) -> None:
    print(f"listening on {address_text(host, port)}", flush=True)  # noqa: T201 - what whoever started us waits for
    if web is not None:
        print(f"reading room at {web}", flush=True)  # noqa: T201
        link = hub.accounts.first()
        if link is not None:
            first = f"no account exists yet; the first administrator signs in once with this link: {web}/welcome/{link}"
            print(first, flush=True)  # noqa: T201


def _note(text: str) -> None:
    typer.echo(text, err=True)
