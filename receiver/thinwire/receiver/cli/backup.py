"""`backup` and `restore`: a copy of the hub in another folder, and the way back."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from sqlalchemy import Connection

from thinwire.receiver.access.audit import append
from thinwire.receiver.access.audit_message import Act, Message
from thinwire.receiver.cli.acts import act_of, also, operator
from thinwire.receiver.cli.options import Data, Json, write_json
from thinwire.receiver.cli.progress import Meter, meter
from thinwire.receiver.config import load_settings
from thinwire.receiver.hub import offline_lock, open_hub, removal_lock
from thinwire.receiver.operations.backup import Copied, back_up, record_taken, restore
from thinwire.receiver.operations.move import move
from thinwire.receiver.operations.recovery import Recovered, recover
from thinwire.receiver.operations.retention import Retention
from thinwire.receiver.sites.keyring import load_keyring
from thinwire.shared.clock import SystemClock
from thinwire.shared.errors import BadConfiguration, BadFormat
from thinwire.shared.storage.durable import Disk
from thinwire.shared.storage.rows import Progress


def backup_command(
    data: Data,
    folder: Annotated[
        Path | None, typer.Argument(help="Folder of the backup, on another disk.", file_okay=False)
    ] = None,
    taken_at: Annotated[
        str | None,
        typer.Option(
            "--taken-at", metavar="TIME", help="Record a backup of another program that began at TIME (ISO 8601)."
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Bring a backup of the hub up to date: its database, every stored part, settings and bundles; not keys/.

    `serve` may go on meanwhile. The backup before it stays whole until the new one is; a backup that was stopped goes
    on with the next call. Clinics are told which studies a backup holds, and keep their own files until then
    (docs/administration.md, Backup). Exit code 70 if a stored part is damaged: it is in no backup.
    """
    if (folder is None) == (taken_at is None):
        raise typer.BadParameter("give the folder of the backup, or --taken-at for one that another program took")
    done, clock = Copied(), SystemClock()
    with open_hub(data, clock) as hub:
        made = also(hub, act_of(hub, Act.BACKED_UP))
        if folder is None:
            record_taken(hub.database, _moment(str(taken_at)), clock, made)
        else:
            hub.bundles.complete()
            with removal_lock(hub), meter(Console(stderr=True)) as draw:
                done = back_up(hub.database, hub.blobs, data, folder, hub.disk, clock, made, _shown(draw))
    if json_:
        write_json(_json(done))
    elif folder is None:
        typer.echo("The backup is recorded; the clinics are told.")
    else:
        typer.echo(f"{done.copied} parts copied, {done.copied_bytes:,} bytes; {done.there} were there.")
    _damaged(done, json_)


def restore_command(
    data: Data,
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="Folder of the backup. Without it: the data folder itself was put back by other means.",
            file_okay=False,
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Restore the hub from a backup while `serve` is stopped. Its keys/ must be in the data folder.

    The present database is kept in replaced/, parts on the disk stay. Parts that are newer than the backup come back
    where they are proven to be whole and of a known clinic; the clinics offer again what is missing. A restore that was
    stopped is repeated.
    """
    signing = load_keyring(data / "keys").signing
    reserve = load_settings(data).disk_reserve if (data / "config.toml").exists() else 0
    clock, disk = SystemClock(), Disk(reserve=reserve)

    def restored(connection: Connection) -> None:
        append(connection, Message(Act.RESTORED, clock.now(), operator()), signing)

    with meter(Console(stderr=True)) as draw:
        done = restore(data, folder, disk, clock, restored, _shown(draw))
    with open_hub(data, clock) as hub, offline_lock(data):
        hub.bundles.complete()
        # Before parts on the disk are looked at: those of a removed study are not put back.
        Retention(hub).remove_blobs()
        back = recover(hub)
    if json_:
        write_json({**_json(done), "recovered_parts": back.parts, "unnamed_files": back.left})
    else:
        _say(done, back)
    _damaged(done, json_)


def move_command(
    data: Data,
    to: Annotated[
        list[str],
        typer.Option(
            "--to",
            metavar="URL",
            envvar="THINWIRE_MOVE_TO",
            help="The empty PostgreSQL database (postgresql+psycopg://USER@HOST/NAME), and once more the object store "
            "(such as s3://BUCKET/PREFIX). URLs with "
            "a password belong in the variable, with a space between, since other users see a command line.",
        ),
    ],
    json_: Json = False,
) -> None:
    """Move the hub from its data folder to PostgreSQL and an object store, while serve is stopped.

    Every row and every part is compared with its copy before the settings name the new place. A move that was stopped
    goes on with the next call. The data folder keeps its files (docs/several-machines.md).
    Exit code 70 if a stored part is damaged: `check --repair` then requests it again.
    """
    databases = [url for url in to if url.startswith("postgresql")]
    if len(to) != 2 or len(databases) != 1:
        raise typer.BadParameter("give --to twice: the URL of the database, and the URL of the object store")
    (blobs,) = set(to) - set(databases)
    signing, clock, disk = load_keyring(data / "keys").signing, SystemClock(), Disk()

    def moved(connection: Connection) -> None:
        append(connection, Message(Act.MOVED, clock.now(), operator()), signing)

    with meter(Console(stderr=True)) as draw:
        done = move(data, databases[0], blobs, disk, clock, moved, _shown(draw))
    with open_hub(data, clock) as hub:
        hub.bundles.complete()
    if json_:
        write_json(_json(done))
    else:
        typer.echo(f"{done.copied} parts copied, {done.copied_bytes:,} bytes; {done.there} were there.")
        typer.echo("The hub is at its new place. Next: thinwire-receiver serve, on any number of machines.")
    _damaged(done, json_)


def _shown(draw: Meter) -> Progress:
    return lambda what, done, total: draw(what, done, total, f"{done} of {total}")


def _say(done: Copied, back: Recovered) -> None:
    typer.echo(f"{done.copied} parts copied, {done.copied_bytes:,} bytes; {done.there} were there.")
    if back.parts:
        typer.echo(f"{back.parts} newer parts of {back.studies} studies are put back.")
    if back.left:
        typer.echo(f"{back.left} files in blobs/ belong to no row, and are kept: their clinics offer them again.")
    typer.echo("Next: repeat what was enrolled, revoked or removed since the backup (docs/administration.md, Restore).")


def _damaged(done: Copied, json_: bool) -> None:
    if done.damaged:
        if not json_:
            typer.echo(f"{len(done.damaged)} parts are damaged or missing: run `thinwire-receiver check --repair`.")
        raise typer.Exit(BadFormat.code)


def _json(done: Copied) -> dict[str, object]:
    damaged = [each.hex() for each in done.damaged]
    return {"copied": done.copied, "bytes": done.copied_bytes, "there_already": done.there, "damaged": damaged}


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError
    except ValueError:
        raise BadConfiguration(
            f"{text!r} is no time with a zone", "Write it as 2026-11-30T02:00:00Z, from `date -u +%FT%TZ`."
        ) from None
    return moment
