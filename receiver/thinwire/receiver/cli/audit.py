"""The commands for the audit log."""

from base64 import urlsafe_b64decode
from typing import Annotated

import typer

from thinwire.receiver.access.audit import read_head
from thinwire.receiver.access.audit_message import Act
from thinwire.receiver.access.syslog import export_syslog, syslog_target
from thinwire.receiver.cli.acts import act_of
from thinwire.receiver.cli.options import Data
from thinwire.receiver.hub import open_hub
from thinwire.shared.clock import SystemClock
from thinwire.shared.errors import BadInput

audit_app = typer.Typer(help="Audit log of the hub.", no_args_is_help=True)


@audit_app.command(epilog="Example: `thinwire-receiver audit verify --data hub --head 812:5f3a...`")
def verify(
    data: Data,
    head: Annotated[
        list[str] | None,
        typer.Option("--head", help="An earlier head: the log must still contain it. Repeatable.", show_default=False),
    ] = None,
    anchor: Annotated[
        list[str] | None,
        typer.Option(
            "--anchor",
            help="A signed head as `thinwire-sender status --json` shows it: `audit_head`. Repeatable.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Verify the audit log's chain of digests and the hub's signature, and print its head (`NUMBER:DIGEST`).

    The log must also contain every head that clinics have reported. A clinic keeps the newest head and reports it
    whenever it connects, so that removed messages show. Exit code 70 if the log does not hold.
    """
    try:
        noted = [read_head(each) for each in head or ()]
        kept = [urlsafe_b64decode(each + "=" * (-len(each) % 4)) for each in anchor or ()]
    except ValueError as error:
        raise BadInput(
            "this is not a head of an audit log", "Give NUMBER:DIGEST as `audit verify` printed it."
        ) from error
    with open_hub(data, SystemClock()) as hub:
        typer.echo(str(hub.audit.verify([*noted, *map(hub.audit.anchor, kept)])))


@audit_app.command(
    epilog="Example: `thinwire-receiver audit accept --reason 'restored from the backup of 3 March' --data hub`"
)
def accept(
    data: Data,
    reason: Annotated[
        str, typer.Option("--reason", help="Why the log lacks them, for the log itself.", show_default=False)
    ],
) -> None:
    """Accept that the log lacks heads that clinics keep, as after the hub was restored from a backup. The log keeps the
    message of each."""
    with open_hub(data, SystemClock()) as hub:
        count = hub.audit.accept_loss(act_of(hub, Act.LOSS_ACCEPTED, detail=reason[:200]))
    typer.echo(f"{count} missing heads are accepted.", err=True)


@audit_app.command(
    epilog="Examples: `thinwire-receiver audit export --data hub > audit.xml` · "
    "`thinwire-receiver audit export --syslog tls://audit.example.org:6514 --data hub`"
)
def export(
    data: Data,
    syslog: Annotated[
        str | None,
        typer.Option(
            help="tls://HOST:PORT, tcp://HOST:PORT or udp://HOST:PORT of a syslog server.", show_default=False
        ),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Send the whole log to the syslog server again.")] = False,
) -> None:
    """Write every message, one a line, oldest first, as XML (DICOM PS3.15 A.5). The export itself is recorded too.

    With --syslog the messages go to a syslog server (RFC 5424; TLS as RFC 5425, TCP as RFC 6587, UDP as RFC 5426). Each
    export continues after the last message that this server was sent; after a broken connection some may come twice.
    The server's TLS certificate must be valid for HOST under the system's authorities, or those of SSL_CERT_FILE.
    """
    target = None if syslog is None else syslog_target(syslog)
    with open_hub(data, SystemClock()) as hub:
        hub.audit.record(act_of(hub, Act.AUDIT_READ, detail="exported", object=None if target is None else str(target)))
        if target is not None:
            sent = export_syslog(hub.audit, target, again)
            typer.echo(f"{sent} messages are sent to {target}.", err=True)
            return
        for entry in hub.audit.entries():
            typer.echo(entry.message)
