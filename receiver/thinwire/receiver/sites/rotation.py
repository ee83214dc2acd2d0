"""Which generations of the hub's keys are in use, at every replica alike. Procedure: docs/administration.md.

A generation is registered in the database, announced to the clinics, put in use, and at the end retired. The steps are
taken when a hub starts (`advance`), and by `keys retire`. An authority is put in use when every served clinic has
confirmed it, or when the one before is about to end; a sealing key after a day in which every replica got it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, exists, func, or_, select, update

from thinwire.receiver.sites.keyring import Announcement, KeyGeneration, KeyKind, Keyring
from thinwire.receiver.store.tables import certificates, epochs, hub_keys, key_holders, sites, tokens
from thinwire.shared.clock import Clock
from thinwire.shared.crypto.certificates import der, expiry, key_identifier, load
from thinwire.shared.crypto.keys import SERVER_LIFE, Authority, HubPrivateKey
from thinwire.shared.errors import BadConfiguration
from thinwire.shared.formats.hub_keys import HubKeys, sign_hub_keys
from thinwire.shared.formats.positional import micros, moment
from thinwire.shared.identifiers import Digest, SiteName, digest
from thinwire.shared.storage.database import Database, insert_new

SETTLING = timedelta(days=1)
"""From the registration of a key in a shared database to its first use: by then every replica has it, or stopped."""
STICK_LIFE = timedelta(days=400)
"""Time in which a drive with objects under an earlier sealing key may still arrive."""

_SERVED = and_(sites.c.signing_key.is_not(None), sites.c.dismissed_at.is_(None))


@dataclass(frozen=True)
class KeyState:
    """A generation and its way."""

    generation: KeyGeneration
    in_use_at: datetime | None
    retired_at: datetime | None
    waits_for: tuple[str, ...]
    """Reasons for which it is not put in use yet, or not retired; for people."""


def in_use(keys: Keyring, database: Database) -> Keyring:
    """The keyring with the generations in use, and the list for the clinics. Raises BadConfiguration where the database
    knows a key that the folder does not have: signatures of one half of a cluster would not hold at the other."""
    with database.read() as connection:
        rows = _rows(connection)
    _require_held(rows, keys)
    # One that is retired in the database alone: `keys retire` was stopped, and is repeated.
    left = tuple(
        replace(each, secret=None) if each.digest in rows and rows[each.digest].retired_at is not None else each
        for each in keys.generations
    )
    registered = [each for each in left if not each.retired and each.digest in rows]
    used = {kind: _used(registered, rows, kind) for kind in KeyKind}
    authority, sealing = used[KeyKind.AUTHORITY], used[KeyKind.SEALING]
    if authority is None or sealing is None:
        return replace(keys, generations=left)  # a hub that has not started yet
    assert isinstance(authority.secret, Authority)
    assert isinstance(sealing.secret, HubPrivateKey)
    announcement = _announcement(keys, registered, rows, sealing)
    return Keyring(authority.secret, sealing.secret, keys.signing, left, announcement)


def register(keys: Keyring, database: Database, clock: Clock, new: bool = False) -> None:
    """Record the keys of the folder in the database: from then on no replica starts without them. new: of a hub that is
    being made. Raises BadConfiguration for a folder that is older than the database, for a database of another hub, and
    for a new hub if the database has one."""
    now = micros(clock.now())
    with database.read() as connection:
        rows = _rows(connection)
    if not new and all(each.digest in rows and not _is_retired_here(each, rows) for each in keys.generations):
        _require_held(rows, keys)
        return  # as at most starts; a transaction without a turn stops the whole cluster
    with database.write() as connection:
        rows = _rows(connection)
        if new and rows:
            raise BadConfiguration(
                "the database already holds a hub",
                "Copy config.toml and the folder keys from the data folder of that hub to make another replica of it, "
                "or make another database.",
            )
        # Also one that another replica registered since.
        _require_held(rows, keys)
        kinds = {row.kind for row in rows.values()}
        for each in keys.generations:
            if each.digest not in rows and not each.retired:
                _register(connection, each, now, None if each.kind in kinds else now)
                kinds.add(each.kind)
            elif _is_retired_here(each, rows):
                # The database is a backup of before.
                _set(connection, each.digest, retired_at=now)


def require_own(keys: Keyring, connection: Connection) -> None:
    """Raises BadConfiguration for a database of another hub: one that has keys, and none of these."""
    rows = _rows(connection)
    if rows and rows.keys().isdisjoint(each.digest for each in keys.generations):
        raise BadConfiguration(
            "the database is of another hub: it knows none of the keys in the folder keys",
            "Name this hub's database, or another backup, or copy keys/ from the data folder of that hub.",
        )


def _require_held(rows: dict[bytes, Row[Any]], keys: Keyring) -> None:
    held = {each.digest for each in keys.generations}
    if any(digest not in held and row.retired_at is None for digest, row in rows.items()):
        raise BadConfiguration(
            "the folder keys is older than the hub's database, which knows a key that is missing there, or of another "
            "hub",
            "Copy keys/ from the replica on which `thinwire-receiver keys rotate` ran, or name this hub's database.",
        )


def _is_retired_here(generation: KeyGeneration, rows: dict[bytes, Row[Any]]) -> bool:
    """Whether the folder has retired a key that the database has not."""
    row = rows.get(generation.digest)
    return generation.retired and row is not None and row.retired_at is None


def advance(keys: Keyring, database: Database, clock: Clock) -> None:
    """Register new keys, and put those in use for which it is time. Call it before a hub serves."""
    register(keys, database, clock)
    present = in_use(keys, database)
    with database.read() as connection:
        if not any(_fresh(present, _rows(connection), kind) for kind in KeyKind):
            return
    with database.write() as connection:
        rows = _rows(connection)
        for kind in KeyKind:
            fresh = _fresh(present, rows, kind)
            if fresh is not None and not _missing(connection, present, rows, fresh, clock, database.shared):
                _set(connection, fresh.digest, in_use_at=micros(clock.now()))


def states(keys: Keyring, database: Database, clock: Clock) -> list[KeyState]:
    """Every generation, by kind and number, and why it waits. keys: as `in_use` gives them."""
    with database.read() as connection:
        rows, found = _rows(connection), []
        for each in keys.generations:
            row = rows.get(each.digest)
            waits: Sequence[str] = ()
            if row is None:
                waits = () if each.retired else ["it is announced when serve starts again"]
            elif row.retired_at is None and row.in_use_at is None:
                waits = _missing(connection, keys, rows, each, clock, database.shared)
                waits = waits or ["it is put in use when serve starts again"]
            elif row.retired_at is None and _newest(rows, each.kind) > each.number:
                waits = _needed(connection, rows, each, clock)
            used, ended = (None, None) if row is None else tuple(None if at is None else moment(at) for at in row[-2:])
            found.append(KeyState(each, used, ended, tuple(waits)))
    return found


def retire(keys: Keyring, database: Database, clock: Clock, also: Any = lambda _: None) -> set[Digest]:
    """Retire the generations that nothing needs any more; returns all that are retired, also by an earlier call."""
    with database.write() as connection:
        rows = _rows(connection)
        for each in keys.generations:
            row = rows.get(each.digest)
            if row is None or row.retired_at is not None or row.in_use_at is None:
                continue
            if _newest(rows, each.kind) > each.number and not _needed(connection, rows, each, clock):
                _set(connection, each.digest, retired_at=micros(clock.now()))
        also(connection)
        return {Digest(found) for found, row in _rows(connection).items() if row.retired_at is not None}


def record_taken(database: Database, keys: Keyring, clock: Clock, site: SiteName, taken: Digest) -> None:
    """A clinic has this list of keys, durably. Without effect for another list than the present one."""
    told = keys.announcement
    if not told.signed or taken != digest(told.signed):
        return
    row: dict[str, Any] = {"authority": told.authority, "sealing": told.sealing}
    same = exists().where(key_holders.c.site == site, *(key_holders.c[name] == value for name, value in row.items()))
    with database.read() as connection:
        if connection.scalar(select(same)):
            return
    row["at"] = micros(clock.now())
    with database.write(turn=site) as connection:
        new = insert_new(key_holders).values(site=site, **row)
        connection.execute(new.on_conflict_do_update(index_elements=["site"], set_=row))


def holders(database: Database) -> dict[SiteName, tuple[int, int]]:
    """The newest authority and sealing key that each site has confirmed, by number; (1, 1) for any other."""
    columns = key_holders.c.site, key_holders.c.authority, key_holders.c.sealing
    with database.read() as connection:
        return {SiteName(row[0]): (row[1], row[2]) for row in connection.execute(select(*columns))}


def check_running(keys: Keyring, database: Database) -> None:
    """Raises BadConfiguration where a process must not go on with its keys: another replica uses one that it does not
    have, or has retired one that it uses."""
    with database.read() as connection:
        rows = _rows(connection)
    held = {each.digest for each in keys.generations}
    mine = {each.digest for each in keys.generations if each.secret in (keys.authority, keys.sealing)}
    newer = any(row.in_use_at is not None and row.retired_at is None and key not in held for key, row in rows.items())
    if newer or any(key in mine and row.retired_at is not None for key, row in rows.items()):
        raise BadConfiguration(
            "the hub's keys were rotated since this process started",
            "Copy keys/ from the replica on which `thinwire-receiver keys rotate` ran, and start serve again.",
        )


def _rows(connection: Connection) -> dict[bytes, Row[Any]]:
    c = hub_keys.c
    query: Select[Any] = select(c.digest, c.kind, c.number, c.registered_at, c.in_use_at, c.retired_at)
    return {bytes(row.digest): row for row in connection.execute(query)}


def _register(connection: Connection, generation: KeyGeneration, now: int, in_use_at: int | None) -> None:
    secret = generation.secret
    ends = micros(expiry(load(secret.certificate_pem))) if isinstance(secret, Authority) else None
    row = {
        "digest": generation.digest,
        "kind": str(generation.kind),
        "number": generation.number,
        "made_at": micros(generation.made_at),
        "registered_at": now,
        "in_use_at": in_use_at,
        "expires_at": ends,
    }
    connection.execute(insert_new(hub_keys).values(row).on_conflict_do_nothing())


def _set(connection: Connection, key: Digest, **values: int) -> None:
    connection.execute(update(hub_keys).where(hub_keys.c.digest == key).values(**values))


def _used(registered: Sequence[KeyGeneration], rows: dict[bytes, Row[Any]], kind: KeyKind) -> KeyGeneration | None:
    """The newest generation that is in use."""
    used = [each for each in registered if each.kind is kind and rows[each.digest].in_use_at is not None]
    return max(used, key=lambda each: each.number, default=None)


def _newest(rows: dict[bytes, Row[Any]], kind: KeyKind) -> int:
    """The number of the newest generation in use."""
    used = [row.number for row in rows.values() if row.kind == kind and row.in_use_at is not None]
    return max(used, default=0)


def _fresh(keys: Keyring, rows: dict[bytes, Row[Any]], kind: KeyKind) -> KeyGeneration | None:
    """The newest generation, if it is not in use yet."""
    mine = [each for each in keys.generations if each.kind is kind and not each.retired and each.digest in rows]
    newest = max(mine, key=lambda each: each.number, default=None)
    return newest if newest is not None and newest.number > _newest(rows, kind) else None


def _announcement(
    keys: Keyring, registered: Sequence[KeyGeneration], rows: dict[bytes, Row[Any]], sealing: KeyGeneration
) -> Announcement:
    authorities = [each for each in registered if isinstance(each.secret, Authority)]
    if len(rows) == len(KeyKind):
        return Announcement()  # clinics have the first generation since they joined
    # The same at every replica, and later after every change.
    at = max(at for row in rows.values() for at in (row.registered_at, row.in_use_at, row.retired_at) if at is not None)
    certificates_ = [each.secret.certificate_pem for each in authorities if isinstance(each.secret, Authority)]
    assert isinstance(sealing.secret, HubPrivateKey)
    told = HubKeys(moment(at), tuple(der(load(each)) for each in certificates_), sealing.secret.public.raw)
    return Announcement(sign_hub_keys(told, keys.signing), authorities[-1].number, sealing.number)


def _missing(
    connection: Connection,
    keys: Keyring,
    rows: dict[bytes, Row[Any]],
    fresh: KeyGeneration,
    clock: Clock,
    shared: bool,
) -> list[str]:
    """Why a new generation is not put in use yet."""
    now = micros(clock.now())
    settled = rows[fresh.digest].registered_at + (micros(clock.now() + SETTLING) - now if shared else 0)
    found = [] if settled <= now else [f"every replica must have it until {moment(settled):%Y-%m-%d %H:%M} UTC"]
    if fresh.kind is KeyKind.SEALING or found:
        return found
    ends = expiry(load(keys.authority.certificate_pem))
    if ends - clock.now() < SERVER_LIFE:
        return []
    # A clinic of an earlier version never confirms it, and is served until its certificate ends.
    valid = exists().where(
        certificates.c.site == sites.c.name,
        certificates.c.fingerprint == sites.c.certificate,
        certificates.c.expires_at <= now,
    )
    has = exists().where(key_holders.c.site == sites.c.name, key_holders.c.authority >= fresh.number)
    waiting = connection.scalars(select(sites.c.name).where(_SERVED, ~valid, ~has).order_by(sites.c.name)).all()
    if waiting:
        found.append(_named("not confirmed by", waiting))
    if connection.scalar(select(exists().where(tokens.c.expires_at > now))):
        found.append("a join token of the present authority is valid, for 7 days at most")
    return found


def _needed(connection: Connection, rows: dict[bytes, Row[Any]], old: KeyGeneration, clock: Clock) -> list[str]:
    """Why an earlier generation is not retired yet."""
    now = micros(clock.now())
    mine = and_(certificates.c.site == sites.c.name, certificates.c.fingerprint == sites.c.certificate)
    if isinstance(old.secret, Authority):
        issuer = key_identifier(load(old.secret.certificate_pem))
        ends = or_(certificates.c.expires_at.is_(None), certificates.c.authority == issuer)
        alive = or_(certificates.c.expires_at.is_(None), certificates.c.expires_at > now)
        query = select(sites.c.name).select_from(sites.outerjoin(certificates, mine)).where(_SERVED, ends, alive)
        waiting = connection.scalars(query.order_by(sites.c.name)).all()
        return [_named("certificates of it have", waiting)] if waiting else []
    if not isinstance(old.secret, HubPrivateKey):
        return []
    found, newest = [], _newest(rows, old.kind)
    has = exists().where(key_holders.c.site == sites.c.name, key_holders.c.sealing >= newest)
    if waiting := connection.scalars(select(sites.c.name).where(_SERVED, ~has).order_by(sites.c.name)).all():
        found.append(_named("the new one is not confirmed by", waiting))
    sealed = func.substr(epochs.c.record, 21, 8) == old.secret.public.key_id
    if epochs_left := connection.scalar(select(func.count()).select_from(epochs).where(sealed)):
        found.append(f"{epochs_left} epochs are sealed to it")
    used = next(row.in_use_at for row in rows.values() if row.kind == old.kind and row.number == newest)
    if (until := moment(used) + STICK_LIFE) > clock.now():
        found.append(f"a drive may still bring objects until {until:%Y-%m-%d}")
    return found


def _named(what: str, names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{what} {', '.join(names[:most])}{more}"
