"""`thinwire-receiver keys`: generations of the hub's keys."""

from typing import Annotated

import typer

from thinwire.receiver.access.audit_message import Act
from thinwire.receiver.cli.acts import act_of, also, audited
from thinwire.receiver.cli.options import Data, Json, write_json
from thinwire.receiver.hub import open_hub
from thinwire.receiver.sites.keyring import KeyKind, load_keyring, remove_retired
from thinwire.receiver.sites.keyring import rotate as make_generation
from thinwire.receiver.sites.rotation import KeyState, register, states
from thinwire.receiver.sites.rotation import retire as retire_unneeded
from thinwire.shared.clock import SystemClock

keys_app = typer.Typer(help="The hub's keys and their rotation.", no_args_is_help=True)


@keys_app.command(name="list", epilog="Example: `thinwire-receiver keys list --data hub`")
def list_(data: Data, json_: Json = False) -> None:
    """List the generations of the hub's keys: which is in use, and what another one waits for."""
    with open_hub(data, SystemClock()) as hub:
        found = states(hub.keys, hub.database, hub.clock)
        used = {hub.keys.authority, hub.keys.sealing}
    if json_:
        write_json([_json(each) for each in found])
        return
    for each in found:
        made = each.generation
        state = (
            "retired"
            if each.retired_at or made.retired
            else "in use"
            if made.secret in used
            else "earlier, still trusted"
            if each.in_use_at
            else "new"
        )
        waits = f"\t{'; '.join(each.waits_for)}" if each.waits_for else ""
        typer.echo(f"{made.kind} {made.number}\t{made.digest.hex()[:16]}\tmade {made.made_at:%Y-%m-%d}\t{state}{waits}")


@keys_app.command(epilog="Example: `thinwire-receiver keys rotate authority --data hub`")
def rotate(kind: Annotated[KeyKind, typer.Argument(help="The key to rotate.")], data: Data) -> None:
    """Make a new generation of a key. Then copy keys/ to every replica, and start `serve` again.

    Clinics learn it over the link, and the hub uses it later: `keys list` says when. The earlier one is trusted until
    `keys retire`.
    """
    with open_hub(data, SystemClock()) as hub, audited(hub, act_of(hub, Act.KEY_MADE, str(kind))):
        made = make_generation(data / "keys", kind, hub.disk, hub.clock)
        register(load_keyring(data / "keys"), hub.database, hub.clock)
    typer.echo(f"{kind} {made.number} is made. Copy keys/ to every replica, then start serve again on each.")


@keys_app.command(epilog="Example: `thinwire-receiver keys retire --data hub`")
def retire(data: Data) -> None:
    """Remove the earlier generations that nothing needs any more. `keys list` says what the others wait for."""
    with open_hub(data, SystemClock()) as hub:
        message = act_of(hub, Act.KEY_RETIRED)
        done = retire_unneeded(hub.keys, hub.database, hub.clock, also(hub, message))
        remove_retired(data / "keys", done, hub.disk)
    typer.echo("Earlier keys that nothing needs are removed. Copy keys/ to every replica.")


def _json(state: KeyState) -> dict[str, object]:
    made = state.generation
    return {
        "key": made.kind,
        "number": made.number,
        "digest": made.digest.hex(),
        "made": made.made_at.isoformat(),
        "in_use": state.in_use_at and state.in_use_at.isoformat(),
        "retired": state.retired_at and state.retired_at.isoformat(),
        "waits_for": list(state.waits_for),
    }
