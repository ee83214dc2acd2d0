"""The share of the hub that each site may use: its limits, and what it has used. Tables: docs/store-format.md.

What a site stores is counted by day in the transaction that stores it, so that a limit is one look at a few rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Insert, ScalarSelect, Select, and_, case, exists, func, select, update

from thinwire.receiver.config import QuotaSettings
from thinwire.receiver.store.tables import generations, quotas, site_usage, sites
from thinwire.shared.errors import LimitReached, NotEnrolled
from thinwire.shared.formats.positional import micros
from thinwire.shared.identifiers import SiteName
from thinwire.shared.storage.database import insert_new, prepared

DAY = timedelta(days=1)
AGAIN_AFTER = 300.0
"""Seconds after which a clinic offers again what a limit refused, unless the day ends before."""

OFFERED_AGAIN = timedelta(days=30)
"""Time after a step of the store back in time in which a site may store any number of studies in a day."""


class Limit(StrEnum):
    """The limits of a site, by the names of its settings."""

    BYTES = "bytes"
    """Of all its stored and partial objects."""
    STUDIES = "studies"
    """New ones in a day (UTC); none for OFFERED_AGAIN after the store went back in time."""
    PARTIALS = "partials"
    """Objects in transfer, on disk."""
    EPOCHS = "epochs"
    """Kept at a time, and new ones in an hour."""


@dataclass(frozen=True)
class Usage:
    """What a site has stored."""

    bytes: int
    """Of its sealed objects, in all."""
    studies: int
    """New today (UTC)."""


def limits_of(connection: Connection, site: SiteName, defaults: QuotaSettings) -> dict[Limit, int]:
    """The limits of a site: its own where it has one, else the hub's."""
    own = _quotas(connection, site).all()
    return {limit: getattr(defaults, limit) for limit in Limit} | {Limit(each.limit): each.most for each in own}


def set_limits(connection: Connection, site: SiteName, most: Mapping[Limit, int]) -> None:
    """Set limits of a site. Raises NotEnrolled for an unknown one."""
    if connection.scalar(select(func.count()).select_from(sites).where(sites.c.name == site)) == 0:
        raise NotEnrolled("the site is not enrolled", "See the sites: thinwire-receiver site list.")
    for limit, value in most.items():
        row = insert_new(quotas).values(site=site, limit=str(limit), most=value)
        connection.execute(row.on_conflict_do_update(index_elements=["site", "limit"], set_={"most": value}))


def usage_of(connection: Connection, site: SiteName, at: datetime) -> Usage:
    row = _usage(connection, site, day_of(at)).one()
    return Usage(int(row.bytes), int(row.studies))


def check_room(used: int, size: int, most: int) -> None:
    """Raises LimitReached unless `size` bytes more are within the limit. used: bytes."""
    if used + size > most:
        raise LimitReached(
            f"this clinic's share of the hub's disk is used up: {used:,} of {most:,} bytes", Limit.BYTES, AGAIN_AFTER
        )


def check_share(
    connection: Connection, site: SiteName, size: int, new_study: bool, defaults: QuotaSettings, at: datetime
) -> None:
    """As `check_served`; and raises LimitReached unless the site may store this object. size: sealed bytes."""
    share = _share(connection, site, day_of(at)).one()
    _require_served(share.dismissed_at)
    most = defaults.studies if share.most_studies is None else share.most_studies
    check_room(int(share.bytes), size, defaults.bytes if share.most_bytes is None else share.most_bytes)
    if new_study and share.studies >= most and not _offers_again(connection, at):
        midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
        raise LimitReached(
            f"this clinic has sent its {most:,} new studies of today (UTC)",
            Limit.STUDIES,
            min(AGAIN_AFTER, (midnight + DAY - at).total_seconds()),
        )


def _offers_again(connection: Connection, at: datetime) -> bool:
    """Whether the store went back in time lately: the sites then send all at once what it lost, of many days."""
    lately = generations.c.at > micros(at - OFFERED_AGAIN)
    return bool(connection.scalar(select(exists().where(lately))))


def count(connection: Connection, site: SiteName, size: int, new_study: bool, at: datetime) -> None:
    """Count an object in the transaction that stores it."""
    _count(connection, site, day_of(at), size, int(new_study))


def uncount(connection: Connection, site: SiteName, size: int, stored_at: datetime) -> None:
    """An object is no longer stored."""
    mine = and_(site_usage.c.site == site, site_usage.c.day == day_of(stored_at))
    connection.execute(update(site_usage).where(mine).values(bytes=site_usage.c.bytes - size))


def check_served(connection: Connection, site: SiteName) -> None:
    """Raises NotEnrolled for a site whose access is revoked. In the transaction that stores what the site sent: nothing
    of it is stored after the revocation."""
    _require_served(_dismissed(connection, site).scalar())


def _require_served(dismissed_at: int | None) -> None:
    if dismissed_at is not None:
        raise NotEnrolled("the hub does not serve this site: its access is revoked")


def day_of(at: datetime) -> int:
    """Whole days since 1970 (UTC)."""
    return micros(at) // (DAY // timedelta(microseconds=1))


@prepared
def _dismissed(site: Any) -> Select[Any]:
    return select(sites.c.dismissed_at).where(sites.c.name == site)


@prepared
def _quotas(site: Any) -> Select[Any]:
    return select(quotas.c.limit, quotas.c.most).where(quotas.c.site == site)


@prepared
def _share(site: Any, day: Any) -> Select[Any]:
    """What `check_share` looks at, in one query."""

    def own(limit: Limit) -> ScalarSelect[Any]:
        return select(quotas.c.most).where(quotas.c.site == site, quotas.c.limit == str(limit)).scalar_subquery()

    return _used(site, day).add_columns(
        select(sites.c.dismissed_at).where(sites.c.name == site).scalar_subquery().label("dismissed_at"),
        own(Limit.BYTES).label("most_bytes"),
        own(Limit.STUDIES).label("most_studies"),
    )


@prepared
def _usage(site: Any, day: Any) -> Select[Any]:
    return _used(site, day)


def _used(site: Any, day: Any) -> Select[Any]:
    today = case((site_usage.c.day == day, site_usage.c.studies), else_=0)
    stored, new = func.coalesce(func.sum(site_usage.c.bytes), 0), func.coalesce(func.sum(today), 0)
    return select(stored.label("bytes"), new.label("studies")).where(site_usage.c.site == site)


@prepared
def _count(site: Any, day: Any, size: Any, studies: Any) -> Insert:
    row = insert_new(site_usage).values(site=site, day=day, bytes=size, studies=studies)
    more = {"bytes": site_usage.c.bytes + row.excluded.bytes, "studies": site_usage.c.studies + row.excluded.studies}
    return row.on_conflict_do_update(index_elements=["site", "day"], set_=more)
