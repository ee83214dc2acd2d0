"""The signed list of the hub's keys, which clinics learn over the link. Format: docs/envelope-format.md.

A clinic trusts the authorities of the list alone, and seals to its key. So a new authority is known at every clinic
before the hub uses it, and a clinic that missed a list gets the present one with its next stream.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from thinwire.shared.crypto import certificates
from thinwire.shared.crypto.keys import SIGNATURE_BYTES, HubPublicKey, sign, verify
from thinwire.shared.errors import Forged
from thinwire.shared.formats.positional import LAST_MOMENT, Fields, micros, moment, pack

VERSION: Final = 1
MOST_AUTHORITIES: Final = 8
LONGEST: Final = 16 << 10
"""Bytes of a signed list."""
_FIELDS = 4
_LONGEST_AUTHORITY = 1024
_SEALING_BYTES = 1216
_CONTEXT = b"thinwire hub keys v1"


@dataclass(frozen=True)
class HubKeys:
    at: datetime
    """UTC, of the last change: a later list replaces an earlier one."""
    authorities: tuple[bytes, ...]
    """1 to 8 certificates, DER, oldest first."""
    sealing: bytes
    """The hub's HPKE public key, 1216 bytes."""

    @property
    def authorities_pem(self) -> bytes:
        return b"".join(certificates.pem(certificates.load(each)) for each in self.authorities)


def sign_hub_keys(keys: HubKeys, key: Ed25519PrivateKey) -> bytes:
    """The list with the hub's signature."""
    return sign(key, _CONTEXT, _body(keys)) + _body(keys)


def read_hub_keys(data: bytes, key: Ed25519PublicKey) -> HubKeys:
    """The list in `data`. key: the hub's. The signature is verified before parsing. Raises Forged."""
    if len(data) > LONGEST:
        raise Forged("the list of the hub's keys is longer than the limit")
    body = data[SIGNATURE_BYTES:]
    verify(key, _CONTEXT, data[:SIGNATURE_BYTES], body)
    fields = Fields.of(body, _FIELDS, LONGEST, Forged, "the list of the hub's keys", widest=MOST_AUTHORITIES)
    fields.integer("version", VERSION, VERSION)
    at = moment(fields.integer("at", 0, LAST_MOMENT))
    entries = fields.fields("authorities", 1, MOST_AUTHORITIES)
    authorities = tuple(entries.data("authority", 1, _LONGEST_AUTHORITY) for _ in range(len(entries)))
    sealing = HubPublicKey(fields.data("sealing", _SEALING_BYTES, _SEALING_BYTES)).raw
    keys = HubKeys(at, authorities, sealing)
    try:
        for each in authorities:
            certificates.load(each)
    except ValueError as error:
        raise Forged("the list of the hub's keys holds an authority that is not a certificate") from error
    if _body(keys) != body:
        raise Forged("the list of the hub's keys is not in canonical form")
    return keys


def _body(keys: HubKeys) -> bytes:
    return pack(VERSION, micros(keys.at), list(keys.authorities), keys.sealing)
