"""Receipts: the hub's signed statements about a study, sent to the clinic. Format: docs/envelope-format.md."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from thinwire.shared.crypto.keys import SIGNATURE_BYTES, sign, verify
from thinwire.shared.errors import Forged
from thinwire.shared.formats.positional import LAST_MOMENT, Fields, micros, moment, pack
from thinwire.shared.identifiers import (
    DIGEST_BYTES,
    GENERATION_BYTES,
    STUDY_KEY_BYTES,
    Digest,
    Generation,
    SiteName,
    StudyKey,
    site_name,
)

VERSION = 1
MAX_DETAIL = 16 << 10
MAX_RECEIPT = MAX_DETAIL + 2048

LAST_POSITION = (1 << 63) - 1

NO_STUDY = StudyKey(bytes(STUDY_KEY_BYTES))
"""Zeros: the study key of a statement that belongs to no single study."""

_FIELDS = 7
_CONTEXT = b"thinwire receipt v1"


class StudyStatus(StrEnum):
    """The state of a study at the hub, in this order."""

    STORED = "stored"
    TRIAGED = "triaged"
    OPENED = "opened"
    REPORTED = "read"


_STATUS = tuple(StudyStatus)


@dataclass(frozen=True)
class Place:
    """The place of a stored object in the hub's history of a site."""

    generation: Generation
    position: int
    """Counts the objects that were ever stored for the site, from 1, across generations."""


@dataclass(frozen=True)
class Receipt:
    study: StudyKey
    site: SiteName
    object: Digest | None
    """The sealed object that is durable at the hub; None for a receipt about the whole study."""
    status: StudyStatus
    at: datetime
    """UTC."""
    detail: bytes = b"{}"
    """One JSON object as `detail` writes it, at most 16 KiB; never a patient's identity."""

    @property
    def place(self) -> Place | None:
        """Of a `stored` receipt; None in those of hubs that count no positions, and of every other status."""
        if self.status is not StudyStatus.STORED:
            return None
        facts = json.loads(self.detail)
        generation, position = facts.get("generation"), facts.get("position")
        if not isinstance(generation, str) or type(position) is not int or not 1 <= position <= LAST_POSITION:
            return None
        try:
            value = bytes.fromhex(generation)
        except ValueError:
            return None
        return Place(Generation(value), position) if len(value) == GENERATION_BYTES else None


def detail(facts: Mapping[str, Any]) -> bytes:
    """A receipt's detail: canonical JSON of the facts. Raises ValueError for NaN."""
    return json.dumps(facts, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")).encode()


def place_detail(place: Place) -> bytes:
    """The detail of a `stored` receipt."""
    return detail({"generation": place.generation.hex(), "position": place.position})


def sign_receipt(receipt: Receipt, key: Ed25519PrivateKey) -> bytes:
    """The receipt with the hub's signature. Raises ValueError for a detail that `read_receipt` would refuse."""
    body = _body(receipt)
    if not _is_detail(receipt.detail):
        raise ValueError("the detail of a receipt is not canonical JSON of at most 16 KiB")
    return sign(key, _CONTEXT, body) + body


def read_receipt(data: bytes, key: Ed25519PublicKey) -> Receipt:
    """The receipt in `data`. key: the hub's. The signature is verified before parsing. Raises Forged."""
    if len(data) > MAX_RECEIPT:
        raise Forged("a receipt is longer than the limit")
    verify(key, _CONTEXT, data[:SIGNATURE_BYTES], data[SIGNATURE_BYTES:])
    return parse_receipt(data)


def parse_receipt(data: bytes) -> Receipt:
    """The same without the signature's verification: for a receipt that this end verified when it stored it. Raises
    Forged for another form."""
    body = data[SIGNATURE_BYTES:]
    fields = Fields.of(body, _FIELDS, MAX_RECEIPT, Forged, "receipt")
    fields.integer("version", VERSION, VERSION)
    study = StudyKey(fields.data("study", STUDY_KEY_BYTES, STUDY_KEY_BYTES))
    site = fields.text("site", 32)
    stored = None if fields.absent() else Digest(fields.data("object", DIGEST_BYTES, DIGEST_BYTES))
    status = _STATUS[fields.integer("status", 0, len(_STATUS) - 1)]
    at = moment(fields.integer("at", 0, LAST_MOMENT))
    facts = fields.data("detail", 0, MAX_DETAIL)
    try:
        receipt = Receipt(study, site_name(site), stored, status, at, facts)
    except ValueError as error:
        raise Forged("a receipt has no valid site name") from error
    if not _is_detail(facts) or _body(receipt) != body:
        raise Forged("a receipt is not in canonical form")
    return receipt


def _body(receipt: Receipt) -> bytes:
    return pack(
        VERSION,
        bytes(receipt.study),
        str(receipt.site),
        receipt.object,
        _STATUS.index(receipt.status),
        micros(receipt.at),
        receipt.detail,
    )


def _is_detail(data: bytes) -> bool:
    try:
        facts = json.loads(data)
        return isinstance(facts, dict) and len(data) <= MAX_DETAIL and detail(facts) == data
    except (ValueError, RecursionError):
        return False
