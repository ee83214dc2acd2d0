"""The files in which earlier versions kept the clinic's state, as rows of the database.

Formats: docs/outbox-format.md#earlier-versions. Each function raises Unreadable for a file that is damaged or of a
version, kind or state that this program does not know.
"""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from thinwire.sender.outbox.entries import OutboxEntry, Part, PartState
from thinwire.sender.outbox.tables import request_id
from thinwire.sender.outbox.tiers import When, read_kind
from thinwire.shared.errors import Forged
from thinwire.shared.formats.originals import Effort
from thinwire.shared.formats.positional import micros
from thinwire.shared.formats.receipts import StudyStatus, parse_receipt
from thinwire.shared.identifiers import (
    DIGEST_BYTES,
    EPOCH_ID_BYTES,
    STUDY_KEY_BYTES,
    Digest,
    EpochId,
    StudyKey,
    digest,
)

_Value = TypeVar("_Value")

STATE_VERSIONS = (3, 4)
"""Version 3 has other names for two kinds; `read_kind` reads both."""
_EFFORTS: dict[str, Effort] = {"quick": "quick", "small": "small"}
_MONTH = re.compile(r"\d{4}-\d{2}")
_MOST = 1 << 62
"""The largest number that a column takes is a little larger."""


class Unreadable(ValueError):
    """`str` says why, without a value from the file."""


def read_state(data: bytes, study: StudyKey) -> OutboxEntry:
    """An entry from `state.json` in the folder of `study`, without the places of its bytes."""

    def entry(facts: Any) -> OutboxEntry:
        if facts["version"] not in STATE_VERSIONS:
            raise Unreadable(f"it has version {int(facts['version'])}; this program reads 3 and 4")
        parts = tuple(sorted((_part(part) for part in facts["parts"]), key=lambda part: part.kind))
        if len({part.kind for part in parts}) < len(parts) or _bytes(facts["study"], STUDY_KEY_BYTES) != study:
            raise ValueError("not the state of this study")
        return OutboxEntry(
            study=study,
            accepted=_moment(facts["accepted"]),
            urgent=bool(facts["urgent"]),
            epoch=EpochId(_bytes(facts["epoch"], EPOCH_ID_BYTES)),
            text_mac=_bytes(facts["mark"], 16),
            parts=parts,
            status=StudyStatus(facts["status"]) if facts["status"] else None,
            overrides={read_kind(kind): When(when) for kind, when in facts["tiers"].items()},
            effort=_EFFORTS[facts["effort"]] if facts["effort"] else None,
            escalated=bool(facts["urged"]),
            paused=bool(facts["paused"]),
            warnings=tuple(str(each) for each in facts["warnings"]),
        )

    return _read(data, entry)


def read_receipt(signed: bytes, study: StudyKey, name: str) -> dict[str, Any]:
    """The row of a receipt of `study`. name: of its file, the first half of its SHA-256 in hex."""
    found = digest(signed)
    try:
        receipt = parse_receipt(signed)
    except Forged as error:
        raise Unreadable("it is damaged, or of a later version") from error
    if found[: len(found) // 2].hex() != name or receipt.study != study:
        raise Unreadable("it is damaged")
    return {
        "digest": found,
        "study": study,
        "status": str(receipt.status),
        "at": micros(receipt.at),
        "signed": signed,
    }


def read_usage(data: bytes) -> list[dict[str, Any]]:
    """The rows of `usage.json`."""

    def rows(facts: Any) -> list[dict[str, Any]]:
        if facts["version"] != 1:
            raise Unreadable("it is of a later version")
        return [
            {"month": _month(month), "up": _number(ways["up"]), "down": _number(ways["down"])}
            for month, ways in facts["months"].items()
        ]

    return _read(data, rows)


def read_ledger(data: bytes, name: bytes) -> dict[str, Any]:
    """The row of the ledger of an object. name: of its file."""

    def row(facts: Any) -> dict[str, Any]:
        if facts["version"] != 1:
            raise Unreadable("it is of a later version")
        return {
            "object": name,
            "dataset": _bytes(facts["dataset"], DIGEST_BYTES),
            "sop_class": str(facts["sop_class"]),
            "study": _bytes(facts["study"], STUDY_KEY_BYTES) if facts["study"] else None,
            "at": micros(_moment(facts["at"])),
        }

    return _read(data, row)


def read_commitment(data: bytes) -> dict[str, Any]:
    """The row of a storage commitment request; it is due at once."""

    def row(facts: Any) -> dict[str, Any]:
        machine, transaction = str(facts["machine"]), str(facts["transaction"])
        at = micros(_moment(facts["at"]))
        return {
            "request": request_id(machine, transaction),
            "machine": machine,
            "transaction_uid": transaction,
            "objects": json.dumps([(str(kind), str(instance)) for kind, instance in facts["objects"]]),
            "at": at,
            "due": at,
        }

    return _read(data, row)


def read_refusal(data: bytes, name: Digest) -> dict[str, Any]:
    """The row of a refused file. name: its digest."""

    def row(facts: Any) -> dict[str, Any]:
        if _bytes(facts["digest"], DIGEST_BYTES) != name:
            raise ValueError("of another file")
        return {
            "digest": name,
            "size": _number(facts["size"]),
            "kept": bool(facts["kept"]),
            "at": micros(_moment(facts["at"])),
            "error": str(facts["error"]),
            "message": str(facts["what"]),
            "remedy": str(facts["remedy"]),
        }

    return _read(data, row)


def _read(data: bytes, make: Callable[[Any], _Value]) -> _Value:
    try:
        return make(json.loads(data))
    except Unreadable:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Unreadable("it is damaged, or has a value that this program does not know") from error


def _part(facts: Any) -> Part:
    return Part(
        kind=read_kind(facts["kind"]),
        state=PartState(facts["state"]),
        object=Digest(_bytes(facts["object"], DIGEST_BYTES)) if facts["object"] else None,
        size=_number(facts["size"]),
        plain_size=_number(facts["plain_size"]),
        requested=bool(facts["requested"]),
        reason=str(facts["reason"]),
    )


def _bytes(text: str, length: int) -> bytes:
    found = bytes.fromhex(text)
    if len(found) != length:
        raise ValueError("of another length")
    return found


def _number(value: Any) -> int:
    found = int(value)
    if not 0 <= found <= _MOST:
        raise ValueError("out of range")
    return found


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _month(text: str) -> str:
    if not _MONTH.fullmatch(text):
        raise ValueError("not a month")
    return text
