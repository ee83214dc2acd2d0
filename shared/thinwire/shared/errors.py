"""Every error that thinwire raises on purpose, as one tree.

    ThinwireError
    ├── Retryable                  the same act may succeed later, unchanged
    │   ├── LinkLost               the stream broke or the hub cannot be reached
    │   ├── HubBusy                the hub asks for a later attempt
    │   │   └── LimitReached       a limit of this site at the hub; `limit` names it
    │   ├── DatabaseBusy           another process writes to this end's database
    │   ├── ObjectStoreBusy        the hub's object store does not answer in time
    │   ├── StorageFailed          the database or the disk of this end cannot be read or written
    │   ├── StickLost              the folder of an offline transfer cannot be read or written
    │   ├── ReportMoved            another reader saved the report in the meantime
    │   └── DiskFull               no space to write; nothing was acknowledged
    └── Final                      repeating the same act cannot help
        ├── BadInput               a file, text or argument cannot be used
        │   ├── UnreadableDicom    not DICOM, or its pixel data cannot be decoded
        │   │   └── OverLimits     its bytes would become more than the limits of one file
        │   ├── NotChestRadiograph the header describes another examination
        │   ├── UnreadableText     the text of the study cannot be read
        │   ├── AlreadyAccepted    the same files were accepted before with another text
        │   └── BadConfiguration   a setting or a data folder cannot be used
        ├── BadFormat              bytes that violate their format
        │   ├── BadPayload         a graph whose counts, sizes or values are not valid
        │   ├── BadManifest
        │   ├── BadBundle          a bundle that is damaged or incomplete
        │   ├── BadPreview
        │   ├── BadCrops
        │   └── BadArchive         originals that do not unpack to their index
        ├── Forged                 a signature, tag, digest or identity that is not valid
        ├── UnknownBundle          a payload names a bundle that this end does not have
        ├── UnknownStudy
        ├── StudyErased            the hub removed the study for good
        ├── ReportSigned           a signed report cannot be changed
        ├── NotEnrolled            no certificate, a foreign one, or a used or expired join token
        └── ProtocolBroken         the other end violates docs/wire-protocol.md

Each error carries `remedy`: one sentence that says what a person can do. It never carries a patient identifier
or a path below a patient's name. gRPC statuses are chosen in `receiver/transport/ingest.py`, exit codes by
`exit_code` below, which both command lines use.
"""

import errno
import os
import traceback
from pathlib import Path
from typing import ClassVar


class ThinwireError(Exception):
    """An error with a remedy. `str(error)` names the event, `error.remedy` the act that helps."""

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
    remedy = "Nothing is lost: the sender keeps the study and continues when the link is back."


class HubBusy(Retryable):
    remedy = "Nothing is lost: the sender tries again automatically."


class LimitReached(HubBusy):
    """limit: its name in `thinwire-receiver site quota`. again_after: seconds."""

    def __init__(self, what: str, limit: str = "", again_after: float = 0.0) -> None:
        super().__init__(
            what,
            "Nothing is lost: the sender tries again automatically. The hub's administrator can raise this limit "
            f"({limit}) with `thinwire-receiver site quota`.",
        )
        self.limit = limit
        self.again_after = again_after


class DatabaseBusy(Retryable):
    remedy = "Nothing is lost: repeat it when the other command has ended."


class ObjectStoreBusy(Retryable):
    remedy = "Nothing is lost: it is asked again automatically. See whether the object store and its network work."


class StorageFailed(Retryable):
    """Retryable, so that the other end keeps its studies until a person has mended this one."""

    code = 74  # EX_IOERR
    remedy = "See whether the disk is full or fails, and whether this user may write in the data folder; then repeat."


class DiskFull(Retryable):
    code = 74  # EX_IOERR
    remedy = "Free space on the disk of the data folder, then repeat. No study was accepted in part."


class Final(ThinwireError):
    code = 70  # EX_SOFTWARE


class StickLost(Retryable):
    code = 74  # EX_IOERR
    remedy = "Insert the stick, writable, and repeat the command. Repeating it is safe."


class ReportMoved(Retryable):
    remedy = "Your text is still on the page. Compare it with the newer version, then save again."


class BadInput(Final):
    code = 65  # EX_DATAERR


class UnreadableDicom(BadInput):
    remedy = "Export the study from the modality or PACS again. The file is stored unchanged in quarantine."


class OverLimits(UnreadableDicom):
    remedy = "No radiograph is that large or that compressible. Export the study from the modality or PACS again."


class NotChestRadiograph(BadInput):
    remedy = (
        "thinwire accepts frontal chest radiographs (CR, DX). Send this study directly to the PACS. A late view of an "
        "accepted study goes with `send --add-to STUDY`."
    )


class UnreadableText(BadInput):
    remedy = "Give the text as UTF-8, or leave it out: the decoder then generates one."


class AlreadyAccepted(BadInput):
    remedy = "The study is stored as first accepted. To add text, contact the reader."


class BadConfiguration(BadInput):
    code = 78  # EX_CONFIG


class BadFormat(Final):
    remedy = "The data is damaged or was written by another program. It was not stored. Send the study again."


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
    remedy = "Refused: the object was not sealed by an enrolled clinic for this hub, or was altered."


class UnknownBundle(Final):
    remedy = "Add it at the hub (`thinwire-receiver bundle add`), or send with a bundle that the hub issued."


class UnknownStudy(Final):
    code = 66  # EX_NOINPUT
    remedy = "See `worklist` (hub) or `status` (clinic) for the list of studies."


class StudyErased(Final):
    remedy = "Nothing of it is kept, and it is not taken again. The hub's administrator knows why."


class ReportSigned(Final):
    remedy = "A signed report cannot be changed. Contact the clinic about a correction."


class NotEnrolled(Final):
    code = 77
    remedy = "Ask the hub for a new join token (`thinwire-receiver enrol SITE`) and join again."


class ProtocolBroken(Final):
    code = 76  # EX_PROTOCOL
    remedy = "Install the same version of thinwire at both ends."


_OF_STORAGE = frozenset(
    (
        errno.EACCES,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENODEV,
        errno.ENOENT,
        errno.ENOSPC,
        errno.ENOTDIR,
        errno.ENXIO,
        errno.EPERM,
        errno.EROFS,
        errno.ESTALE,
    )
)
"""The system's errors of a disk or a folder, among those of a connection."""


def system_error(error: OSError) -> StorageFailed:
    """An error of the operating system as ours; without the path, which may name a patient."""
    return StorageFailed(f"the system refuses: {reason_of(error)}")


def as_ours(error: Exception) -> ThinwireError:
    """An error as the hub tells it to a clinic or a browser. An error that nobody foresaw is the hub's own fault, so it
    is retryable and the clinic keeps its part.

    The text of such an error, and of a wrong setting, is not told: it may name a patient or a path.
    """
    if isinstance(error, BadConfiguration):
        return HubBusy("a setting of the hub cannot be used", "The hub's administrator sees it in the hub's log.")
    if isinstance(error, ThinwireError):
        return error
    if isinstance(error, OSError):
        return system_error(error)
    return HubBusy(
        "the hub met an error that nobody foresaw",
        "Nothing is lost: the sender tries again. At the hub, `thinwire-receiver status` shows the error.",
    )


def reason_of(error: OSError) -> str:
    """The system's words for an error of files, by its number: the text in the error may be anybody's."""
    return os.strerror(error.errno) if error.errno else type(error).__name__


def told(error: Exception) -> str:
    """An error for a log or a table: ours or the disk's with its remedy; of any other only its kind and place, since
    its text may name a patient."""
    if isinstance(error, OSError) and error.errno in _OF_STORAGE:
        error = system_error(error)
    if isinstance(error, ThinwireError):
        return f"{error}. {error.remedy}"
    place = traceback.extract_tb(error.__traceback__)[-1:]
    return (
        f"unexpected error ({type(error).__name__}{''.join(f', {Path(at.filename).name}:{at.lineno}' for at in place)})"
    )


def exit_code(error: BaseException) -> int:
    """The exit code of both command lines for an error: the class's own, 130 for an interrupt, else 1."""
    if isinstance(error, ThinwireError):
        return error.code
    return 130 if isinstance(error, KeyboardInterrupt) else 1
