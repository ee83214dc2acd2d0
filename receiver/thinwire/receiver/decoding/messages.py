"""Messages between the hub and its decoding process: numbers, text and raw bytes, nothing that runs when it is read.

A message is a length, a msgpack list, and the buffers whose sizes the list ends with.
"""

import struct
from collections.abc import Sequence
from typing import IO, Any, NamedTuple

import msgpack
import numpy as np
from numpy.typing import NDArray

DONE, TOO_MUCH = "", "memory"
"""First field of an answer: it worked, or more memory was needed than the limit; else the name of an error."""
_LENGTH = struct.Struct(">L")
_MOST_FIELDS = 4 << 20

Buffer = bytes | memoryview


class Message(NamedTuple):
    fields: list[Any]
    buffers: Sequence[Buffer]


class Received(NamedTuple):
    fields: list[Any]
    buffers: list[bytes]


def send(stream: IO[bytes], message: Message) -> None:
    """Raises OSError."""
    packed = msgpack.packb([message.fields, [len(each) for each in message.buffers]])
    stream.write(_LENGTH.pack(len(packed)) + packed)
    for each in message.buffers:
        stream.write(each)
    stream.flush()


def receive(stream: IO[bytes], most_bytes: int) -> Received:
    """most_bytes: limit of all buffers. Raises EOFError: the other end has ended, or the message is none."""
    (length,) = _LENGTH.unpack(_exactly(stream, _LENGTH.size))
    if length > _MOST_FIELDS:
        raise EOFError
    try:
        fields, sizes = msgpack.unpackb(_exactly(stream, length))
        if not isinstance(fields, list) or not fields or min(sizes, default=0) < 0 or sum(sizes) > most_bytes:
            raise EOFError
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise EOFError from error
    return Received(fields, [_exactly(stream, size) for size in sizes])


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise EOFError
    return data


def flat(array: NDArray[Any]) -> tuple[list[Any], memoryview]:
    """An array as fields and a buffer."""
    whole = np.ascontiguousarray(array)
    return [whole.dtype.str, list(whole.shape)], whole.reshape(-1).view(np.uint8).data


def shaped(fields: object, data: Buffer, kinds: frozenset[str], dimensions: int) -> NDArray[Any]:
    """The array of `flat`. kinds: dtypes that it may have. Raises ValueError for any other."""
    if not isinstance(fields, list) or len(fields) != 2:
        raise ValueError("no array")
    kind, shape = fields
    if kind not in kinds or not isinstance(shape, list) or len(shape) != dimensions:
        raise ValueError("an array of another kind")
    return np.frombuffer(data, kind).reshape(shape)
