"""`thinwire-receiver retention`: which studies go, and when; legal holds; the erasure of a patient."""

import sys
from itertools import islice
from typing import Annotated, Any

import typer

from thinwire.receiver.access.audit_message import Act
from thinwire.receiver.cli.acts import act_of, also, operator
from thinwire.receiver.cli.options import Data, Json, Site, Study, named_site, write_json
from thinwire.receiver.hub import open_hub
from thinwire.receiver.operations.retention import Mark, Retention
from thinwire.receiver.store.content import patient_of_number
from thinwire.shared.clock import SystemClock
from thinwire.shared.errors import BadInput, UnknownStudy

retention_app = typer.Typer(
    help="Which studies go, and when (config.toml, [retention]); legal holds; the erasure of a patient.",
    no_args_is_help=True,
)
_SHOWN = 20
"""Marks and holds that `plan` lists without --json."""

Reason = Annotated[
    str, typer.Option("--reason", help="For the audit log: such as a case number, never a patient's name or number.")
]


@retention_app.command(epilog="Example: `thinwire-receiver retention plan --data hub`")
def plan(data: Data, json_: Json = False) -> None:
    """Show what the rules would mark now, what is marked and when it goes, and the legal holds. Changes nothing."""
    with open_hub(data, SystemClock()) as hub:
        retention = Retention(hub)
        rules: list[dict[str, Any]] = [
            {
                "rule": rule.name,
                "sites": {
                    site: {"studies": count, "bytes": size} for site, (count, size) in retention.expected(rule).items()
                },
            }
            for rule in hub.settings.retention.rules
        ]
        marks = [
            {**_mark(mark), "bytes": retention.sizes([mark])}
            for mark in islice(retention.marks(), None if json_ else _SHOWN)
        ]
        held = [
            {"site": site, "study": study.hex(), "reason": reason, "since": f"{since:%Y-%m-%d}"}
            for site, study, reason, since in islice(retention.holds(), None if json_ else _SHOWN)
        ]
    if json_:
        write_json({"rules": rules, "marked": marks, "holds": held})
        return
    for rule in rules:
        typer.echo(f"rule {rule['rule']}: " + (_sums(rule["sites"]) or "nothing to mark"))
    if not rules:
        typer.echo("no rule: studies stay until a person asks for their removal (docs/administration.md, Retention)")
    for mark in marks:
        why = f"rule {mark['rule']}" if mark["rule"] else "asked for"
        typer.echo(f"marked: {mark['study']} ({mark['site']}), {why}, goes {mark['due']}, {mark['bytes']:,} bytes")
    for hold in held:
        typer.echo(f"legal hold: {hold['study']} ({hold['site']}) since {hold['since']}: {hold['reason']}")
    if _SHOWN in (len(marks), len(held)):
        typer.echo("and perhaps more; --json lists all")


@retention_app.command(epilog="Example: `thinwire-receiver retention run --data hub`")
def run(data: Data, json_: Json = False) -> None:
    """Mark what the rules take, and remove the marked studies whose waiting time is over. `serve` does the same once an
    hour. A run that was stopped is repeated."""
    with open_hub(data, SystemClock()) as hub:
        done = Retention(hub, operator()).run()
    if json_:
        write_json({"marked": done.marked, "unmarked": done.unmarked, "removed": done.removed, "blobs": done.blobs})
    else:
        typer.echo(
            f"{done.marked.total()} studies marked, {done.removed} removed with {done.blobs} parts; "
            f"{done.unmarked} marks taken back, since no rule asks for them any more"
        )


@retention_app.command(epilog="Example: `thinwire-receiver retention hold 3fa9 --reason 'case 12/2026' --data hub`")
def hold(study: Study, data: Data, reason: Reason, site: Site = None) -> None:
    """Place a legal hold on a study: nothing removes it until the hold ends. A mark of it is taken back."""
    with open_hub(data, SystemClock()) as hub:
        found = hub.store.find(study, None if site is None else named_site(site))
        made = also(hub, act_of(hub, Act.HELD, study=found, detail=reason))
        new = Retention(hub).hold(found.site, found.study, reason, made)
    typer.echo("The study is held." if new else "The study had a hold already.")


@retention_app.command(epilog="Example: `thinwire-receiver retention release 3fa9 --reason 'case closed' --data hub`")
def release(study: Study, data: Data, reason: Reason, site: Site = None) -> None:
    """End the legal hold on a study."""
    with open_hub(data, SystemClock()) as hub:
        found = hub.store.find(study, None if site is None else named_site(site))
        made = also(hub, act_of(hub, Act.RELEASED, study=found, detail=reason))
        ended = Retention(hub).release(found.site, found.study, made)
    typer.echo("The hold has ended." if ended else "The study had no hold.")


@retention_app.command(epilog="Example: `thinwire-receiver retention erase 3fa9 --reason 'request 7' --data hub`")
def erase(
    data: Data,
    reason: Reason,
    study: Annotated[
        str | None, typer.Argument(help="Study key or its first digits; or --patient.", show_default=False)
    ] = None,
    patient: Annotated[
        bool,
        typer.Option(
            "--patient", help="All studies of one patient of --site: the Patient ID is read from the terminal."
        ),
    ] = False,
    site: Site = None,
    days: Annotated[
        int | None, typer.Option(min=0, help="Days until it goes.  [default: waiting_days]", show_default=False)
    ] = None,
    also_unread: Annotated[
        bool, typer.Option("--also-unread", help="Also what is not read, or not at every target.")
    ] = False,
    json_: Json = False,
) -> None:
    """Mark a study, or all studies of a patient, for removal at a person's request; `run` or `serve` removes them when
    the waiting time is over. `undo` takes the mark back until then.

    The Patient ID (0010,0020) is read from standard input, so that it is in no list of processes or commands. A study
    whose manifest has not arrived names no patient: give its key.
    """
    if (study is None) is not patient:
        raise typer.BadParameter("give a study, or --patient")
    with open_hub(data, SystemClock()) as hub:
        name = None if site is None else named_site(site)
        if study is not None:
            found = [hub.store.find(study, name)]
        elif name is None:
            raise typer.BadParameter("--patient needs --site: a Patient ID is of one clinic")
        else:
            asked = typer.prompt("Patient ID", err=True) if sys.stdin.isatty() else sys.stdin.readline()
            found = hub.store.of_patient(name, patient_of_number(name, asked.strip()))
            if not found:
                raise UnknownStudy(
                    "the clinic has sent no study of this patient", "Compare the number with its worklist."
                )
        messages = [act_of(hub, Act.RETENTION_MARKED, study=each, detail=reason) for each in found]
        wait = hub.settings.retention.waiting_days if days is None else days

        def recorded(connection: Any) -> None:
            for message in messages:
                hub.audit.append(connection, message)

        due = Retention(hub).ask([(each.site, each.study) for each in found], wait, also_unread, recorded)
        copies = sorted(each.name for each in (*data.glob("thinwire-version-*.db"), *data.glob("replaced/*")))
    if json_:
        marks = [_mark(Mark(each.site, each.study, "", due)) for each in found]
        write_json({"marked": marks, "copies": copies})
        return
    typer.echo(f"{len(found)} studies go at {due:%Y-%m-%d %H:%M} UTC; until then: thinwire-receiver retention undo")
    typer.echo("Not reached from here: backups, the clinic, and the targets to which it was forwarded.")
    if copies:
        typer.echo(
            f"Older databases in the data folder hold it too; remove them when they are not needed: {', '.join(copies)}"
        )


@retention_app.command(epilog="Example: `thinwire-receiver retention undo 3fa9 --data hub`")
def undo(study: Study, data: Data, site: Site = None) -> None:
    """Take the mark of a study back. A rule marks it again: place a hold to keep it."""
    with open_hub(data, SystemClock()) as hub:
        found = hub.store.find(study, None if site is None else named_site(site))
        made = also(hub, act_of(hub, Act.RETENTION_UNMARKED, study=found))
        gone = Retention(hub).take_back(found.site, found.study, made)
    if not gone:
        raise BadInput("the study is not marked", "See the marks: thinwire-receiver retention plan.")
    typer.echo("The mark is taken back.")


def _mark(mark: Mark) -> dict[str, Any]:
    due = mark.due.isoformat().replace("+00:00", "Z")
    return {"site": mark.site, "study": mark.study.hex(), "rule": mark.rule or None, "due": due}


def _sums(sites: dict[Any, dict[str, int]]) -> str:
    return ", ".join(f"{site}: {each['studies']:,} studies, {each['bytes']:,} bytes" for site, each in sites.items())
