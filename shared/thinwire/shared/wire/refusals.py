"""The refusal codes of the wire protocol and their errors, one table for both ends."""

from typing import Final

from thinwire.shared.errors import (
    BadFormat,
    DiskFull,
    Forged,
    HubBusy,
    NotEnrolled,
    ProtocolBroken,
    ThinwireError,
    UnknownBundle,
)
from thinwire.shared.errors import Final as FinalError
from thinwire.shared.wire.v1 import link_pb2 as wire

ERROR_OF: Final[dict[wire.RefusalCode, type[ThinwireError]]] = {
    wire.REFUSAL_CODE_BUSY: HubBusy,
    wire.REFUSAL_CODE_DISK_FULL: DiskFull,
    wire.REFUSAL_CODE_UNKNOWN_EPOCH: HubBusy,
    wire.REFUSAL_CODE_DAMAGED: HubBusy,
    wire.REFUSAL_CODE_FORGED: Forged,
    wire.REFUSAL_CODE_BAD_FORMAT: BadFormat,
    wire.REFUSAL_CODE_UNKNOWN_BUNDLE: UnknownBundle,
    wire.REFUSAL_CODE_FINAL: FinalError,
    wire.REFUSAL_CODE_NOT_ENROLLED: NotEnrolled,
    wire.REFUSAL_CODE_PROTOCOL_BROKEN: ProtocolBroken,
}
"""The clinic's error for each code; an unknown code is final."""

_CODE_OF: Final[tuple[tuple[type[ThinwireError], wire.RefusalCode], ...]] = (
    (DiskFull, wire.REFUSAL_CODE_DISK_FULL),
    (Forged, wire.REFUSAL_CODE_FORGED),
    (BadFormat, wire.REFUSAL_CODE_BAD_FORMAT),
    (UnknownBundle, wire.REFUSAL_CODE_UNKNOWN_BUNDLE),
    (NotEnrolled, wire.REFUSAL_CODE_NOT_ENROLLED),
    (ProtocolBroken, wire.REFUSAL_CODE_PROTOCOL_BROKEN),
    (FinalError, wire.REFUSAL_CODE_FINAL),
)


def code_of(error: ThinwireError) -> wire.RefusalCode:
    """The code for an error: that of the nearest class in the table, BUSY for other retryable errors."""
    return next((code for kind, code in _CODE_OF if isinstance(error, kind)), wire.REFUSAL_CODE_BUSY)
