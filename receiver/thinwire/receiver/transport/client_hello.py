"""The first TLS record of a clinic: gRPC cannot be told which versions to accept, and would take TLS 1.2.

A server that knows TLS 1.3 chooses it for every client that offers it (RFC 8446 4.1.1, 4.2.1), so the offer decides.
"""

from collections.abc import Iterator

RECORD_BYTES = 5
"""Head of a record: type, legacy version, length."""
MOST_BYTES = RECORD_BYTES + (1 << 14)
"""Longest record of plaintext (RFC 8446 5.1)."""
PROTOCOL_VERSION = bytes((21, 3, 3, 0, 2, 2, 70))
"""The alert protocol_version, fatal (RFC 8446 6.2)."""
_HANDSHAKE, _CLIENT_HELLO, _SUPPORTED_VERSIONS = 22, 1, 43
_TLS_1_3 = b"\x03\x04"


def record_bytes(head: bytes) -> int:
    """Length of the record with this head, 5 bytes; 0 if it cannot begin a connection."""
    size = RECORD_BYTES + int.from_bytes(head[3:5])
    return size if head[0] == _HANDSHAKE and head[1] == 3 and RECORD_BYTES < size <= MOST_BYTES else 0


def offers_tls_1_3(record: bytes) -> bool:
    """Whether a whole record is a ClientHello that offers TLS 1.3. Any bytes may be given."""
    hello = record[RECORD_BYTES:]
    if hello[:1] != bytes((_CLIENT_HELLO,)) or int.from_bytes(hello[1:4]) != len(hello) - 4:
        return False
    # legacy_version, random; then session id, cipher suites, compression methods, extensions (RFC 8446 4.1.2)
    rest = hello[4 + 2 + 32 :]
    for width in (1, 2, 1):
        rest = rest[width + int.from_bytes(rest[:width]) :]
    versions = next((body for kind, body in _extensions(rest[2:]) if kind == _SUPPORTED_VERSIONS), b"")
    return _TLS_1_3 in (versions[at : at + 2] for at in range(1, len(versions), 2))


def _extensions(rest: bytes) -> Iterator[tuple[int, bytes]]:
    while len(rest) >= 4:
        end = 4 + int.from_bytes(rest[2:4])
        yield int.from_bytes(rest[:2]), rest[4:end]
        rest = rest[end:]
