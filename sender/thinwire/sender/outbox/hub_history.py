"""The hub's store in time, as the hub told it last: which receipts still hold, and what the hub's backups hold.

A store that goes back in time, as to a restored backup, begins another generation; its receipts tell generation and
position of each object. Reasons: docs/decisions/0014-a-store-that-goes-back-in-time.md.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection, select

from thinwire.sender.outbox.tables import controls
from thinwire.shared.formats.receipts import Place
from thinwire.shared.identifiers import Generation
from thinwire.shared.storage.database import insert_new

_TOLD, _FOLLOWED, _SEEN, _KEEP = "hub history", "hub history followed", "hub receipt", "keep until"


class KeepUntil(StrEnum):
    """How long the clinic keeps a study's bytes."""

    BACKUP = "backup"
    """Until a backup of the hub holds it; at a hub that has no backup as STORED."""
    STORED = "stored"
    """Until the hub has stored it."""


@dataclass(frozen=True)
class HubHistory:
    generation: Generation
    position: int
    """Of the last object that the hub had of this clinic."""
    past: Mapping[Generation, int]
    """Earlier generations: the last position of each that the hub still has."""
    backed_up: int | None
    """A backup holds this clinic's objects up to this position; None for a hub that has no backup."""

    @property
    def lineage(self) -> tuple[Generation, Mapping[Generation, int]]:
        return self.generation, self.past

    def has(self, place: Place) -> bool:
        """Whether the hub has what it stored at a place."""
        return place.generation == self.generation or place.position <= self.past.get(place.generation, 0)

    def has_lost(self, place: Place) -> bool:
        """Whether the hub had it, and lost it. False for a generation that the hub has not told yet."""
        return place.generation in self.past and not self.has(place)

    def follows(self, before: "HubHistory") -> bool:
        """Whether it was told later than another one, or at the same time."""
        if self.generation != before.generation:
            return before.generation in self.past
        return self.position >= before.position and (self.backed_up or 0) >= (before.backed_up or 0)

    def in_backup(self, place: Place) -> bool:
        return self.backed_up is not None and place.position <= self.backed_up and self.has(place)


def statement(detail: bytes) -> HubHistory | None:
    """The history in a signed statement; None for one of another kind."""
    try:
        return _history(detail.decode())
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def read_history(connection: Connection) -> HubHistory | None:
    """What the hub told last; None before it told anything."""
    return _history(_read(connection, _TOLD))


def write_history(connection: Connection, history: HubHistory) -> None:
    _write(connection, _TOLD, _json(history))


def read_followed(connection: Connection) -> HubHistory | None:
    """The history by which the clinic last offered again what the hub had lost."""
    return _history(_read(connection, _FOLLOWED))


def write_followed(connection: Connection, history: HubHistory) -> None:
    _write(connection, _FOLLOWED, _json(history))


def read_seen(connection: Connection) -> bytes:
    """The signed receipt of the last place that the clinic knows; empty before the first."""
    return base64.b64decode(_read(connection, _SEEN) or "")


def write_seen(connection: Connection, signed: bytes) -> None:
    _write(connection, _SEEN, base64.b64encode(signed).decode())


def read_keep(connection: Connection) -> KeepUntil:
    """As `run` was configured last; every process uses it."""
    found = _read(connection, _KEEP)
    return KeepUntil(found) if found in set(KeepUntil) else KeepUntil.BACKUP


def write_keep(connection: Connection, keep: KeepUntil) -> None:
    _write(connection, _KEEP, str(keep))


def _read(connection: Connection, name: str) -> str | None:
    return connection.scalar(select(controls.c.value).where(controls.c.name == name))


def _write(connection: Connection, name: str, value: str) -> None:
    row = {"name": name, "value": value}
    connection.execute(insert_new(controls).values(row).on_conflict_do_update(index_elements=["name"], set_=row))


def _json(history: HubHistory) -> str:
    past = {each.hex(): position for each, position in history.past.items()}
    facts = {"generation": history.generation.hex(), "position": history.position, "past": past}
    return json.dumps({**facts, "backed_up": history.backed_up})


def _history(text: str | None) -> HubHistory | None:
    if text is None:
        return None
    facts = json.loads(text)
    past = {Generation(bytes.fromhex(each)): position for each, position in facts["past"].items()}
    return HubHistory(Generation(bytes.fromhex(facts["generation"])), facts["position"], past, facts["backed_up"])
