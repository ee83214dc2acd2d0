"""The enrolled sites: join tokens, certificates, epochs."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import insert, select, update
from sqlalchemy.dialects.sqlite import insert as insert_new

from thinwire.receiver.sites.keyring import Keyring
from thinwire.receiver.store.tables import epochs, sites, tokens
from thinwire.shared.clock import Clock
from thinwire.shared.crypto.envelope import EpochKey, open_epoch, peek_epoch
from thinwire.shared.crypto.keys import JoinTokenId, fingerprint, issue_client, make_token, read_token
from thinwire.shared.errors import NotEnrolled
from thinwire.shared.formats.positional import micros
from thinwire.shared.identifiers import Digest, EpochId, SiteName
from thinwire.shared.storage.database import Database


@dataclass(frozen=True)
class JoinResult:
    """The answer to a join token."""

    site: SiteName
    certificate_pem: bytes
    sealing_key: bytes
    """The hub's HPKE public key, 1216 bytes."""
    signing_key: bytes
    """The hub's Ed25519 public key, 32 bytes."""


class SiteRegistry:
    """Safe from any thread; other processes (the command line) may use the same database."""

    def __init__(self, database: Database, keys: Keyring, clock: Clock) -> None:
        self._database = database
        self._keys = keys
        self._clock = clock
        self._opened: dict[tuple[SiteName, EpochId], EpochKey] = {}

    def enrol(self, site: SiteName, random_bytes: Callable[[int], bytes] = os.urandom) -> tuple[str, datetime]:
        """A new join token for a known or new site, and its expiry. The hub stores only its hash."""
        text = make_token(self._keys.authority, site, self._clock, random_bytes)
        token = read_token(text)
        with self._database.write() as connection:
            # A revoked site stays revoked until the new token is used: its old certificate is not accepted before.
            known = insert_new(sites).values(name=site, enrolled_at=micros(self._clock.now()))
            connection.execute(known.on_conflict_do_nothing())
            connection.execute(insert(tokens).values(hash=_hash(token.id), site=site, expires_at=micros(token.expires)))
        return text, token.expires

    def dismiss(self, site: SiteName) -> None:
        """Revoke a site; its studies stay, its unused tokens become invalid. Raises NotEnrolled."""
        now = micros(self._clock.now())
        with self._database.write() as connection:
            done = connection.execute(update(sites).where(sites.c.name == site).values(dismissed_at=now))
            if done.rowcount != 1:
                raise NotEnrolled("the site is not enrolled", "See the site's name in the worklist.")
            connection.execute(update(tokens).where(tokens.c.site == site).values(expires_at=now))

    def join(self, token: JoinTokenId, request: bytes, signing_key: bytes) -> JoinResult:
        """As `IngestStore.join`."""
        now = micros(self._clock.now())
        _verify_key(signing_key)
        with self._database.write() as connection:
            row = connection.execute(select(tokens).where(tokens.c.hash == _hash(token))).one_or_none()
            if row is None or row.expires_at <= now or row.signing_key not in (None, signing_key):
                raise NotEnrolled("the join token is unknown, used or expired")
            site = SiteName(row.site)
            certificate = issue_client(self._keys.authority, site, request, self._clock)
            if row.signing_key is None:
                connection.execute(update(tokens).where(tokens.c.hash == row.hash).values(signing_key=signing_key))
                connection.execute(
                    update(sites)
                    .where(sites.c.name == site)
                    .values(signing_key=signing_key, joined_at=now, dismissed_at=None)
                )
            # Only the newest certificate is valid: not that of a lost answer, nor that of an earlier enrolment.
            given = {"certificate": fingerprint(certificate)}
            connection.execute(update(sites).where(sites.c.name == site).values(given))
        return JoinResult(
            site, certificate, self._keys.sealing.public.raw, self._keys.signing.public_key().public_bytes_raw()
        )

    def check_site(self, site: SiteName, certificate: Digest | None) -> None:
        """As `IngestStore.check_site`. certificate: None for an offline transfer: the site's epochs authenticate it."""
        self._site_key(site)
        if certificate is None:
            return
        with self._database.read() as connection:
            given = connection.scalar(select(sites.c.certificate).where(sites.c.name == site))
        if given != certificate:
            raise NotEnrolled("the site joined anew and has another certificate")

    def epoch_key(self, site: SiteName, epoch: EpochId) -> EpochKey | None:
        """As `IngestStore.epoch_key`. Opened from its record at the first use and then cached."""
        known = self._opened.get((site, epoch))
        if known is None:
            row = self._epoch(site, epoch)
            if row is None:
                return None
            known = open_epoch(row[0], site, _verify_key(row[1]), self._keys.sealing)
            self._opened[site, epoch] = known
        return known

    def verify_key(self, site: SiteName, epoch: EpochId) -> Ed25519PublicKey:
        """The site's signing key at the time of an epoch."""
        row = self._epoch(site, epoch)
        if row is None:
            raise NotEnrolled("the epoch does not belong to this site")
        return _verify_key(row[1])

    def admit_epoch(self, site: SiteName, record: bytes) -> None:
        """As `IngestStore.admit_epoch`."""
        key = self._site_key(site)
        open_epoch(record, site, _verify_key(key), self._keys.sealing)
        row = {
            "site": site,
            "epoch": peek_epoch(record),
            "record": record,
            "signing_key": key,
            "admitted_at": micros(self._clock.now()),
        }
        with self._database.write() as connection:
            connection.execute(insert_new(epochs).values(row).on_conflict_do_nothing())

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

    def _epoch(self, site: SiteName, epoch: EpochId) -> tuple[bytes, bytes] | None:
        mine = (epochs.c.site == site) & (epochs.c.epoch == epoch)
        with self._database.read() as connection:
            row = connection.execute(select(epochs.c.record, epochs.c.signing_key).where(mine)).one_or_none()
        return None if row is None else (bytes(row.record), bytes(row.signing_key))


def _hash(token: JoinTokenId) -> bytes:
    return hashlib.sha256(b"thinwire join token v1\0" + token.value).digest()


def _verify_key(raw: bytes) -> Ed25519PublicKey:
    try:
        return Ed25519PublicKey.from_public_bytes(raw)
    except ValueError as error:
        raise NotEnrolled("a site's signing key is not an Ed25519 key") from error
