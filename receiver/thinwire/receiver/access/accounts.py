"""Sign-in to the reading room: local accounts, their roles, one-time links, sessions. Table: docs/store-format.md.

Only its holder knows a password: an account is created without one, and its holder sets it with a one-time link.
"""

import hashlib
import os
import re
import secrets
import threading
from base64 import urlsafe_b64encode
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import Connection, Row, Select, delete, exists, insert, select, update

from thinwire.receiver.store.tables import accounts, invitations, sessions
from thinwire.shared.clock import Clock
from thinwire.shared.errors import BadInput
from thinwire.shared.formats.positional import micros, moment
from thinwire.shared.storage.database import Database

INVITATION = timedelta(hours=24)
"""Validity of a one-time link."""
IDLE = timedelta(hours=1)
"""Idle time after which a session ends."""
LONGEST = timedelta(hours=12)
"""Longest duration of a session."""
SHORTEST_PASSWORD = 12
LONGEST_PASSWORD = 256
_TOUCH_INTERVAL = timedelta(minutes=1)
"""Least time between two updates of a session's last request."""
_TOKEN_BYTES = 32
_AT_ONCE = 2
"""Passwords that are hashed at the same time; each takes 64 MiB."""
_TURN = "accounts"
"""Of all writers to their tables."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")

Also = Callable[[Connection], object]
"""Called in the same transaction, for example to add an audit message."""


class Role(StrEnum):
    READER = "reader"
    """Reads studies, requests tiers, writes and signs reports."""
    ADMINISTRATOR = "administrator"
    """Sees studies and the audit log; signs nothing."""


@dataclass(frozen=True)
class Account:
    name: str
    full_name: str
    """The person's name as printed on reports."""
    role: Role
    made: datetime
    closed: bool
    waits: bool
    """It has no password yet: its one-time link was not used."""


@dataclass(frozen=True)
class Session:
    account: Account
    form_key: str = field(repr=False)
    """The token in every form against cross-site requests."""


class Accounts:
    """Safe from any thread and process. random_bytes: for links and sessions."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        hasher: PasswordHasher | None = None,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._database = database
        self._clock = clock
        self._hasher = hasher or PasswordHasher()
        self._random = random_bytes
        self._hashing = threading.BoundedSemaphore(_AT_ONCE)
        self._nobody: str | None = None

    # Accounts.

    def all(self) -> list[Account]:
        """By name, closed ones too."""
        with self._database.read() as connection:
            return [_account(row) for row in connection.execute(select(accounts).order_by(accounts.c.name))]

    def add(self, name: str, full_name: str, role: Role, also: Also) -> str:
        """A new account; returns the secret of its one-time link. Raises BadInput."""
        row = self._new(name, full_name, role)
        with self._database.write(turn=_TURN) as connection:
            _insert(connection, row)
            secret = self._invite(connection, name)
            also(connection)
        return secret

    def remove(self, name: str, also: Also) -> None:
        """Close an account and end its sessions; its name is not reused, since reports have it. Raises BadInput."""
        with self._database.write(turn=_TURN) as connection:
            open_ = (accounts.c.name == name) & accounts.c.closed_at.is_(None)
            done = connection.execute(update(accounts).where(open_).values(closed_at=micros(self._clock.now())))
            if done.rowcount != 1:
                raise BadInput("there is no open account of this name", "See `thinwire-receiver account list`.")
            connection.execute(delete(sessions).where(sessions.c.account == name))
            connection.execute(delete(invitations).where(invitations.c.account == name))
            also(connection)

    def first(self) -> str | None:
        """The secret of a one-time link that makes the first administrator; None once an account has been made."""
        with self._database.write(turn=_TURN) as connection:
            if connection.scalar(select(exists().where(accounts.c.name.is_not(None)))):
                return None
            connection.execute(delete(invitations).where(invitations.c.account.is_(None)))
            return self._invite(connection, None)

    def invited(self, secret: str) -> tuple[bool, str | None]:
        """(whether the link is valid, its account: None for the first administrator's link)"""
        with self._database.read() as connection:
            row = self._invitation(connection, secret)
            return row is not None, None if row is None else row.account

    def accept(self, secret: str, password: str, name: str, full_name: str, also: Also) -> str:
        """Use a one-time link up: set the password; name, shown: of the first administrator's account.

        Returns the account's name. Raises BadInput for a link that does not hold, or a password that is too short.
        """
        if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
            raise BadInput(
                "the password is too short or too long",
                f"Choose one of {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters; a phrase of a few words is best.",
            )
        hashed = self._hash(password)
        with self._database.write(turn=_TURN) as connection:
            row = self._invitation(connection, secret)
            if row is None:
                raise BadInput("the link was used or is expired", "Ask for a new one: thinwire-receiver account link.")
            if row.account is None:
                _insert(connection, self._new(name, full_name, Role.ADMINISTRATOR))
            whose = row.account or name
            connection.execute(update(accounts).where(accounts.c.name == whose).values(password=hashed))
            connection.execute(delete(invitations).where(invitations.c.hash == row.hash))
            connection.execute(delete(sessions).where(sessions.c.account == whose))
            also(connection)
            return str(whose)

    def link(self, name: str, also: Also) -> str:
        """The secret of a new one-time link, for a lost password; older links become invalid. Raises BadInput."""
        with self._database.write(turn=_TURN) as connection:
            if self._open(connection, name) is None:
                raise BadInput("there is no open account of this name", "See `thinwire-receiver account list`.")
            connection.execute(delete(invitations).where(invitations.c.account == name))
            secret = self._invite(connection, name)
            also(connection)
        return secret

    def check(self, name: str, password: str) -> Account | None:
        """The account with this password, or None; equally slow for unknown names."""
        with self._database.read() as connection:
            row = self._open(connection, name)
        hashed = None if row is None else row.password
        if hashed is None:
            self._nobody = self._nobody or self._hash(secrets.token_hex(8))
        with self._hashing:
            try:
                self._hasher.verify(hashed or self._nobody or "", password[:LONGEST_PASSWORD])
            except (VerificationError, InvalidHashError):
                return None
        return None if row is None or hashed is None else _account(row)

    def of_subject(
        self, issuer: str, subject: str, name: str, full_name: str, role: Role, also: Also
    ) -> Account | None:
        """The account of a person whom an OpenID provider vouches for, made at the first sign-in; None once closed.

        Raises BadInput where the name is taken by another account.
        """
        this = (accounts.c.issuer == issuer) & (accounts.c.subject == subject)
        with self._database.write(turn=_TURN) as connection:
            row = connection.execute(select(accounts).where(this)).one_or_none()
            if row is None:
                _insert(connection, {**self._new(name, full_name, role), "issuer": issuer, "subject": subject})
            elif row.closed_at is not None:
                return None
            else:
                connection.execute(update(accounts).where(this).values(full_name=full_name, role=str(role)))
            also(connection)
            return _account(connection.execute(select(accounts).where(this)).one())

    # Sessions.

    def start(self, name: str, also: Also) -> str:
        """A new session; returns its secret, which the browser alone keeps."""
        secret, now = self._secret(), micros(self._clock.now())
        with self._database.write(turn=_TURN) as connection:
            old = micros(self._clock.now() - LONGEST)
            connection.execute(delete(sessions).where(sessions.c.started_at < old))
            row = {"hash": _hash(secret), "account": name, "started_at": now, "seen_at": now}
            connection.execute(insert(sessions).values(row))
            also(connection)
        return secret

    def session(self, secret: str, touch: bool = True) -> Session | None:
        """The session of a secret, or None. touch: False for automatic requests of a page, which do not extend it."""
        this, now = sessions.c.hash == _hash(secret), self._clock.now()
        with self._database.read() as connection:
            row = connection.execute(_sessions().where(this)).one_or_none()
        if row is None or not _holds(row, now):
            return None
        if touch and now - moment(row.seen_at) > _TOUCH_INTERVAL:
            with self._database.write(turn=_TURN) as connection:
                connection.execute(update(sessions).where(this).values(seen_at=micros(now)))
        return Session(_account(row), _hash(f"form {secret}").hex())

    def open_sessions(self, secrets: Collection[str]) -> frozenset[str]:
        """Those of these secrets whose session goes on, by one query; none of the sessions is extended."""
        hashes, now = {_hash(secret): secret for secret in secrets}, self._clock.now()
        with self._database.read() as connection:
            rows = connection.execute(_sessions().where(sessions.c.hash.in_(list(hashes)))).all()
        return frozenset(hashes[row.hash] for row in rows if _holds(row, now))

    def end(self, secret: str, also: Also) -> None:
        with self._database.write(turn=_TURN) as connection:
            connection.execute(delete(sessions).where(sessions.c.hash == _hash(secret)))
            also(connection)

    def _hash(self, password: str) -> str:
        with self._hashing:
            return self._hasher.hash(password)

    def _secret(self) -> str:
        return urlsafe_b64encode(self._random(_TOKEN_BYTES)).decode().rstrip("=")

    def _invite(self, connection: Connection, name: str | None) -> str:
        secret = self._secret()
        row = {"hash": _hash(secret), "account": name, "expires_at": micros(self._clock.now() + INVITATION)}
        connection.execute(insert(invitations).values(row))
        return secret

    def _invitation(self, connection: Connection, secret: str) -> Row[Any] | None:
        holds = (invitations.c.hash == _hash(secret)) & (invitations.c.expires_at > micros(self._clock.now()))
        return connection.execute(select(invitations).where(holds)).one_or_none()

    def _open(self, connection: Connection, name: str) -> Row[Any] | None:
        this = (accounts.c.name == name) & accounts.c.closed_at.is_(None)
        return connection.execute(select(accounts).where(this)).one_or_none()

    def _new(self, name: str, full_name: str, role: Role) -> dict[str, Any]:
        full_name = " ".join(full_name.split())
        if not _NAME.fullmatch(name):
            raise BadInput(
                "the account name has characters that are not allowed",
                "Use 1 to 64 of a-z, 0-9, '.', '_' and '-', for example a.lund.",
            )
        if not 1 <= len(full_name) <= 128 or not full_name.isprintable():
            raise BadInput("a person's name is missing or too long", "Give the name as it is to be printed on reports.")
        return {"name": name, "full_name": full_name, "role": str(role), "made_at": micros(self._clock.now())}


def _insert(connection: Connection, row: dict[str, Any]) -> None:
    if connection.scalar(select(exists().where(accounts.c.name == row["name"]))):
        raise BadInput("an account with this name exists", "Choose another name; names are not reused.")
    connection.execute(insert(accounts).values(row))


def _sessions() -> Select[Any]:
    return select(sessions.c.hash, sessions.c.started_at, sessions.c.seen_at, accounts).join(accounts)


def _holds(session: Row[Any], now: datetime) -> bool:
    if session.closed_at is not None:
        return False
    return now - moment(session.seen_at) <= IDLE and now - moment(session.started_at) <= LONGEST


def _account(row: Row[Any]) -> Account:
    waits = row.password is None and row.subject is None
    return Account(row.name, row.full_name, Role(row.role), moment(row.made_at), row.closed_at is not None, waits)


def _hash(secret: str) -> bytes:
    return hashlib.sha256(b"thinwire reading room v1\0" + secret.encode()).digest()
