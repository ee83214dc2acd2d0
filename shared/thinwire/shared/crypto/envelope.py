"""Sealed objects and the epoch keys that seal them. Format and reasons: docs/envelope-format.md.

An epoch key is sealed to the hub by HPKE and signed by the site, once per epoch. Each object is then sealed under a
key of its own in chunks (STREAM), so that the overhead is tens of bytes, a partial object can be verified, and
sealing is deterministic.
"""

import hashlib
import hmac
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from types import MappingProxyType
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from thinwire.shared.clock import Clock
from thinwire.shared.crypto.keys import SIGNATURE_BYTES, HubPrivateKey, HubPublicKey, sign, verify
from thinwire.shared.errors import BadConfiguration, Forged
from thinwire.shared.identifiers import EPOCH_ID_BYTES, EpochId, SiteName, StudyKey, site_name

VERSION = 1
HEADER_BYTES = 45
TAG_BYTES = 16
KEY_BYTES = 32
CHUNK_LOG2 = 16
MAX_RECORD = 2048
"""Limit of an epoch record, in bytes."""

_HEADER = struct.Struct(">2sBBB8s16s16s")
_MAGIC = b"TW"
_CHUNK_LOG2_RANGE = range(10, 21)
_SALT_AT = 29
_SALT_CONTEXT = b"thinwire salt v1\0"
_OBJECT_CONTEXT = b"thinwire object v1\0"

_RECORD = struct.Struct(">3sB8sQ8sB")
RECORD_MAGIC = b"TWE"
_SEALED_KEY_BYTES = 1168
_EPOCH_CONTEXT = b"thinwire epoch v1"
_KEY_FILE = struct.Struct(">3sB8sQ32s")
_KEY_MAGIC = b"TWK"
_RESTORE = "Restore keys/ from a backup."
_LAST_SECOND = 253402300799  # 9999-12-31, the last day of datetime


class Kind(IntEnum):
    """The content of an object. Tiers have the numbers of `identifiers.Tier`."""

    GRAPH = 0
    PREVIEW = 1
    CROPS = 2
    ORIGINALS = 3
    MANIFEST = 8
    SOURCE = 9
    """The clinic's copy at rest; it is never sent."""
    TRANSFER_NOTE = 10
    """The clinic's list of its objects on a stick; docs/offline-transfer.md."""
    REPLY = 11
    """The hub's receipts and requests for a clinic, by stick."""


_KINDS = frozenset(int(kind) for kind in Kind)
_SMALL_CHUNKS = MappingProxyType({Kind.PREVIEW: 10, Kind.CROPS: 14})


def chunk_log2_of(kind: Kind) -> int:
    """log2 of the chunk size of a kind: small if the first chunks are useful alone."""
    return _SMALL_CHUNKS.get(kind, CHUNK_LOG2)


def plain_capacity(sealed_size: int, kind: Kind) -> int:
    """The most bytes of plaintext whose sealed object has at most `sealed_size` bytes; never negative."""
    chunk = 1 << chunk_log2_of(kind)
    whole, rest = divmod(max(0, sealed_size - HEADER_BYTES), chunk + TAG_BYTES)
    return whole * chunk + max(0, rest - TAG_BYTES)


@dataclass(frozen=True)
class EpochKey:
    """The key of one epoch of a site."""

    id: EpochId
    site: SiteName
    key: bytes = field(repr=False)
    """32 bytes."""
    created: datetime
    """UTC, whole seconds."""

    def to_bytes(self) -> bytes:
        """The content of `keys/epochs/<id>.key` (0600). It is never sent."""
        head = _KEY_FILE.pack(_KEY_MAGIC, VERSION, self.id, _seconds(self.created), self.key)
        return head + self.site.encode("ascii")

    @classmethod
    def from_bytes(cls, data: bytes) -> "EpochKey":
        """Read the bytes of `to_bytes`. Raises BadConfiguration."""
        head, name = data[: _KEY_FILE.size], data[_KEY_FILE.size :]
        if len(head) < _KEY_FILE.size:
            raise BadConfiguration("an epoch key file is cut short", _RESTORE)
        magic, version, epoch, created, key = _KEY_FILE.unpack(head)
        try:
            if (magic, version) != (_KEY_MAGIC, VERSION) or created > _LAST_SECOND:
                raise ValueError("no epoch key")
            return cls(EpochId(epoch), site_name(name.decode("ascii")), key, datetime.fromtimestamp(created, UTC))
        except ValueError as error:
            raise BadConfiguration("an epoch key file is damaged", _RESTORE) from error


@dataclass(frozen=True)
class EnvelopeHeader:
    """The first 45 bytes of a sealed object, in plaintext, authenticated by every chunk's tag."""

    kind: Kind
    chunk_log2: int
    epoch: EpochId
    study: StudyKey
    salt: bytes
    """16 bytes."""

    def to_bytes(self) -> bytes:
        return _HEADER.pack(_MAGIC, VERSION, self.kind, self.chunk_log2, self.epoch, self.study, self.salt)


KeyOf = Callable[[EpochId], EpochKey]
"""The epoch key of an id, among those of one site. Raises Forged for an epoch that the site never announced."""


def new_epoch(
    site: SiteName,
    hub: HubPublicKey,
    signing: Ed25519PrivateKey,
    clock: Clock,
    random_bytes: Callable[[int], bytes] = os.urandom,
) -> tuple[EpochKey, bytes]:
    """A new epoch key, and its record, sealed to the hub.

    signing: the site's. The record is sent to the hub before any object of the epoch.
    """
    epoch, key = EpochId(random_bytes(EPOCH_ID_BYTES)), random_bytes(KEY_BYTES)
    created = clock.now().replace(microsecond=0)
    name = site.encode("ascii")
    head = _RECORD.pack(RECORD_MAGIC, VERSION, epoch, _seconds(created), hub.key_id, len(name)) + name
    unsigned = head + hub.seal(key, info=_EPOCH_CONTEXT + b"\0" + head)
    return EpochKey(epoch, site, key, created), unsigned + sign(signing, _EPOCH_CONTEXT, unsigned)


def open_epoch(record: bytes, site: SiteName, site_verify: Ed25519PublicKey, hub: HubPrivateKey) -> EpochKey:
    """The key in an epoch record of `site` (from its TLS certificate). Raises Forged."""
    epoch, created, hub_key, name, sealed_at = _parse_record(record)
    unsigned, signature = record[:-SIGNATURE_BYTES], record[-SIGNATURE_BYTES:]
    verify(site_verify, _EPOCH_CONTEXT, signature, unsigned)
    if name != site.encode("ascii"):
        raise Forged("an epoch record names another site")
    if hub_key != hub.public.key_id:
        raise Forged("an epoch record is sealed to another hub key")
    key = hub.open(unsigned[sealed_at:], info=_EPOCH_CONTEXT + b"\0" + unsigned[:sealed_at])
    return EpochKey(epoch, site, key, created)


def peek_epoch(record: bytes) -> EpochId:
    """The epoch id in a record; only the form is verified. Raises Forged."""
    return _parse_record(record)[0]


def peek_hub_key(record: bytes) -> bytes:
    """The id of the hub key that seals a record, 8 bytes; only the form is verified. Raises Forged."""
    return _parse_record(record)[2]


def peek_site(record: bytes) -> SiteName:
    """The site in a record; only the form is verified. Raises Forged."""
    try:
        return site_name(_parse_record(record)[3].decode("ascii"))
    except ValueError as error:
        raise Forged("an epoch record has no valid site name") from error


def sealed_size(plain: int, chunk_log2: int = CHUNK_LOG2) -> int:
    """Bytes of a sealed object over `plain` bytes: header, then a tag for each chunk."""
    return HEADER_BYTES + plain + TAG_BYTES * max(1, -(-plain // (1 << chunk_log2)))


def seal(epoch: EpochKey, kind: Kind, study: StudyKey, plaintext: bytes, chunk_log2: int | None = None) -> bytes:
    """The sealed object of `plaintext`. Deterministic.

    chunk_log2: 10 to 20, ValueError otherwise; None is `chunk_log2_of` the kind.
    """
    chunk_log2 = chunk_log2_of(kind) if chunk_log2 is None else chunk_log2
    if chunk_log2 not in _CHUNK_LOG2_RANGE:
        raise ValueError(f"chunks of 2^{chunk_log2} bytes")
    unsalted = EnvelopeHeader(kind, chunk_log2, epoch.id, study, bytes(16))
    header = EnvelopeHeader(kind, chunk_log2, epoch.id, study, _salt(epoch, unsalted.to_bytes(), plaintext))
    head = header.to_bytes()
    cipher, size, view = _cipher(epoch, header), 1 << chunk_log2, memoryview(plaintext)
    count = max(1, -(-len(plaintext) // size))
    chunks = (cipher.encrypt(_nonce(n, n == count - 1), view[n * size : (n + 1) * size], head) for n in range(count))
    return b"".join([head, *chunks])


def peek(sealed_prefix: bytes) -> EnvelopeHeader:
    """The header of a sealed object from its first 45 bytes or more; only the form is verified. Raises Forged."""
    if len(sealed_prefix) < HEADER_BYTES:
        raise Forged("a sealed object is cut short in its header")
    magic, version, kind, chunk_log2, epoch, study, salt = _HEADER.unpack(bytes(sealed_prefix[:HEADER_BYTES]))
    if (magic, version) != (_MAGIC, VERSION) or kind not in _KINDS or chunk_log2 not in _CHUNK_LOG2_RANGE:
        raise Forged("not a sealed object of version 1")
    return EnvelopeHeader(Kind(kind), chunk_log2, EpochId(epoch), StudyKey(study), salt)


def open_sealed(sealed: bytes, key_of: KeyOf) -> tuple[EnvelopeHeader, bytes]:
    """The header and the plaintext of a whole sealed object, never longer than the input. Raises Forged."""
    header = peek(sealed)
    epoch = _epoch(header, key_of)
    cipher, step = _cipher(epoch, header), (1 << header.chunk_log2) + TAG_BYTES
    body = memoryview(sealed)[HEADER_BYTES:]
    count = max(1, -(-len(body) // step))
    # Only an empty object may end in a chunk without plaintext, so that one plaintext has one form.
    if len(body) - (count - 1) * step < TAG_BYTES + (count > 1):
        raise Forged("a sealed object is cut short")
    plaintext = b"".join(
        _open_chunk(cipher, header, n, n == count - 1, body[n * step : (n + 1) * step]) for n in range(count)
    )
    if not hmac.compare_digest(header.salt, _salt(epoch, header.to_bytes(), plaintext)):
        raise Forged("a sealed object's salt does not match its plaintext")
    return header, plaintext


def verified_length(file: BinaryIO, key_of: KeyOf) -> int:
    """Verified bytes of a partial object on disk: the header and the complete chunks with valid tags.

    file: read from its start, one chunk in memory at a time. 0 without a valid chunk or a known epoch: after a power
    cut such a transfer starts again.
    """
    length = 0
    try:
        for length, _ in _trusted(file, key_of):  # noqa: B007 - the last one counts
            pass
    except Forged:
        return 0
    return length


def open_prefix(file: BinaryIO, key_of: KeyOf) -> tuple[EnvelopeHeader, bytes]:
    """The header and the verified plaintext of a partial object; empty without a valid chunk.

    file: as for `verified_length`. Each chunk is authenticated, but the rest of the object is unknown: only
    `open_sealed` checks the salt. Raises Forged for an invalid header or an unknown epoch.
    """
    file.seek(0)
    header = peek(file.read(HEADER_BYTES))
    return header, b"".join(plaintext for _, plaintext in _trusted(file, key_of))


def _trusted(file: BinaryIO, key_of: KeyOf) -> Iterator[tuple[int, bytes]]:
    """The end offset and the plaintext of each chunk, up to the first invalid one. Raises Forged."""
    file.seek(0)
    header = peek(file.read(HEADER_BYTES))
    cipher = _cipher(_epoch(header, key_of), header)
    step, end = (1 << header.chunk_log2) + TAG_BYTES, HEADER_BYTES
    for n, chunk in enumerate(_chunks(file, step)):
        end += len(chunk)
        # The last chunk may have any length, and is sealed as the last.
        for last in (False, True) if len(chunk) == step else (True,):
            plaintext = _held(cipher, header, n, last, chunk)
            if plaintext is not None:
                yield end, plaintext
                break
        else:
            return
        if last:
            return


def _chunks(file: BinaryIO, step: int) -> Iterator[bytes]:
    while chunk := file.read(step):
        yield chunk


def _held(cipher: ChaCha20Poly1305, header: EnvelopeHeader, number: int, last: bool, chunk: bytes) -> bytes | None:
    try:
        return _open_chunk(cipher, header, number, last, memoryview(chunk))
    except Forged:
        return None


def _open_chunk(cipher: ChaCha20Poly1305, header: EnvelopeHeader, number: int, last: bool, chunk: memoryview) -> bytes:
    try:
        return cipher.decrypt(_nonce(number, last), chunk, header.to_bytes())
    except InvalidTag as error:
        raise Forged(f"chunk {number} of a sealed object is altered") from error


def _epoch(header: EnvelopeHeader, key_of: KeyOf) -> EpochKey:
    epoch = key_of(header.epoch)
    if epoch.id != header.epoch:
        raise Forged("the key is of another epoch")
    return epoch


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


def _salt(epoch: EpochKey, header: bytes, plaintext: bytes) -> bytes:
    message = _SALT_CONTEXT + header[:_SALT_AT] + hashlib.sha256(plaintext).digest()
    return hmac.digest(epoch.key, message, "sha256")[:16]


def _cipher(epoch: EpochKey, header: EnvelopeHeader) -> ChaCha20Poly1305:
    derive = HKDF(SHA256(), KEY_BYTES, salt=header.salt, info=_OBJECT_CONTEXT + header.to_bytes())
    return ChaCha20Poly1305(derive.derive(epoch.key))


def _parse_record(record: bytes) -> tuple[EpochId, datetime, bytes, bytes, int]:
    """(epoch id, created, hub key id, site's name, offset of the sealed key)."""
    if len(record) < _RECORD.size:
        raise Forged("an epoch record is cut short")
    magic, version, epoch, created, hub_key, name_length = _RECORD.unpack(record[: _RECORD.size])
    if (magic, version) != (RECORD_MAGIC, VERSION) or not 1 <= name_length <= 32 or created > _LAST_SECOND:
        raise Forged("not an epoch record of version 1")
    sealed_at = _RECORD.size + name_length
    if len(record) != sealed_at + _SEALED_KEY_BYTES + SIGNATURE_BYTES:
        raise Forged("an epoch record has a wrong length")
    name = record[_RECORD.size : sealed_at]
    return EpochId(epoch), datetime.fromtimestamp(created, UTC), hub_key, name, sealed_at


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())
