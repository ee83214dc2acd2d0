"""The clinic's epoch keys: a new one every day.

The epoch record, which only the hub can open, is in `outbox/epochs`; the key is in `keys/epochs`. Without `keys` the
sealed bytes of the outbox cannot be opened.
"""

import logging
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from thinwire.shared.clock import Clock
from thinwire.shared.crypto.envelope import EpochKey, new_epoch
from thinwire.shared.crypto.keys import HubPublicKey
from thinwire.shared.errors import BadConfiguration
from thinwire.shared.identifiers import EpochId, SiteName
from thinwire.shared.storage.durable import Disk, sweep

log = logging.getLogger(__name__)

EPOCH_LIFE = timedelta(hours=24)
_UNUSED_LIFE = 2 * EPOCH_LIFE
"""Age after which no running `accept` of another process can use an epoch."""


@dataclass(frozen=True)
class Epochs:
    """records: outbox/epochs; keys: keys/epochs. Several processes may use one folder at a time."""

    records: Path
    keys: Path
    site: SiteName
    hub: HubPublicKey
    signing: Ed25519PrivateKey
    disk: Disk
    clock: Clock
    random_bytes: Callable[[int], bytes] = os.urandom

    def current(self) -> EpochKey:
        """The present epoch; a new one if the last is a day old, or was made at a later time of the clock. Raises
        DiskFull."""
        now = self.clock.now()
        young = [
            key
            for key in self._all()
            if timedelta(0) <= now - key.created < EPOCH_LIFE and self._record(key.id).exists()
        ]
        if young:
            return max(young, key=lambda key: (key.created, key.id))
        for folder in (self.records, self.keys):
            self.disk.make_folder(folder)
        key, record = new_epoch(self.site, self.hub, self.signing, self.clock, self.random_bytes)
        # Without its record a key is not used, so the record comes second.
        self.disk.write(self._key(key.id), key.to_bytes(), "epoch.key")
        self.disk.write(self._record(key.id), record, "epoch.record")
        return key

    def key(self, epoch: EpochId) -> EpochKey:
        """Raises BadConfiguration for an absent or damaged key file."""
        try:
            return EpochKey.from_bytes(self._key(epoch).read_bytes())
        except FileNotFoundError as error:
            raise BadConfiguration(
                "the key of an epoch is missing in keys/epochs", "Restore keys/ from a backup."
            ) from error

    def record(self, epoch: EpochId) -> bytes:
        """The epoch record for the hub."""
        return self._record(epoch).read_bytes()

    def is_announced(self, epoch: EpochId) -> bool:
        """Whether the hub has confirmed the epoch record."""
        return self._announced(epoch).exists()

    def record_announced(self, epoch: EpochId) -> None:
        """Record that the hub has the epoch record: it is not offered again."""
        if not self.is_announced(epoch):
            self.disk.write(self._announced(epoch), b"", "epoch.announced")

    def record_forgotten(self, epoch: EpochId) -> None:
        """Record that the hub does not know the epoch, as after a restored backup: its record is offered again."""
        self.disk.remove(self._announced(epoch), "epoch.forgotten")

    def purge(self, used: Collection[EpochId]) -> None:
        """Remove old keys and records, except those in `used`."""
        now = self.clock.now()
        for key in self._all():
            if key.id not in used and now - key.created > _UNUSED_LIFE:
                for path in (self._record(key.id), self._announced(key.id), self._key(key.id)):
                    if path.parent.is_dir():
                        self.disk.remove(path, "epoch.purge")

    def sweep(self) -> None:
        """Remove incomplete files after a power cut. No other process may be accepting studies."""
        sweep(self.records)
        sweep(self.keys)

    def _all(self) -> list[EpochKey]:
        """All readable keys; a damaged key affects only the studies of its epoch."""
        keys = []
        for path in sorted(self.keys.glob("*.key")):
            try:
                keys.append(EpochKey.from_bytes(path.read_bytes()))
            except (BadConfiguration, FileNotFoundError):
                log.error("the key of epoch %s is damaged: restore it from a backup", path.stem)
        return keys

    def _key(self, epoch: EpochId) -> Path:
        return self.keys / f"{epoch.hex()}.key"

    def _record(self, epoch: EpochId) -> Path:
        return self.records / f"{epoch.hex()}.record"

    def _announced(self, epoch: EpochId) -> Path:
        return self.records / f"{epoch.hex()}.announced"
