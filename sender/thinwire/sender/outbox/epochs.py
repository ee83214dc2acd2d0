"""The clinic's epoch keys: a new one every day.

The epoch record, which only the hub can open, is in the clinic's database; the key is in `keys/epochs`. Without `keys`
the sealed bytes of the outbox cannot be opened.
"""

import logging
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import delete, insert, select, update

from thinwire.sender.outbox.hub_keys import sealing_key
from thinwire.sender.outbox.tables import epochs
from thinwire.shared.clock import Clock
from thinwire.shared.crypto.envelope import EpochKey, new_epoch
from thinwire.shared.crypto.keys import HubPublicKey
from thinwire.shared.errors import BadConfiguration
from thinwire.shared.identifiers import EpochId, SiteName
from thinwire.shared.storage.database import Database
from thinwire.shared.storage.durable import Disk, sweep

log = logging.getLogger(__name__)

EPOCH_LIFE = timedelta(hours=24)
_UNUSED_LIFE = 2 * EPOCH_LIFE
"""Age after which no running `accept` of another process can use an epoch."""


@dataclass(frozen=True)
class Epochs:
    """keys: DATA/keys/epochs. hub: for a folder without the hub's key beside them. Several processes may use one folder
    at a time."""

    database: Database
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
        with self.database.read() as connection:
            recorded = set(connection.scalars(select(epochs.c.epoch)))
        young = [key for key in self._all() if timedelta(0) <= now - key.created < EPOCH_LIFE and key.id in recorded]
        if young:
            return max(young, key=lambda key: (key.created, key.id))
        self.disk.make_folder(self.keys)
        # The hub's key may have been rotated since this process started.
        hub = sealing_key(self.keys.parent) or self.hub
        key, record = new_epoch(self.site, hub, self.signing, self.clock, self.random_bytes)
        # Without its record a key is not used, so the record comes second.
        self.disk.write(self._key(key.id), key.to_bytes(), "epoch.key")
        self.disk.step("epoch.before_commit")
        with self.database.write() as connection:
            connection.execute(insert(epochs).values(epoch=key.id, record=record, announced=False))
        self.disk.step("epoch.committed")
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
        """The epoch record for the hub. Raises FileNotFoundError if the database has none."""
        with self.database.read() as connection:
            record = connection.scalar(select(epochs.c.record).where(epochs.c.epoch == epoch))
        if record is None:
            raise FileNotFoundError("the record of an epoch is missing in the clinic's database")
        return bytes(record)

    def is_announced(self, epoch: EpochId) -> bool:
        """Whether the hub has confirmed the epoch record."""
        with self.database.read() as connection:
            return bool(connection.scalar(select(epochs.c.announced).where(epochs.c.epoch == epoch)))

    def record_announced(self, epoch: EpochId) -> None:
        """Record that the hub has the epoch record: it is not offered again."""
        if not self.is_announced(epoch):
            self._announce(epoch, True)

    def record_forgotten(self, epoch: EpochId) -> None:
        """Record that the hub does not know the epoch, as after a restored backup: its record is offered again."""
        self._announce(epoch, False)

    def purge(self, used: Collection[EpochId]) -> None:
        """Remove old keys and records, except those in `used`."""
        now = self.clock.now()
        for key in self._all():
            if key.id not in used and now - key.created > _UNUSED_LIFE:
                # The record first: a key without one is not used.
                with self.database.write() as connection:
                    connection.execute(delete(epochs).where(epochs.c.epoch == key.id))
                self.disk.remove(self._key(key.id), "epoch.purge")

    def sweep(self) -> None:
        """Remove incomplete files after a power cut. No other process may be accepting studies."""
        sweep(self.keys)

    def _announce(self, epoch: EpochId, announced: bool) -> None:
        self.disk.step("epoch.announced.before_commit")
        with self.database.write() as connection:
            connection.execute(update(epochs).where(epochs.c.epoch == epoch).values(announced=announced))
        self.disk.step("epoch.announced.committed")

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
