"""Objects received from modalities: durable before the acknowledgement, then moved to the outbox study by study.

Folder: docs/outbox-format.md. Names are keyed digests of UIDs, since a UID identifies a patient in the modality's
records. Receiving, accepting and storage commitment may run in different threads.
"""

import hashlib
import hmac
import json
import logging
import shutil
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from thinwire.shared.clock import Clock
from thinwire.shared.errors import DiskFull, UidReused
from thinwire.shared.identifiers import StudyKey
from thinwire.shared.storage.durable import Disk, sweep

log = logging.getLogger(__name__)

VERSION = 1
INCOMING, LEDGER = "incoming", "ledger"
_SUFFIX = ".dcm"
_TAKING_OVER, _DONE = ".judging", ".judged"
"""Suffixes of a study's folder: while it is accepted or refused, and when its files are only to be removed."""
_NAME_BYTES = 16
_META_LENGTH_AT, _META_AT = 140, 144
"""Of a file with preamble: the value of (0002,0000), and the byte from which it counts (PS3.10 7.1)."""


class ObjectState(StrEnum):
    """The state of an object from a modality."""

    UNKNOWN = "unknown"
    PENDING = "pending"
    """Durable; its study is not yet complete."""
    ACCEPTED = "accepted"
    """In the outbox: it stays at the clinic until the hub has it."""
    REFUSED = "refused"
    """In quarantine."""


@dataclass(frozen=True)
class ReceivedObject:
    """One object by its header. Its UIDs are not part of repr, and so not of logs."""

    sop_class: str
    sop_instance: str = field(repr=False)
    study: str = field(repr=False)
    """Study Instance UID; empty for an object without one, which is a separate study."""


@dataclass(frozen=True)
class LedgerEntry:
    """The ledger's entry of an object whose study was accepted or refused."""

    dataset: bytes
    """SHA-256 of its data set, 32 bytes."""
    sop_class: str
    study: StudyKey | None
    """None if its study was refused."""
    at: datetime

    @property
    def state_of(self) -> ObjectState:
        return ObjectState.REFUSED if self.study is None else ObjectState.ACCEPTED


class Arrivals:
    """folder: DATA/arrivals. signing: the site's signing key, 32 bytes, from which names are keyed. is_whole: whether
    the outbox has all bytes of a study."""

    def __init__(
        self, folder: Path, signing: bytes, disk: Disk, clock: Clock, is_whole: Callable[[StudyKey], bool]
    ) -> None:
        self.folder = folder
        self._disk = disk
        self._clock = clock
        self._is_whole = is_whole
        self._key = HKDF(SHA256(), 32, salt=None, info=b"thinwire arrivals v1").derive(signing)
        self._lock = threading.Lock()
        self._moved: dict[str, float] = {}
        self._opened = clock.monotonic()
        for name in (INCOMING, LEDGER):
            disk.make_folder(folder / name)
        self.sweep_incoming()
        for done in folder.glob("*" + _DONE):
            shutil.rmtree(done)
        for half in (folder / LEDGER, folder):
            sweep(half)

    @property
    def incoming(self) -> Path:
        """The folder of objects that are being received; its content is temporary."""
        return self.folder / INCOMING

    def sweep_incoming(self) -> None:
        """Remove the files of interrupted transfers. No transfer may be in progress."""
        for half in self.incoming.iterdir():
            half.unlink(missing_ok=True)

    def keep(self, path: Path, sent: ReceivedObject) -> bool:
        """Make an object durable; False if it was received before. path: its file in `incoming`, which is moved.

        Raises DiskFull, and UidReused for another object with a known UID: the file then stays.
        """
        name = self._name(sent.sop_instance)
        folder = self.folder / self._name(sent.study or sent.sop_instance)
        dataset = dataset_digest(path)
        with self._lock:
            self._moved[folder.name] = self._clock.monotonic()
            before = self._pending(name)
            known = self.known(sent.sop_instance)
            if before is not None:
                return self._again(dataset, dataset_digest(before))
            if known is not None and known.study is not None and self._is_whole(known.study):
                return self._again(dataset, known.dataset)
            # The outbox packs it and makes its parts before the first byte can be sent.
            if self._disk.free(self.folder) < 2 * path.stat().st_size:
                raise DiskFull("no space for the object and its parts")
            self._disk.make_folder(folder)
            self._disk.adopt(path, folder / (name + _SUFFIX), "arrival")
        return True

    def waiting(self) -> int:
        """Number of studies that are not yet in the outbox."""
        return len(self._studies())

    def complete_studies(self, seconds: float, under_way: Collection[str] = ()) -> Iterator[tuple[Path, ...]]:
        """The files of each study without a new object for `seconds`, moved so that late objects form another study.

        under_way: studies (`ReceivedObject.study`, or `ReceivedObject.sop_instance` without one) with an object from an
        open association.
        """
        busy = {self._name(uid) for uid in under_way}
        for folder in self._studies():
            if folder.suffix != _TAKING_OVER:
                quiet = self._clock.monotonic() - self._moved.get(folder.name, self._opened)
                if folder.name in busy or quiet < seconds or folder.with_suffix(_TAKING_OVER).exists():
                    continue
                with self._lock:
                    self._disk.move(folder, folder.with_suffix(_TAKING_OVER), "arrival.judge")
                    self._moved.pop(folder.name, None)
                folder = folder.with_suffix(_TAKING_OVER)
            yield tuple(sorted(folder.glob("*" + _SUFFIX)))

    def record_verdicts(self, verdicts: Mapping[Path, StudyKey | None], class_of: Callable[[Path], str]) -> None:
        """Record that all files of a study from `complete_studies` are in the outbox, or (None) in quarantine, and
        remove them. After an interruption the study is accepted or refused again, with the same result."""
        for path, study in sorted(verdicts.items()):
            entry = {
                "version": VERSION,
                "dataset": dataset_digest(path).hex(),
                "sop_class": class_of(path),
                "study": study.hex() if study else None,
                "at": self._clock.now().isoformat(),
            }
            self._disk.write(self._ledger(path.stem), json.dumps(entry).encode(), "arrival.ledger")
        for folder in sorted({path.parent for path in verdicts}):
            self._disk.move(folder, folder.with_suffix(_DONE), "arrival.judged")
            shutil.rmtree(folder.with_suffix(_DONE))

    def state_of(self, sop_instance: str) -> ObjectState:
        name = self._name(sop_instance)
        if self._pending(name) is not None:
            return ObjectState.PENDING
        known = self.known(sop_instance)
        return ObjectState.UNKNOWN if known is None else known.state_of

    def known(self, sop_instance: str) -> LedgerEntry | None:
        """The ledger's entry of an object; None for a damaged entry, whose object then counts as new."""
        try:
            facts = json.loads(self._ledger(self._name(sop_instance)).read_bytes())
            study = StudyKey(bytes.fromhex(facts["study"])) if facts["study"] else None
            at = datetime.fromisoformat(facts["at"])
            return LedgerEntry(bytes.fromhex(facts["dataset"]), str(facts["sop_class"]), study, at)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            log.error("an entry of arrivals/ledger is damaged: its object counts as new")
            return None

    def purge(self, before: datetime) -> None:
        """Remove entries older than `before` of studies that the outbox no longer has."""
        for path in sorted((self.folder / LEDGER).glob("*.json")):
            try:
                facts = json.loads(path.read_bytes())
                here = facts["study"] and self._is_whole(StudyKey(bytes.fromhex(facts["study"])))
                old = datetime.fromisoformat(facts["at"]) < before
            except (ValueError, KeyError, TypeError):
                here, old = False, True
            if old and not here:
                self._disk.remove(path, "arrival.purge")

    def _again(self, dataset: bytes, before: bytes) -> bool:
        if dataset != before:
            raise UidReused("another object with this SOP Instance UID was received before")
        return False

    def _studies(self) -> list[Path]:
        return sorted(
            each
            for each in self.folder.iterdir()
            if len(each.stem) == 2 * _NAME_BYTES and each.suffix in ("", _TAKING_OVER) and any(each.glob("*" + _SUFFIX))
        )

    def _pending(self, name: str) -> Path | None:
        """The file of an object whose study is neither accepted nor refused yet."""
        return next((each / (name + _SUFFIX) for each in self._studies() if (each / (name + _SUFFIX)).exists()), None)

    def _ledger(self, name: str) -> Path:
        return self.folder / LEDGER / f"{name}.json"

    def _name(self, uid: str) -> str:
        return hmac.digest(self._key, uid.encode(errors="replace"), "sha256")[:_NAME_BYTES].hex()


def dataset_digest(path: Path) -> bytes:
    """SHA-256 of a file's data set: what follows its meta information, which names the software that wrote it."""
    with path.open("rb") as file:
        file.seek(_META_LENGTH_AT)
        file.seek(_META_AT + int.from_bytes(file.read(4), "little"))
        return hashlib.file_digest(file, "sha256").digest()
