"""The clinic's rule for the deletion of a study's bytes."""

from collections.abc import Callable
from dataclasses import replace

from thinwire.sender.outbox.entries import OutboxEntry, Part, PartState
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.identifiers import Digest

Holds = Callable[[Part], bool]
"""Whether a part's sealed bytes are here and whole; reads them."""


def may_delete_last_copy(entry: OutboxEntry, holds: Holds) -> bool:
    """Whether the clinic may delete its last copy of a study. No other code decides this.

    The hub has every planned part, and the held parts are whole, so that nothing has to be made from the copy.
    """
    return entry.is_at_hub and all(holds(part) for part in entry.parts if part.state is PartState.HELD)


def without_unneeded(entry: OutboxEntry, holds: Holds) -> tuple[OutboxEntry, tuple[Digest, ...]]:
    """(the entry without the bytes that it no longer needs, the blobs with these bytes).

    While a part is missing every byte is needed, since the part may be made from any. After that the bytes of stored
    parts are not, except the originals. The source is not needed when the originals, which have the same files and
    text, are here and whole. The other one is the last copy: it goes when `may_delete_last_copy` allows it.
    """
    if entry.missing:
        return entry, ()
    gone: list[Digest] = []
    for part in entry.parts:
        if part.kept and part.object and part.state is PartState.STORED and part.kind is not Kind.ORIGINALS:
            gone.append(part.object)
            entry = entry.with_part(replace(part, kept=False))
    originals = entry.part(Kind.ORIGINALS)
    if (entry.source or originals.kept) and may_delete_last_copy(entry, holds):
        gone += [each for each in (entry.source, originals.object if originals.kept else None) if each]
        entry = replace(entry.with_part(replace(originals, kept=False)), source=None)
    elif entry.source and originals.kept and holds(originals):
        gone.append(entry.source)
        entry = replace(entry, source=None)
    return entry, tuple(gone)
