"""`check`: whether everything that the hub has stored is whole."""

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console

from thinwire.receiver.access.audit_message import Act
from thinwire.receiver.cli.acts import act_of, audited
from thinwire.receiver.cli.options import Data, Json, write_json
from thinwire.receiver.cli.progress import meter
from thinwire.receiver.hub import open_hub
from thinwire.receiver.operations.check import Checked, Finding, check, repair
from thinwire.shared.clock import SystemClock
from thinwire.shared.errors import BadFormat


def check_command(
    data: Data,
    json_: Json = False,
    repair_: Annotated[
        bool,
        typer.Option(
            "--repair", help="Request damaged or missing parts from the clinics; bring the worklist up to date."
        ),
    ] = False,
) -> None:
    """Check every stored part against its digest, every row, receipt and report, and the audit log.

    Each finding names the study and says what to do. Exit code 70 if there is a finding, also a repaired one.

    --repair sets a damaged file aside in quarantine/ and requests its part from the clinic, which sends it while it
    still has the study's files; until then the part counts as not stored. Rows of the worklist that differ from their
    study are made anew. Nothing else is changed. `serve` may go on meanwhile.
    """
    checked, found, requested = Checked(), list[Finding](), 0
    with open_hub(data, SystemClock()) as hub, meter(Console(stderr=True)) as draw:
        for finding in check(hub, checked, lambda name, done, total: draw(name, done, total, f"{done} of {total}")):
            found.append(finding)
            if not json_:
                typer.echo(_line(finding))
        if repair_:
            with audited(hub, act_of(hub, Act.REPAIRED)):
                requested = repair(hub, found)
    if json_:
        write_json({"checked": asdict(checked), "findings": [_json(each) for each in found], "requested": requested})
    else:
        typer.echo(
            f"{len(found)} findings in {checked.parts} parts, {checked.receipts} receipts, {checked.reports} versions "
            f"of reports and {checked.audit_messages} audit messages"
        )
        if checked.unnamed_files:
            typer.echo(
                f"{checked.unnamed_files} files in blobs/ belong to no row: of a power cut, or newer than a restored "
                "database. They are kept (docs/administration.md, Restore)"
            )
        if repair_:
            typer.echo(f"{requested} parts are requested from the clinics")
    if found:
        raise typer.Exit(BadFormat.code)


def _line(finding: Finding) -> str:
    of = "" if finding.study is None else f" of {finding.study.hex()} ({finding.site})"
    return f"{finding.subject}{of}: {finding.problem}. {finding.remedy}"


def _json(finding: Finding) -> dict[str, Any]:
    return {
        "subject": finding.subject,
        "site": finding.site,
        "study": None if finding.study is None else finding.study.hex(),
        "problem": finding.problem,
        "remedy": finding.remedy,
        "repairable": finding.repairable,
    }
