"""The link status of all sites, written for other processes: DATA/links.json.

The serving process writes it as a `status_file`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from thinwire.receiver.transport.ingest import IncomingObject
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.identifiers import SiteName, StudyKey, site_name
from thinwire.shared.storage import status_file
from thinwire.shared.storage.status_file import EVERY, moment

VERSION = 1
FILE = "links.json"
_FRESH = timedelta(seconds=10)


@dataclass(frozen=True)
class SiteLink:
    """One clinic's link as the hub sees it."""

    site: SiteName
    connected: bool
    since: datetime
    """UTC; when it connected, or when its link ended."""
    last_heard: datetime
    """UTC; the time of its last message."""
    rate: float = 0.0
    """Bytes of objects per second over the last seconds."""
    arriving: tuple[IncomingObject, ...] = ()
    replica: str = ""
    """The name of the replica to which it is connected; empty where there is one alone."""


@dataclass
class RateMeter:
    """The rate of received object bytes, over the last few seconds."""

    at: float
    """Seconds, monotonic."""
    counted: int = 0
    rate: float = 0.0

    def read(self, now: float, total: int) -> float:
        """Bytes a second. total: bytes since the stream began."""
        if now - self.at >= EVERY / 2:
            measured = (total - self.counted) / (now - self.at)
            self.rate = measured if self.rate == 0 else 0.7 * self.rate + 0.3 * measured
            self.rate = 0.0 if self.rate < 1 else self.rate
            self.at, self.counted = now, total
        return self.rate


def write_status(data: Path, links: Sequence[SiteLink], now: datetime, serves: bool = True) -> None:
    """data: the hub's folder. serves: False for the last status before the process ends."""
    status_file.write_status(data / FILE, VERSION, {"serves": serves, "links": [as_json(link) for link in links]}, now)


def read_status(data: Path, now: datetime) -> tuple[bool, list[SiteLink]]:
    """Whether a hub is served now, and the links by site; if not, no clinic is connected."""
    try:
        facts, at = status_file.read_status(data / FILE, VERSION)
        serves = bool(facts["serves"]) and timedelta(0) <= now - at < _FRESH
        links = [from_json(link, serves) for link in facts["links"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        return False, []
    return serves, links


def stamp(data: Path) -> int:
    """A number that changes when the status is written; 0 before the first."""
    try:
        return (data / FILE).stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def as_json(link: SiteLink) -> dict[str, Any]:
    """As `status --json` gives it."""
    arriving = [
        {"study": each.study.hex(), "kind": each.kind.name.lower(), "durable": each.durable, "bytes": each.size}
        for each in link.arriving
    ]
    return {
        "site": link.site,
        "connected": link.connected,
        "since": link.since.isoformat(),
        "seen": link.last_heard.isoformat(),
        "rate": round(link.rate),
        "arriving": arriving,
        **({"replica": link.replica} if link.replica else {}),
    }


def from_json(facts: dict[str, Any], serves: bool = True) -> SiteLink:
    """Of `as_json`. serves: whether the process lives. Raises ValueError, KeyError, TypeError, AttributeError."""
    arriving = [
        IncomingObject(
            StudyKey(bytes.fromhex(each["study"])), Kind[each["kind"].upper()], int(each["durable"]), int(each["bytes"])
        )
        for each in facts["arriving"]
    ]
    connected = serves and bool(facts["connected"])
    return SiteLink(
        site_name(facts["site"]),
        connected,
        moment(facts["since"]),
        moment(facts["seen"]),
        float(facts["rate"]) if connected else 0.0,
        tuple(arriving),
        str(facts.get("replica", "")),
    )
