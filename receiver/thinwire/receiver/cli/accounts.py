"""The commands for the accounts of the reading room."""

from typing import Annotated

import typer

from thinwire.receiver.access.accounts import Also, Role
from thinwire.receiver.access.audit_message import Act
from thinwire.receiver.cli.acts import act_of, also
from thinwire.receiver.cli.options import Data
from thinwire.receiver.hub import Hub, open_hub
from thinwire.shared.clock import SystemClock

account_app = typer.Typer(help="Accounts of the reading room.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Account name, such as a.lund.", show_default=False)]


@account_app.command(
    epilog='Example: `thinwire-receiver account add a.lund --name-on-reports "Dr. Anna Lund" --data hub`'
)
def add(
    name: Name,
    data: Data,
    full_name: Annotated[
        str | None, typer.Option("--name-on-reports", help="The person's name as printed on reports. Required.")
    ] = None,
    shown: Annotated[str | None, typer.Option(hidden=True, help="Older name of --name-on-reports.")] = None,
    role: Annotated[Role, typer.Option("--role", help="reader or administrator.")] = Role.READER,
) -> None:
    """Create an account, and print its one-time link, with which its holder sets the password. It is valid for 24
    hours."""
    full_name = full_name or shown
    if full_name is None:
        raise typer.BadParameter("the name is missing", param_hint="--name-on-reports")
    with open_hub(data, SystemClock()) as hub:
        _link(hub, name, hub.accounts.add(name, full_name, role, _also(hub, Act.ACCOUNT_ADDED, name)))


@account_app.command(epilog="Example: `thinwire-receiver account link a.lund --data hub`")
def link(name: Name, data: Data) -> None:
    """Print a new one-time link for an account. The old password is valid until the link is used."""
    with open_hub(data, SystemClock()) as hub:
        _link(hub, name, hub.accounts.link(name, _also(hub, Act.ACCOUNT_LINKED, name)))


@account_app.command(name="list", epilog="Example: `thinwire-receiver account list --data hub`")
def list_(data: Data) -> None:
    """List the accounts: name, role, the person's name, and whether the account is open."""
    with open_hub(data, SystemClock()) as hub:
        for each in hub.accounts.all():
            state = "closed" if each.closed else "link not used yet" if each.waits else "open"
            typer.echo(f"{each.name}\t{each.role}\t{each.full_name}\t{state}")


@account_app.command(epilog="Example: `thinwire-receiver account remove a.lund --data hub`")
def remove(name: Name, data: Data) -> None:
    """Close an account and end its sessions. Its reports stay, and its name is never reused."""
    with open_hub(data, SystemClock()) as hub:
        hub.accounts.remove(name, _also(hub, Act.ACCOUNT_REMOVED, name))
    typer.echo(f"{name} is closed.", err=True)


def _also(hub: Hub, act: Act, name: str) -> Also:
    return also(hub, act_of(hub, act, account=name))


def _link(hub: Hub, name: str, secret: str) -> None:
    origin = hub.settings.web_proxy or "https://ADDRESS-OF-THE-PAGE"
    typer.echo(f"{name} signs in once with this link. It is valid for 24 hours.", err=True)
    typer.echo(f"{origin}/welcome/{secret}")
