"""Refused objects of enrolled sites, stored for a person to examine: DATA/quarantine/<site>."""

import json
import logging
from pathlib import Path

from thinwire.shared.clock import Clock
from thinwire.shared.errors import DiskFull, ThinwireError
from thinwire.shared.identifiers import Digest, SiteName, StudyKey
from thinwire.shared.storage.durable import Disk

log = logging.getLogger(__name__)

LARGEST = 1 << 20
"""Bytes; of longer content only the reason is stored. The clinic still has the sealed object."""
MOST = 256
"""Most refused objects of one site; further ones are only logged."""


class ObjectQuarantine:
    """folder: DATA/quarantine."""

    def __init__(self, folder: Path, disk: Disk, clock: Clock) -> None:
        self._folder = folder
        self._disk = disk
        self._clock = clock

    def add(self, site: SiteName, study: StudyKey, object: Digest, plaintext: bytes, error: ThinwireError) -> None:
        """Store content and reason, within the limits; a full disk is only logged."""
        folder = self._folder / site
        reason = {
            "study": study.hex(),
            "error": type(error).__name__,
            "what": str(error),
            "at": self._clock.now().isoformat(),
        }
        try:
            self._disk.make_folder(folder)
            if len(list(folder.glob("*.json"))) >= MOST:
                return
            if len(plaintext) <= LARGEST:
                self._disk.write(folder / f"{object.hex()}.bin", plaintext, "quarantine")
            self._disk.write(folder / f"{object.hex()}.json", json.dumps(reason).encode(), "quarantine")
        except DiskFull:
            log.warning("site %s: no space for a refused object in quarantine", site)
