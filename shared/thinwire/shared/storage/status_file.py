"""A small JSON file with the state of a running process, written about once a second for other processes.

Written atomically but not durably: after a power cut it may be old or missing.
"""

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from thinwire.shared.errors import reason_of
from thinwire.shared.storage.durable import replaced

log = logging.getLogger(__name__)

EVERY = 1.0
"""Seconds between two writes."""


def write_status(path: Path, version: int, facts: Mapping[str, Any], now: datetime) -> None:
    """Write `facts` with the version of their format and the time; a file that cannot be written is only logged.

    now: UTC.
    """
    text = json.dumps({"version": version, "at": now.isoformat(), **facts})
    try:
        with replaced(path) as beside:
            beside.write_text(text, encoding="ascii")
    except OSError as error:
        log.warning("%s cannot be written for other processes: %s", path.name, reason_of(error))


def read_status(path: Path, version: int) -> tuple[dict[str, Any], datetime]:
    """The last facts and their time (UTC). Raises ValueError for a missing file or another version."""
    try:
        facts = json.loads(path.read_bytes())
        if facts["version"] != version:
            raise ValueError(f"version {facts['version']}")
        return facts, moment(facts["at"])
    except (OSError, KeyError, TypeError) as error:
        raise ValueError(f"no status in {path.name}") from error


def moment(text: str) -> datetime:
    """A time as JSON holds it, in UTC. Raises ValueError, TypeError."""
    return datetime.fromisoformat(text).astimezone(UTC)
