"""The link status, written for other processes: DATA/outbox/link.json.

The owner of the link writes it as a `status_file`. The next start begins with its rate.
"""

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from thinwire.sender.transport.pace import Measured
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.identifiers import Digest, StudyKey
from thinwire.shared.storage import status_file

VERSION = 1
FILE = "link.json"
_FRESH = timedelta(seconds=10)
_WORTH = timedelta(hours=12)
"""Seconds after which a measurement is not used."""


class LinkState(StrEnum):
    STOPPED = "stopped"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    WAITING = "waiting"
    """Until the next attempt."""


@dataclass(frozen=True)
class TransferProgress:
    """A transfer in progress, for display."""

    study: StudyKey
    kind: Kind | None
    """None for an epoch record."""
    object: Digest
    sent: int
    """Bytes from the start that were sent or were at the hub."""
    durable: int
    """Bytes from the start that are durable at the hub."""
    size: int


@dataclass(frozen=True)
class LinkStatus:
    """The link, for display."""

    state: LinkState
    reason: str = ""
    """The reason why it is not connected, or why objects wait on a working link."""
    rate: float | None = None
    """Bytes a second, measured; None until known."""
    round_trip: float | None = None
    """Seconds."""
    transfers: tuple[TransferProgress, ...] = ()

    @property
    def measured(self) -> Measured | None:
        if self.rate is None or self.round_trip is None:
            return None
        return Measured(self.rate, self.round_trip)


def write_status(folder: Path, status: LinkStatus, now: datetime) -> None:
    """folder: DATA/outbox."""
    transfers = [
        {**asdict(each), "study": each.study.hex(), "object": each.object.hex(), "kind": each.kind}
        for each in status.transfers
    ]
    status_file.write_status(folder / FILE, VERSION, {**asdict(status), "transfers": transfers}, now)


def read_status(folder: Path, now: datetime) -> LinkStatus:
    """The last status; state `stopped` if it is missing or old, with the rate that was measured before."""
    try:
        facts, at = status_file.read_status(folder / FILE, VERSION)
        age = now - at
        if not timedelta(0) <= age < _WORTH:
            return LinkStatus(LinkState.STOPPED)
        rate, round_trip = (None if facts[name] is None else float(facts[name]) for name in ("rate", "round_trip"))
        if age >= _FRESH:
            return LinkStatus(LinkState.STOPPED, rate=rate, round_trip=round_trip)
        transfers = tuple(_crossing(each) for each in facts.get("transfers", ()))  # not of every earlier version
        return LinkStatus(LinkState(facts["state"]), str(facts["reason"]), rate, round_trip, transfers)
    except (ValueError, KeyError, TypeError, AttributeError):
        return LinkStatus(LinkState.STOPPED)


def _crossing(facts: dict[str, Any]) -> TransferProgress:
    return TransferProgress(
        StudyKey(bytes.fromhex(facts["study"])),
        None if facts["kind"] is None else Kind(facts["kind"]),
        Digest(bytes.fromhex(facts["object"])),
        int(facts["sent"]),
        int(facts["durable"]),
        int(facts["size"]),
    )
