"""The clinic's rule for the deletion of a study's bytes."""

from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum

from thinwire.sender.outbox.entries import OutboxEntry, Part, PartState
from thinwire.sender.outbox.hub_history import HubHistory, KeepUntil
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.identifiers import Digest


class Safety(StrEnum):
    """Where a study is safe that the hub has stored."""

    STORED = "stored at the hub, in no backup"
    BACKED_UP = "stored and in a backup"


Holds = Callable[[Part], bool]
"""Whether a part's sealed bytes are here and whole; reads them."""


def is_secured(entry: OutboxEntry, keep: KeepUntil, history: HubHistory | None) -> bool:
    """Whether the hub's copy of what it stored of a study replaces the clinic's: always, except at a hub that has
    backups, until one of them holds it.

    A part whose receipt tells no place was stored before the hub counted them, and is in every backup since.
    """
    if keep is KeepUntil.STORED or history is None or history.backed_up is None:
        return True
    return is_in_backup(entry, history)


def is_in_backup(entry: OutboxEntry, history: HubHistory) -> bool:
    """Whether a backup of the hub holds every part that the hub stored of a study."""
    stored = [part.place for part in entry.parts if part.state is PartState.STORED]
    return history.backed_up is not None and all(place is None or history.in_backup(place) for place in stored)


def safety(entry: OutboxEntry, history: HubHistory | None) -> Safety | None:
    """None while the hub lacks a planned part."""
    if not entry.is_at_hub:
        return None
    return Safety.BACKED_UP if history is not None and is_in_backup(entry, history) else Safety.STORED


def may_delete_last_copy(entry: OutboxEntry, holds: Holds, secured: bool) -> bool:
    """Whether the clinic may delete its last copy of a study. No other code decides this.

    The hub has every planned part, and the held parts are whole, so that nothing has to be made from the copy. secured:
    `is_secured`, or that the disk is nearly full.
    """
    if not (secured and entry.is_at_hub):
        return False
    return all(holds(part) for part in entry.parts if part.state is PartState.HELD)


def without_unneeded(entry: OutboxEntry, holds: Holds, secured: bool) -> tuple[OutboxEntry, tuple[Digest, ...]]:
    """(the entry without the bytes that it no longer needs, the blobs with these bytes).

    While a part is missing every byte is needed, since the part may be made from any. After that the bytes of stored
    parts are not once the study is secured, except the originals. The source is not needed when the originals, which
    have the same files and text, are here and whole. The other one is the last copy: it goes when
    `may_delete_last_copy` allows it.
    """
    if entry.missing:
        return entry, ()
    gone: list[Digest] = []
    for part in entry.parts if secured else ():
        if part.kept and part.object and part.state is PartState.STORED and part.kind is not Kind.ORIGINALS:
            gone.append(part.object)
            entry = entry.with_part(replace(part, kept=False))
    originals = entry.part(Kind.ORIGINALS)
    if (entry.source or originals.kept) and may_delete_last_copy(entry, holds, secured):
        gone += [each for each in (entry.source, originals.object if originals.kept else None) if each]
        entry = replace(entry.with_part(replace(originals, kept=False)), source=None)
    elif entry.source and originals.kept and holds(originals):
        gone.append(entry.source)
        entry = replace(entry, source=None)
    return entry, tuple(gone)
