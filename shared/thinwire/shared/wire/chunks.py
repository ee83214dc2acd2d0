"""How bytes are cut for the link; both ends hold to these limits. Protocol: docs/wire-protocol.md."""

from thinwire.shared.crypto.envelope import HEADER_BYTES

VERSION = 1
"""Of the wire protocol."""

SMALLEST_CHUNK = 1 << 10
LARGEST_CHUNK = 1 << 18
MAX_MESSAGE = LARGEST_CHUNK + (1 << 16)
"""Bytes of one message on the wire: the largest chunk and what is around it."""

HEAD = HEADER_BYTES
"""Every offer carries at least so many of the object's first bytes: they say what it is."""

OFFER_BYTES = 90
"""What an object that goes whole with its offer takes on the stream beside its own bytes: 49 of protobuf at most, 5 of
gRPC (its message's length), 9 of HTTP/2 (RFC 9113, 4.1), 22 of TLS 1.3 (RFC 8446, 5.2), and some
for longer numbers."""

CHUNK_BYTES = 80
"""What a chunk of few packets takes on the stream beside its data: 18 of protobuf at most, as above 36 of gRPC, HTTP/2
and TLS, and 26 of the two window updates (RFC 9113, 6.9) that gRPC adds when the hub has said something meanwhile."""

CHUNK_SECONDS = 0.15
"""What is urgent waits at most for the chunk that is on its way."""


def chunk_size(rate: float, seconds: float = CHUNK_SECONDS) -> int:
    """Bytes of a chunk that takes about so many seconds, CHUNK_SECONDS at most. rate: bytes a second."""
    return int(min(LARGEST_CHUNK, max(SMALLEST_CHUNK, rate * min(seconds, CHUNK_SECONDS))))


def head_size(size: int, chunk: int) -> int:
    """How much of an object goes with its offer: all of it if that is one chunk, else what says what it is.

    More would be sent again whenever a large object is offered again after the link broke.
    """
    return size if size <= chunk else min(size, HEAD)
