"""The enrolled sites: join tokens, certificates, epochs."""

import hashlib
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import Connection, Select, delete, exists, func, insert, join, select, update

from thinwire.receiver.config import QuotaSettings
from thinwire.receiver.sites.certificates import SiteCertificates, put_in_force
from thinwire.receiver.sites.keyring import Keyring
from thinwire.receiver.sites.rotation import record_taken
from thinwire.receiver.store.news import ACCESS
from thinwire.receiver.store.shares import (
    AGAIN_AFTER,
    Limit,
    Usage,
    check_served,
    limits_of,
    set_limits,
    usage_of,
)
from thinwire.receiver.store.tables import epoch_uses, epochs, join_answers, key_holders, quotas, sites, tokens
from thinwire.shared.clock import Clock
from thinwire.shared.crypto.envelope import EpochKey, open_epoch, peek_epoch
from thinwire.shared.crypto.keys import JoinTokenId, check_join, fingerprint, issue_client, make_token, read_token
from thinwire.shared.errors import HubBusy, LimitReached, NotEnrolled
from thinwire.shared.formats.positional import micros
from thinwire.shared.identifiers import Digest, EpochId, SiteName, digest
from thinwire.shared.storage.database import Database, insert_new, prepared, tell

EPOCH_LIFE = timedelta(days=400)
"""Time without a stored object after which an epoch is removed; longer than a backup is old, whose restore proves parts
by their epochs."""
EPOCH_WINDOW = timedelta(hours=1)
_MOST_OPENED = 8192
"""Opened epochs in memory: more than the clinics that send in the same hours. Those in use stay."""
FRESH_SECONDS = 2.0
"""For which an epoch that was found counts as there, also where another process lets it expire."""

Also = Callable[[Connection], object]
"""Called in the same transaction, for example to add an audit message."""


def _nothing_more(_connection: Connection) -> None:
    """For callers that add nothing."""


@dataclass(frozen=True)
class JoinResult:
    """The answer to a join token."""

    site: SiteName
    certificate_pem: bytes
    sealing_key: bytes
    """The hub's HPKE public key, 1216 bytes."""
    signing_key: bytes
    """The hub's Ed25519 public key, 32 bytes."""


@dataclass
class _Opened:
    key: EpochKey
    verify_key: Ed25519PublicKey
    read_at: float
    """Seconds, monotonic."""


class SiteRegistry:
    """Safe from any thread; other processes (the command line) may use the same database."""

    def __init__(self, database: Database, keys: Keyring, clock: Clock, quota: QuotaSettings | None = None) -> None:
        """quota: the limits of a site that has none of its own."""
        self._database = database
        self._quota = quota or QuotaSettings()
        self._keys = keys
        self._clock = clock
        self.certificates = SiteCertificates(database, keys, clock)
        self._opened: dict[tuple[SiteName, EpochId], _Opened] = {}
        self._opened_lock = threading.Lock()

    def enrol(
        self, site: SiteName, also: Also = _nothing_more, random_bytes: Callable[[int], bytes] = os.urandom
    ) -> tuple[str, datetime]:
        """A new join token for a known or new site, and its expiry. The hub stores only its hash."""
        text = make_token(self._keys.authority, site, self._clock, random_bytes)
        token = read_token(text)
        with self._database.write(turn=site) as connection:
            # A revoked site stays revoked until the new token is used: its old certificate is not accepted before.
            known = insert_new(sites).values(name=site, enrolled_at=micros(self._clock.now()))
            connection.execute(known.on_conflict_do_nothing())
            connection.execute(insert(tokens).values(hash=_hash(token.id), site=site, expires_at=micros(token.expires)))
            also(connection)
        return text, token.expires

    def dismiss(self, site: SiteName, also: Also = _nothing_more) -> None:
        """Revoke a site; its studies stay, its unused tokens become invalid. Raises NotEnrolled."""
        now = micros(self._clock.now())
        with self._database.write(turn=site) as connection:
            done = connection.execute(update(sites).where(sites.c.name == site).values(dismissed_at=now))
            if done.rowcount != 1:
                raise NotEnrolled("the site is not enrolled", "See the site's name in the worklist.")
            connection.execute(update(tokens).where(tokens.c.site == site).values(expires_at=now))
            tell(connection, ACCESS)
            also(connection)

    def join(
        self, token: JoinTokenId, request: bytes, signing_key: bytes, proof: bytes, renews: bool = True
    ) -> JoinResult:
        """As `IngestStore.join`."""
        now, asked = micros(self._clock.now()), digest(request)
        check_join(signing_key, token, request, proof)
        with self._database.read() as connection:
            # Before it has a turn: anybody may call with an unknown token.
            of = connection.scalar(select(tokens.c.site).where(tokens.c.hash == _hash(token)))
        if of is None:
            raise NotEnrolled("the join token is unknown, used or expired")
        with self._database.write(turn=of) as connection:
            answered = join(tokens, join_answers, join_answers.c.hash == tokens.c.hash, isouter=True)
            query = select(tokens, join_answers.c.request, join_answers.c.certificate).select_from(answered)
            row = connection.execute(query.where(tokens.c.hash == _hash(token))).one_or_none()
            if row is None or row.expires_at <= now or row.signing_key not in (None, signing_key):
                raise NotEnrolled("the join token is unknown, used or expired")
            site = SiteName(row.site)
            if row.request is None:
                certificate = issue_client(self._keys.authority, site, request, self._clock, renews)
                new = {"hash": row.hash, "request": asked, "certificate": certificate}
                connection.execute(insert(join_answers).values(new))
                connection.execute(update(tokens).where(tokens.c.hash == row.hash).values(signing_key=signing_key))
                # Only the newest certificate is valid, not that of an earlier enrolment.
                given = {"signing_key": signing_key, "certificate": fingerprint(certificate)}
                joined = {"joined_at": now, "dismissed_at": None}
                connection.execute(update(sites).where(sites.c.name == site).values(given | joined))
                put_in_force(connection, site, certificate)
                # It knows what is in the token and the answer, and is told the rest when it connects.
                connection.execute(delete(key_holders).where(key_holders.c.site == site))
                tell(connection, ACCESS)
            elif row.request == asked:
                # The answer was lost: the same one again, which changes nothing.
                certificate = bytes(row.certificate)
            else:
                raise NotEnrolled("the join token is unknown, used or expired")
        return JoinResult(
            site, certificate, self._keys.sealing.public.raw, self._keys.signing.public_key().public_bytes_raw()
        )

    def renew(self, site: SiteName, certificate: Digest, request: bytes, proof: bytes) -> bytes:
        """As `IngestStore.renew`."""
        return self.certificates.renew(site, certificate, request, proof)

    def hub_keys(self) -> bytes:
        """As `IngestStore.hub_keys`."""
        return self._keys.announcement.signed

    def record_keys_taken(self, site: SiteName, taken: Digest) -> None:
        """As `IngestStore.record_keys_taken`."""
        record_taken(self._database, self._keys, self._clock, site, taken)

    def connect(self, site: SiteName, certificate: bytes) -> None:
        """As `IngestStore.connect`."""
        self.certificates.connect(site, certificate)

    def check_site(self, site: SiteName) -> None:
        """Raises NotEnrolled for an unknown or revoked site, as before an offline transfer, which the site's epochs
        authenticate."""
        self._site_key(site)

    def refused(self, certificates: Mapping[SiteName, Digest]) -> dict[SiteName, NotEnrolled]:
        """As `IngestStore.refused`, by one query."""
        return self.certificates.refused(certificates)

    def epoch_key(self, site: SiteName, epoch: EpochId) -> EpochKey | None:
        """As `IngestStore.epoch_key`."""
        found = self._epoch(site, epoch)
        return None if found is None else found.key

    def verify_key(self, site: SiteName, epoch: EpochId) -> Ed25519PublicKey:
        """The site's signing key at the time of an epoch. Raises HubBusy for one that expired in the meantime."""
        found = self._epoch(site, epoch)
        if found is None:
            raise HubBusy("the epoch expired at the hub in the meantime")
        return found.verify_key

    def admit_epoch(self, site: SiteName, record: bytes) -> None:
        """As `IngestStore.admit_epoch`.

        A site has no more epochs than its limit. The one that was used longest ago makes room for a new one, and one
        that was not used for EPOCH_LIFE is removed. No study is lost: the clinic announces an epoch again when the hub
        does not know it.
        """
        key, now = self._site_key(site), self._clock.now()
        open_epoch(record, site, _verify_key(key), self._keys.sealed_to(record))
        epoch = peek_epoch(record)
        row = {"site": site, "epoch": epoch, "record": record, "signing_key": key, "admitted_at": micros(now)}
        with self._database.write(turn=site) as connection:
            check_served(connection, site)
            if connection.scalar(select(exists().where(epochs.c.site == site, epochs.c.epoch == epoch))):
                return
            most = limits_of(connection, site, self._quota)[Limit.EPOCHS]
            recent = (epochs.c.site == site) & (epochs.c.admitted_at > micros(now - EPOCH_WINDOW))
            new = connection.scalar(select(func.count()).select_from(epochs).where(recent)) or 0
            if new >= most:
                raise LimitReached(
                    f"this clinic has announced {new:,} new epochs within the hour", Limit.EPOCHS, AGAIN_AFTER
                )
            self._expire(connection, site, most - 1)
            connection.execute(insert(epochs).values(row))
            use = insert_new(epoch_uses).values(site=site, epoch=epoch, used_at=micros(now))
            connection.execute(
                use.on_conflict_do_update(index_elements=["site", "epoch"], set_={"used_at": micros(now)})
            )

    def _expire(self, connection: Connection, site: SiteName, most: int) -> None:
        """Remove the site's epochs that were not used for EPOCH_LIFE, and those beyond `most`."""
        mine = epoch_uses.c.site == site
        stale = list(
            connection.scalars(
                select(epoch_uses.c.epoch).where(mine).order_by(epoch_uses.c.used_at.desc(), epoch_uses.c.epoch)
            )
        )[most:]
        old = micros(self._clock.now() - EPOCH_LIFE)
        stale += connection.scalars(select(epoch_uses.c.epoch).where(mine, epoch_uses.c.used_at < old))
        for epoch in dict.fromkeys(stale):
            connection.execute(delete(epochs).where(epochs.c.site == site, epochs.c.epoch == epoch))
            connection.execute(delete(epoch_uses).where(mine, epoch_uses.c.epoch == epoch))
            self._opened.pop((site, epoch), None)

    def sites_of(self, epoch: EpochId) -> list[SiteName]:
        """The sites that announced an epoch of this id, by name; usually one, since ids are random."""
        with self._database.read() as connection:
            named = select(epochs.c.site).where(epochs.c.epoch == epoch).order_by(epochs.c.site)
            return [SiteName(name) for name in connection.scalars(named)]

    def newest_epoch(self, site: SiteName) -> EpochKey | None:
        """The last epoch of a site under its present signing key; None if it has none.

        Raises NotEnrolled for an unknown or revoked site.
        """
        mine = (epochs.c.site == site) & (epochs.c.signing_key == self._site_key(site))
        last = select(epochs.c.epoch).where(mine).order_by(epochs.c.admitted_at.desc(), epochs.c.epoch).limit(1)
        with self._database.read() as connection:
            found = connection.scalar(last)
        return None if found is None else self.epoch_key(site, EpochId(found))

    def served(self) -> list[SiteName]:
        """The sites that have joined and were not removed, by name."""
        active = sites.c.signing_key.is_not(None) & sites.c.dismissed_at.is_(None)
        with self._database.read() as connection:
            return [SiteName(n) for n in connection.scalars(select(sites.c.name).where(active).order_by(sites.c.name))]

    def revoked(self) -> frozenset[SiteName]:
        """The sites whose access is revoked."""
        query = select(sites.c.name).where(sites.c.dismissed_at.is_not(None))
        with self._database.read() as connection:
            return frozenset(SiteName(name) for name in connection.scalars(query))

    def limits(self, site: SiteName) -> Mapping[Limit, int]:
        """The limits of a site."""
        with self._database.read() as connection:
            return limits_of(connection, site, self._quota)

    def usage(self, site: SiteName) -> Usage:
        with self._database.read() as connection:
            return usage_of(connection, site, self._clock.now())

    def set_limits(self, site: SiteName, most: Mapping[Limit, int], also: Also) -> None:
        """Give a site limits of its own. Raises NotEnrolled for an unknown site."""
        with self._database.write(turn=site) as connection:
            set_limits(connection, site, most)
            also(connection)

    def forget_limits(self, site: SiteName, also: Also) -> None:
        """The hub's limits apply to a site again."""
        with self._database.write(turn=site) as connection:
            connection.execute(delete(quotas).where(quotas.c.site == site))
            also(connection)

    def site_names(self) -> list[SiteName]:
        """Every site ever enrolled, by name."""
        with self._database.read() as connection:
            return [SiteName(name) for name in connection.scalars(select(sites.c.name).order_by(sites.c.name))]

    def _site_key(self, site: SiteName) -> bytes:
        with self._database.read() as connection:
            row = connection.execute(select(sites).where(sites.c.name == site)).one_or_none()
        if row is None or row.signing_key is None or row.dismissed_at is not None:
            raise NotEnrolled("the hub does not serve this site")
        return bytes(row.signing_key)

    def _epoch(self, site: SiteName, epoch: EpochId) -> "_Opened | None":
        """An epoch, opened from its record at the first use, and looked for again after FRESH_SECONDS: it may have
        expired. A revocation needs no look: it is checked in the transaction that stores."""
        known, now = self._opened.get((site, epoch)), self._clock.monotonic()
        if known is not None and 0 <= now - known.read_at < FRESH_SECONDS:
            return known
        with self._database.read() as connection:
            row = _record(connection, site, epoch).one_or_none()
        if row is None:
            self._opened.pop((site, epoch), None)
            return None
        if known is None:
            record, verify_key = bytes(row.record), _verify_key(bytes(row.signing_key))
            key = open_epoch(record, site, verify_key, self._keys.sealed_to(record))
            known = _Opened(key, verify_key, now)
        known.read_at = now
        with self._opened_lock:
            # Anew, so that the first one is the one that was looked for least recently.
            self._opened.pop((site, epoch), None)
            self._opened[site, epoch] = known
            while len(self._opened) > _MOST_OPENED:
                del self._opened[next(iter(self._opened))]
        return known


@prepared
def _record(site: Any, epoch: Any) -> Select[Any]:
    return select(epochs.c.record, epochs.c.signing_key).where(epochs.c.site == site, epochs.c.epoch == epoch)


def _hash(token: JoinTokenId) -> bytes:
    return hashlib.sha256(b"thinwire join token v1\0" + token.value).digest()


def _verify_key(raw: bytes) -> Ed25519PublicKey:
    try:
        return Ed25519PublicKey.from_public_bytes(raw)
    except ValueError as error:
        raise NotEnrolled("a site's signing key is not an Ed25519 key") from error
