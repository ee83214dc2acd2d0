"""`.thinwire`: one study's graph as a file of its own. Format: docs/store-format.md."""

import struct

from thinwire.shared.errors import BadPayload
from thinwire.shared.identifiers import STUDY_KEY_BYTES, StudyKey

VERSION = 1
_MAGIC = b"TWG"
_HEAD = struct.Struct(f">3sB{STUDY_KEY_BYTES}s")


def wrap(study: StudyKey, payload: bytes) -> bytes:
    return _HEAD.pack(_MAGIC, VERSION, study) + payload


def unwrap(data: bytes) -> tuple[StudyKey, bytes]:
    """(study, payload); `thinwire.shared.formats.payload.decode` reads the payload. Raises BadPayload."""
    if len(data) < _HEAD.size or data[:4] != _MAGIC + bytes([VERSION]):
        raise BadPayload("this is no .thinwire file of version 1")
    _, _, study = _HEAD.unpack(data[: _HEAD.size])
    return StudyKey(study), data[_HEAD.size :]
