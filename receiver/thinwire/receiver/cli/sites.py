"""`thinwire-receiver site`: the clinics and their shares of the hub."""

from typing import Annotated, Any

import typer

from thinwire.receiver.access.audit_message import Act
from thinwire.receiver.cli.acts import act_of, also
from thinwire.receiver.cli.options import Data, Json, named_site, write_json
from thinwire.receiver.hub import open_hub
from thinwire.receiver.sites.certificates import SiteCertificate, in_force
from thinwire.receiver.sites.rotation import holders
from thinwire.receiver.store.shares import Limit
from thinwire.receiver.transport import link_status
from thinwire.shared.clock import SystemClock
from thinwire.shared.identifiers import SiteName

site_app = typer.Typer(help="Clinics and their shares of the hub.", no_args_is_help=True)


@site_app.command(name="list", epilog="Example: `thinwire-receiver site list --data hub`")
def list_(data: Data, json_: Json = False) -> None:
    """List the clinics: whether each may connect, its certificate, its share of the hub and its limits."""
    with open_hub(data, SystemClock()) as hub:
        served = set(hub.enrolment.served())
        given = {each.site: each for each in in_force(hub.database)}
        taken = holders(hub.database)
        heard = {link.site: link.last_heard for link in link_status.read_status(data, hub.clock.now())[1]}
        revoked = hub.enrolment.revoked()
        rows: list[dict[str, Any]] = [
            {
                "site": name,
                "state": "joined" if name in served else "revoked" if name in revoked else "token not used yet",
                "certificate": _certificate(given.get(name)),
                "keys": dict(zip(("authority", "sealing"), taken.get(name, (1, 1)), strict=True)),
                "last_heard": None if name not in heard else heard[name].isoformat(),
                "used": {"bytes": (used := hub.enrolment.usage(name)).bytes, "studies": used.studies},
                "limits": {str(limit): most for limit, most in hub.enrolment.limits(name).items()},
            }
            for name in hub.enrolment.site_names()
        ]
    if json_:
        write_json(rows)
        return
    for row in rows:
        used, limits = row["used"], row["limits"]
        typer.echo(
            f"{row['site']}\t{row['state']}\t{used['bytes']:,} of {limits['bytes']:,} bytes\t"
            f"{used['studies']:,} of {limits['studies']:,} new studies today\t"
            f"at most {limits['partials']:,} objects in transfer, {limits['epochs']:,} epochs\t{_words(row)}"
        )


def _certificate(given: SiteCertificate | None) -> dict[str, Any] | None:
    if given is None:
        return None
    expires = None if given.expires is None else given.expires.isoformat()
    return {"fingerprint": given.fingerprint.hex(), "expires": expires, "next_offered": given.next_offered}


def _words(row: dict[str, Any]) -> str:
    """The certificate and the last message of a clinic."""
    heard = "never heard" if row["last_heard"] is None else f"last heard {row['last_heard'][:16]}"
    if (certificate := row["certificate"]) is None:
        return heard
    ends = "an unknown time until it connects" if certificate["expires"] is None else certificate["expires"][:10]
    fresh = ", the next one is given" if certificate["next_offered"] else ""
    return f"certificate {certificate['fingerprint'][:16]} until {ends}{fresh}\t{heard}"


@site_app.command(epilog="Example: `thinwire-receiver site quota north-valley --studies 5000 --data hub`")
def quota(
    site: Annotated[str, typer.Argument(help="The clinic's name.")],
    data: Data,
    bytes: Annotated[int | None, typer.Option(min=0, help="Bytes of all its objects.", show_default=False)] = None,
    studies: Annotated[int | None, typer.Option(min=0, help="New studies in a day.", show_default=False)] = None,
    partials: Annotated[int | None, typer.Option(min=0, help="Objects in transfer.", show_default=False)] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs kept, and new ones in an hour.", show_default=False)
    ] = None,
    default: Annotated[bool, typer.Option("--default", help="The limits of config.toml apply again.")] = False,
) -> None:
    """Give a clinic limits of its own, over those of [quota] in config.toml; without an option, print its limits.

    A limit that is reached refuses nothing for good: the clinic shows it and tries again. A running `serve` uses the
    new limits at once.
    """
    name = named_site(site)
    asked = {Limit.BYTES: bytes, Limit.STUDIES: studies, Limit.PARTIALS: partials, Limit.EPOCHS: epochs}
    own = {limit: most for limit, most in asked.items() if most is not None}
    with open_hub(data, SystemClock()) as hub:
        if default:
            hub.enrolment.forget_limits(name, also(hub, act_of(hub, Act.QUOTA_SET, name, detail="the default")))
        if own:
            words = ", ".join(f"{limit} {most}" for limit, most in own.items())
            hub.enrolment.set_limits(name, own, also(hub, act_of(hub, Act.QUOTA_SET, name, detail=words)))
        limits = hub.enrolment.limits(SiteName(name))
    for limit, most in limits.items():
        typer.echo(f"{limit}\t{most}")
