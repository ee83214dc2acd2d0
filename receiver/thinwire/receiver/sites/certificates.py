"""The certificates of the sites in time: the one in force, and the next one until it has connected.

A clinic asks for its next certificate under the present one. Both are accepted until the next one connects; the
present one is then refused by its fingerprint, on every replica. So an answer that was lost, or a power cut at the
clinic, shuts no clinic out. Tables: docs/store-format.md.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, and_, delete, exists, insert, select, update

from thinwire.receiver.sites.keyring import Keyring
from thinwire.receiver.store.news import ACCESS
from thinwire.receiver.store.tables import certificates, sites, tokens
from thinwire.shared.clock import Clock
from thinwire.shared.crypto.certificates import authority_identifier, expiry, load
from thinwire.shared.crypto.keys import check_renewal, fingerprint, issue_client
from thinwire.shared.errors import NotEnrolled
from thinwire.shared.formats.positional import micros, moment
from thinwire.shared.identifiers import Digest, SiteName, digest
from thinwire.shared.storage.database import Database, insert_new, tell

log = logging.getLogger(__name__)

_OFFERED = certificates.c.request.is_not(None)
_NOT_SERVED = "the hub does not serve this site"


@dataclass(frozen=True)
class SiteCertificate:
    """The certificate in force of one site."""

    site: SiteName
    fingerprint: Digest
    """SHA-256 of its DER."""
    expires: datetime | None
    """None for one of before version 13 that has not connected since."""
    next_offered: bool
    """Whether the clinic was given the next one, which has not connected yet."""


@dataclass(frozen=True)
class SiteCertificates:
    """Safe from any thread and process."""

    database: Database
    keys: Keyring
    clock: Clock

    def renew(self, site: SiteName, certificate: Digest, request: bytes, proof: bytes) -> bytes:
        """As `IngestStore.renew`."""
        asked = digest(request)
        with self.database.write(turn=site) as connection:
            row = connection.execute(select(sites).where(sites.c.name == site)).one_or_none()
            if row is None or row.signing_key is None or row.dismissed_at is not None:
                raise NotEnrolled(_NOT_SERVED)
            if row.certificate != certificate:
                raise NotEnrolled("the next certificate is given to the one in force alone", "Connect first.")
            check_renewal(row.signing_key, certificate, request, proof)
            mine = certificates.c.site == site
            offered = connection.execute(select(certificates).where(mine, _OFFERED)).one_or_none()
            if offered is not None and offered.request == asked:
                # The answer was lost: the same one again, which changes nothing.
                return bytes(offered.certificate)
            issued = issue_client(self.keys.authority, site, request, self.clock)
            # A clinic that lost the key of its last request never used that certificate.
            connection.execute(delete(certificates).where(mine, _OFFERED))
            connection.execute(
                insert(certificates).values(_row(site, issued) | {"request": asked, "certificate": issued})
            )
        return issued

    def connect(self, site: SiteName, certificate: bytes) -> None:
        """As `IngestStore.connect`: it writes only after an enrolment or a renewal."""
        found = fingerprint(certificate)
        used = (tokens.c.site == site) & tokens.c.signing_key.is_not(None)
        used &= tokens.c.expires_at > micros(self.clock.now())
        settled = select(certificates.c.request.is_(None), ~exists().where(used)).where(
            certificates.c.site == site, certificates.c.fingerprint == found
        )
        with self.database.read() as connection:
            refusals = _refused(connection, {site: found})
            row = connection.execute(settled).one_or_none()
        for refusal in refusals.values():
            raise refusal
        if row is None or not all(row):
            self._put_in_force(site, certificate)

    def _put_in_force(self, site: SiteName, certificate: bytes) -> None:
        found, now = fingerprint(certificate), micros(self.clock.now())
        mine, here = certificates.c.site == site, sites.c.name == site
        with self.database.write(turn=site) as connection:
            connection.execute(
                update(tokens)
                .where(tokens.c.site == site, tokens.c.signing_key.is_not(None), tokens.c.expires_at > now)
                .values(expires_at=now)
            )
            row = connection.execute(
                select(certificates.c.request).where(mine, certificates.c.fingerprint == found)
            ).one_or_none()
            promoted = row is not None and row.request is not None
            if promoted:
                connection.execute(update(sites).where(here).values(certificate=found))
                tell(connection, ACCESS)
            elif connection.scalar(select(sites.c.certificate).where(here)) != found:
                return  # it joined anew in the meantime
            put_in_force(connection, site, certificate, keep_offered=not promoted)

    def refused(self, given: Mapping[SiteName, Digest]) -> dict[SiteName, NotEnrolled]:
        """As `IngestStore.refused`, by one query."""
        with self.database.read() as connection:
            return _refused(connection, given)


def _refused(connection: Connection, given: Mapping[SiteName, Digest]) -> dict[SiteName, NotEnrolled]:
    offered = and_(certificates.c.site == sites.c.name, _OFFERED)
    query = (
        select(sites.c.name, sites.c.certificate, certificates.c.fingerprint)
        .select_from(sites.outerjoin(certificates, offered))
        .where(sites.c.name.in_(list(given)), sites.c.signing_key.is_not(None), sites.c.dismissed_at.is_(None))
    )
    accepted = {row.name: (row.certificate, row.fingerprint) for row in connection.execute(query)}
    found = {}
    for site, certificate in given.items():
        if site not in accepted:
            found[site] = NotEnrolled(_NOT_SERVED)
        elif certificate not in accepted[site]:
            found[site] = NotEnrolled("the site has another certificate: it joined anew, or renewed it")
    return found


def in_force(database: Database) -> list[SiteCertificate]:
    """Those of the sites that have joined and are not revoked, by site."""
    mine = and_(certificates.c.site == sites.c.name, certificates.c.fingerprint == sites.c.certificate)
    offered = certificates.alias()
    given = exists().where(offered.c.site == sites.c.name, offered.c.request.is_not(None))
    query = select(sites.c.name, sites.c.certificate, certificates.c.expires_at, given.label("offered"))
    query = query.select_from(sites.outerjoin(certificates, mine)).where(
        sites.c.signing_key.is_not(None), sites.c.dismissed_at.is_(None)
    )
    with database.read() as connection:
        rows = connection.execute(query.order_by(sites.c.name)).all()
    return [
        SiteCertificate(
            SiteName(row.name),
            Digest(row.certificate),
            None if row.expires_at is None else moment(row.expires_at),
            bool(row.offered),
        )
        for row in rows
    ]


def put_in_force(connection: Connection, site: SiteName, certificate: bytes, keep_offered: bool = False) -> None:
    """Record the certificate in force (PEM), in place of every other of its site. keep_offered: except the next one."""
    mine = certificates.c.site == site
    others = mine & certificates.c.request.is_(None) if keep_offered else mine
    connection.execute(delete(certificates).where(others))
    row = _row(site, certificate)
    connection.execute(insert_new(certificates).values(row).on_conflict_do_nothing())


def _row(site: SiteName, certificate: bytes) -> dict[str, object]:
    loaded = load(certificate)
    return {
        "site": site,
        "fingerprint": fingerprint(certificate),
        "authority": authority_identifier(loaded),
        "expires_at": micros(expiry(loaded)),
    }
