"""Chunk sizes and limits of the link, the same at both ends. Protocol: docs/wire-protocol.md."""

from thinwire.shared.crypto.envelope import HEADER_BYTES

VERSION = 1
"""Version of the wire protocol."""

SMALLEST_CHUNK = 1 << 10
LARGEST_CHUNK = 1 << 18
MAX_MESSAGE = LARGEST_CHUNK + (1 << 16)
"""Bytes of one message on the wire: the largest chunk and its framing."""

HEAD = HEADER_BYTES
"""Least bytes of an object in its offer: they include its header."""

OFFER_BYTES = 90
"""Overhead in bytes of an object that is sent whole in its offer: 49 of protobuf at most, 5 of
gRPC (its message's length), 9 of HTTP/2 (RFC 9113, 4.1), 22 of TLS 1.3 (RFC 8446, 5.2), and some
for longer numbers."""

CHUNK_BYTES = 80
"""Overhead in bytes of a chunk of few packets: 18 of protobuf at most, as above 36 of gRPC, HTTP/2
and TLS, and 26 of the two window updates (RFC 9113, 6.9) that gRPC adds after a message of the hub."""

CHUNK_SECONDS = 0.15
"""An urgent object waits at most for the chunk in flight."""


def chunk_size(rate: float, seconds: float = CHUNK_SECONDS) -> int:
    """Bytes of a chunk that takes about `seconds` seconds, at most CHUNK_SECONDS. rate: bytes a second."""
    return int(min(LARGEST_CHUNK, max(SMALLEST_CHUNK, rate * min(seconds, CHUNK_SECONDS))))


def head_size(size: int, chunk: int) -> int:
    """Bytes of an object in its offer: all if it fits into one chunk, else its first bytes.

    More would be sent again for every repeated offer of a large object after a lost link.
    """
    return size if size <= chunk else min(size, HEAD)
