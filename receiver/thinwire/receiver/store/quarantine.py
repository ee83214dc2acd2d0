"""Refused objects of enrolled sites, stored for a person to examine: quarantine/<site> in the data folder or the object
store.
"""

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from thinwire.shared.clock import Clock
from thinwire.shared.errors import DiskFull, ObjectStoreBusy, StorageFailed, ThinwireError
from thinwire.shared.identifiers import STUDY_KEY_BYTES, Digest, SiteName, StudyKey
from thinwire.shared.storage.durable import Disk
from thinwire.shared.storage.object_store import ObjectStore

log = logging.getLogger(__name__)

LARGEST = 1 << 20
"""Bytes; of longer content only the reason is stored. The clinic still has the sealed object."""
MOST = 256
"""Most refused objects of one site; further ones are only logged."""
_REASON, _CONTENT = ".json", ".bin"


@dataclass(frozen=True)
class RefusedObject:
    """site, name: of its entry. study: None where an earlier version did not record it."""

    site: SiteName
    name: str
    study: StudyKey | None
    at: datetime
    """UTC."""


class ObjectQuarantine(ABC):
    """Safe from any thread and process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def add(self, site: SiteName, study: StudyKey, object: Digest, plaintext: bytes, error: ThinwireError) -> None:
        """Store content and reason, within the limits; without space, or without the store, that is only logged."""
        reason = {
            "study": study.hex(),
            "error": type(error).__name__,
            "what": str(error),
            "at": self._clock.now().isoformat(),
        }
        try:
            if sum(1 for _ in self._names(site)) >= MOST:
                return
            if len(plaintext) <= LARGEST:
                self._write(site, object.hex() + _CONTENT, plaintext)
            self._write(site, object.hex() + _REASON, json.dumps(reason).encode())
        except (DiskFull, ObjectStoreBusy, StorageFailed) as failed:
            log.warning("site %s: a refused object is not in quarantine: %s", site, failed)

    def entries(self) -> Iterator[RefusedObject]:
        for site, name, modified in self._all():
            try:
                reason = json.loads(self._read(site, name + _REASON))
                key = bytes.fromhex(reason["study"])
            except (OSError, ValueError, KeyError, TypeError):
                key = b""
            yield RefusedObject(site, name, StudyKey(key) if len(key) == STUDY_KEY_BYTES else None, modified)

    def remove(self, entry: RefusedObject) -> None:
        """The reason last, so that a removal which was interrupted is found again."""
        for end in (_CONTENT, _REASON):
            self._remove(entry.site, entry.name + end)

    def _names(self, site: SiteName) -> Iterator[str]:
        return (name for of, name, _ in self._all(site) if of == site)

    @abstractmethod
    def _all(self, site: SiteName | None = None) -> Iterator[tuple[SiteName, str, datetime]]:
        """(site, name, time of its change) of every entry, or of those of one site."""

    @abstractmethod
    def _write(self, site: SiteName, name: str, data: bytes) -> None: ...

    @abstractmethod
    def _read(self, site: SiteName, name: str) -> bytes: ...

    @abstractmethod
    def _remove(self, site: SiteName, name: str) -> None: ...


class FolderQuarantine(ObjectQuarantine):
    """folder: DATA/quarantine."""

    def __init__(self, folder: Path, disk: Disk, clock: Clock) -> None:
        super().__init__(clock)
        self._folder = folder
        self._disk = disk

    def _all(self, site: SiteName | None = None) -> Iterator[tuple[SiteName, str, datetime]]:
        for path in self._folder.glob(f"{site or '*'}/*{_REASON}"):
            yield SiteName(path.parent.name), path.stem, datetime.fromtimestamp(path.stat().st_mtime, UTC)

    def _write(self, site: SiteName, name: str, data: bytes) -> None:
        self._disk.make_folder(self._folder / site)
        self._disk.write(self._folder / site / name, data, "quarantine")

    def _read(self, site: SiteName, name: str) -> bytes:
        return (self._folder / site / name).read_bytes()

    def _remove(self, site: SiteName, name: str) -> None:
        self._disk.remove(self._folder / site / name, "quarantine.remove")


class SharedQuarantine(ObjectQuarantine):
    """Of all replicas, in their object store."""

    def __init__(self, store: ObjectStore, clock: Clock) -> None:
        super().__init__(clock)
        self._store = store

    def _all(self, site: SiteName | None = None) -> Iterator[tuple[SiteName, str, datetime]]:
        for page in self._store.pages(f"quarantine/{site}" if site else "quarantine"):
            for each in page:
                match each.name.split("/"):
                    case ["quarantine", of, name] if name.endswith(_REASON):
                        yield SiteName(of), name.removesuffix(_REASON), each.modified

    def _write(self, site: SiteName, name: str, data: bytes) -> None:
        self._store.put(f"quarantine/{site}/{name}", data, "quarantine")

    def _read(self, site: SiteName, name: str) -> bytes:
        return self._store.get(f"quarantine/{site}/{name}") or b""

    def _remove(self, site: SiteName, name: str) -> None:
        self._store.remove([f"quarantine/{site}/{name}"])
