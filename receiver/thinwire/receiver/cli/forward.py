"""`thinwire-receiver forward`: the state of forwarding to PACS and FHIR servers."""

from typing import Annotated

import typer
from rich import box
from rich.table import Table

from thinwire.receiver.access.audit_message import Act
from thinwire.receiver.cli.acts import act_of, audited
from thinwire.receiver.cli.options import Data, Json, Site, stdout, write_json
from thinwire.receiver.forward.delivery import DeliveryState
from thinwire.receiver.forward.queue import queue_of
from thinwire.receiver.hub import open_hub
from thinwire.shared.clock import SystemClock
from thinwire.shared.errors import BadInput
from thinwire.shared.identifiers import site_name

forward_app = typer.Typer(
    help="Forwarding to PACS and FHIR servers (config.toml, [forward]).", no_args_is_help=True, add_completion=False
)


@forward_app.command(epilog="Example: `thinwire-receiver forward status --data hub`")
def status(data: Data, json_: Json = False) -> None:
    """Show every delivery that is waiting, refused or unconfirmed, and the counts of all, by target.

    waiting: to be sent, or to be sent again · asked: sent, storage commitment is requested · confirmed: the peer
    committed, or was found to have it · unconfirmed: the peer accepted it and cannot confirm · refused: until `retry`.
    """
    with open_hub(data, SystemClock()) as hub:
        queue = queue_of(hub)
        tallies = queue.tallies()
        open_ = queue.all(
            state for state in DeliveryState if state not in (DeliveryState.CONFIRMED, DeliveryState.SUPERSEDED)
        )
        targets = [target.name for target in hub.settings.forward.targets]
        now = hub.clock.now()
    counts = {
        name: {str(tally.state): tally.count for tally in tallies if tally.target == name}
        for name in sorted({*targets, *(tally.target for tally in tallies)})
    }
    rows = [
        {
            "target": each.target,
            "site": each.site,
            "study": each.study.hex(),
            "item": each.item,
            "state": str(each.state),
            "attempts": each.attempts,
            "due": each.due.isoformat().replace("+00:00", "Z"),
            "reason": each.reason,
        }
        for each in open_
    ]
    if json_:
        write_json({"targets": counts, "deliveries": rows})
        return
    for name, states in counts.items():
        typer.echo(f"{name}: " + (", ".join(f"{n} {state}" for state, n in sorted(states.items())) or "nothing yet"))
    if not counts:
        typer.echo("no target: nothing is forwarded ([[forward.targets]] in config.toml, docs/administration.md)")
    if not open_:
        return
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for column in ("target", "site", "study", "item", "state", "next"):
        table.add_column(column, no_wrap=True)
    table.add_column("because")
    for each in open_:
        wait = max(0, int((each.due - now).total_seconds()))
        next_ = f"in {wait} s" if each.state in (DeliveryState.WAITING, DeliveryState.ASKED) else ""
        table.add_row(each.target, each.site, each.study.hex()[:8], each.item, str(each.state), next_, each.reason)
    stdout(120).print(table)


@forward_app.command(epilog="Example: `thinwire-receiver forward retry --target pacs --data hub`")
def retry(
    data: Data,
    target: Annotated[str | None, typer.Option(help="Only deliveries to this target.")] = None,
    study: Annotated[str | None, typer.Option(help="Only this study: its key, or its first digits.")] = None,
    site: Site = None,
) -> None:
    """Send now every delivery that is waiting, refused or unconfirmed. Confirmed deliveries are not sent again."""
    with open_hub(data, SystemClock()) as hub:
        if target is not None and target not in {each.name for each in hub.settings.forward.targets}:
            raise BadInput("no target has this name", "See `forward status` for the targets there are.")
        found, stored = None, None
        if study is not None:
            stored = hub.store.find(study, None if site is None else site_name(site))
            found = (stored.site, stored.study)
        with audited(hub, act_of(hub, Act.SENT_AGAIN, target, study=stored)):
            count = queue_of(hub).retry(target, found)
    typer.echo(f"{count} objects will be sent again", err=True)
