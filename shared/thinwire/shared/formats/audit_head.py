"""The signed head of the hub's audit log, which clinics keep for it. Format: docs/envelope-format.md.

The digest of a head depends on every message before it. So a head that is kept elsewhere shows messages that were
removed, and its signature shows a log that was made anew without the hub's key.
"""

from dataclasses import dataclass
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from thinwire.shared.crypto.keys import SIGNATURE_BYTES, sign, verify
from thinwire.shared.errors import Forged
from thinwire.shared.formats.positional import LAST_MOMENT, Fields, micros, moment, pack
from thinwire.shared.identifiers import DIGEST_BYTES, Digest

VERSION = 1
LONGEST = SIGNATURE_BYTES + 64
"""Bytes of a signed head."""

_FIELDS = 4
_CONTEXT = b"thinwire audit head v1"
_MOST = (1 << 63) - 1


@dataclass(frozen=True)
class AuditHead:
    """The number of messages in the log, the digest of the last and its time (UTC)."""

    number: int
    digest: Digest
    at: datetime

    def __str__(self) -> str:
        return f"{self.number}:{self.digest.hex()}"


def sign_head(head: AuditHead, key: Ed25519PrivateKey) -> bytes:
    """64 bytes: the hub's signature of a head."""
    return sign(key, _CONTEXT, _body(head))


def signed_head(head: AuditHead, signature: bytes) -> bytes:
    """The head as it is sent and kept: the signature, then the head."""
    return signature + _body(head)


def read_signed_head(data: bytes, key: Ed25519PublicKey) -> AuditHead:
    """The head in `data`. key: the hub's. The signature is verified before parsing. Raises Forged."""
    if len(data) > LONGEST:
        raise Forged("the head of an audit log is longer than the limit")
    verify(key, _CONTEXT, data[:SIGNATURE_BYTES], data[SIGNATURE_BYTES:])
    return parse_signed_head(data)


def parse_signed_head(data: bytes) -> AuditHead:
    """The same without the signature's verification: for a head that this end verified when it stored it. Raises
    Forged for another form."""
    body = data[SIGNATURE_BYTES:]
    fields = Fields.of(body, _FIELDS, LONGEST, Forged, "the head of an audit log")
    fields.integer("version", VERSION, VERSION)
    number = fields.integer("number", 0, _MOST)
    digest = Digest(fields.data("digest", DIGEST_BYTES, DIGEST_BYTES))
    head = AuditHead(number, digest, moment(fields.integer("at", 0, LAST_MOMENT)))
    if _body(head) != body:
        raise Forged("the head of an audit log is not in canonical form")
    return head


def _body(head: AuditHead) -> bytes:
    return pack(VERSION, head.number, bytes(head.digest), micros(head.at))
