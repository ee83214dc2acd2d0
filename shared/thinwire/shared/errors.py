"""Every error that thinwire raises on purpose, as one tree.

    ThinwireError
    ├── Retryable                  the same act may succeed later, unchanged
    │   ├── LinkLost               the stream broke or the hub cannot be reached
    │   ├── HubBusy                the hub asks to come back later
    │   ├── StickLost              a stick or folder that carries objects cannot be read or written
    │   ├── ReportMoved            somebody else saved the report meanwhile
    │   └── DiskFull               no room to write; nothing was acknowledged
    └── Final                      repeating the same act cannot help
        ├── BadInput               what a person gave cannot be used
        │   ├── UnreadableDicom    not DICOM, or its pixels do not decode
        │   ├── NotChestRadiograph by its own header
        │   ├── UnreadableText     the text beside the study cannot be read
        │   ├── AlreadyAccepted    the same files came before with another text
        │   ├── UidReused          another object with the same SOP Instance UID came before
        │   └── BadConfiguration   a setting or a data folder cannot be used
        ├── BadFormat              bytes that break their own format
        │   ├── BadPayload         a graph that lies about its counts, sizes or values
        │   ├── BadManifest
        │   ├── BadBundle          a bundle that is damaged or incomplete
        │   ├── BadPreview
        │   ├── BadCrops
        │   └── BadArchive         originals that do not unpack to what they name
        ├── Forged                 a signature, a tag, a digest or an identity that does not hold
        ├── UnknownBundle          a payload names a bundle that this end does not have
        ├── UnknownStudy
        ├── ReportSigned           a signed report is not changed
        ├── NotEnrolled            no certificate, a foreign one, or a used or expired join token
        └── ProtocolBroken         the other end departs from docs/wire-protocol.md

Each error carries `remedy`: one sentence that says what a person can do. It never carries a patient identifier
or a path below a patient's name. gRPC statuses are chosen in `receiver/transport/ingest.py`, exit codes by
`exit_code` below, which both command lines use.
"""

from typing import ClassVar


class ThinwireError(Exception):
    """An error with a remedy. `str(error)` is what happened, `error.remedy` what to do about it."""

    remedy: str = "Run the command again with --help, or see docs/commands.md."
    code: ClassVar[int] = 1

    def __init__(self, what: str, remedy: str | None = None) -> None:
        super().__init__(what)
        if remedy is not None:
            self.remedy = remedy


class Retryable(ThinwireError):
    code = 75  # EX_TEMPFAIL of sysexits.h


class LinkLost(Retryable):
    code = 69  # EX_UNAVAILABLE
    remedy = "Nothing is lost: the sender keeps the study and goes on when the link is back."


class HubBusy(Retryable):
    remedy = "Nothing is lost: the sender tries again by itself."


class DiskFull(Retryable):
    code = 74  # EX_IOERR
    remedy = "Free space on the disk that holds the data folder, then repeat; nothing was half-accepted."


class Final(ThinwireError):
    code = 70  # EX_SOFTWARE


class StickLost(Retryable):
    code = 74  # EX_IOERR
    remedy = "Put the stick in again, writable, and repeat the command: what was done already is not done twice."


class ReportMoved(Retryable):
    remedy = "Your text is kept on the page: compare it with the newer version, then save again."


class BadInput(Final):
    code = 65  # EX_DATAERR


class UnreadableDicom(BadInput):
    remedy = "Export the study from the modality or PACS again; the file is kept in quarantine as it came."


class NotChestRadiograph(BadInput):
    remedy = "thinwire reads frontal chest radiographs (CR, DX); send this study by the usual way."


class UnreadableText(BadInput):
    remedy = "Give the text as UTF-8, or leave it out: it is then generated on board."


class AlreadyAccepted(BadInput):
    remedy = "The study is safe as first accepted; to add words to it, tell the reader at the hub."


class UidReused(BadInput):
    remedy = "The first object is safe; this one is kept in quarantine. Give the image a new UID at the machine."


class BadConfiguration(BadInput):
    code = 78  # EX_CONFIG


class BadFormat(Final):
    remedy = "The bytes were damaged or made by something else; they were not stored."


class BadPayload(BadFormat):
    pass


class BadManifest(BadFormat):
    pass


class BadBundle(BadFormat):
    remedy = "Install the bundle again: its files do not match its own digests."


class BadPreview(BadFormat):
    pass


class BadCrops(BadFormat):
    pass


class BadArchive(BadFormat):
    pass


class Forged(Final):
    code = 77  # EX_NOPERM
    remedy = "Refused: what arrived was not sealed by an enrolled sender for this hub, or was altered."


class UnknownBundle(Final):
    remedy = "Add it at the hub (`thinwire-receiver bundle add`), or send with a bundle that the hub issued."


class UnknownStudy(Final):
    code = 66  # EX_NOINPUT
    remedy = "See `worklist` (hub) or `status` (clinic) for the studies there are."


class ReportSigned(Final):
    remedy = "A signed report stays as it is; tell the clinic of a correction by your usual way."


class NotEnrolled(Final):
    code = 77
    remedy = "Ask the hub for a new join token (`thinwire-receiver enrol SITE`) and join again."


class ProtocolBroken(Final):
    code = 76  # EX_PROTOCOL
    remedy = "Bring both ends to the same version."


def exit_code(error: BaseException) -> int:
    """The exit code of both command lines for an error: the class's own, 130 for an interrupt, else 1."""
    if isinstance(error, ThinwireError):
        return error.code
    return 130 if isinstance(error, KeyboardInterrupt) else 1
