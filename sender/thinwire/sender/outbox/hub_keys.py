"""The hub's keys as the clinic knows them: its authorities, and the key to which epochs are sealed. Files:
docs/outbox-format.md.

`join` writes the first ones. Later ones come over the link in a list that the hub signs.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from thinwire.shared.crypto.keys import HubPublicKey
from thinwire.shared.errors import Forged
from thinwire.shared.formats.hub_keys import read_hub_keys
from thinwire.shared.identifiers import digest
from thinwire.shared.storage.durable import Disk

log = logging.getLogger(__name__)

AUTHORITY: Final = "authority.pem"
"""The trusted authorities, oldest first."""
HUB_SEALING: Final = "hub-sealing.pub"
HUB_KEYS: Final = "hub-keys.list"


@dataclass(frozen=True)
class HubKeyFiles:
    """keys: DATA/keys. hub: the hub's signing key. Safe from any thread; the process that owns the link writes."""

    keys: Path
    disk: Disk = field(repr=False)
    hub: Ed25519PublicKey = field(repr=False)

    def taken(self) -> bytes:
        """SHA-256 of the list that is durable here; empty without one."""
        signed = self._signed()
        return digest(signed) if signed else b""

    def keep(self, signed: bytes) -> bool:
        """Use the keys of a list from now on; durable when this returns. An earlier list does not replace a later one,
        and one that is not the hub's is ignored: False then. Raises DiskFull."""
        try:
            fresh, before = read_hub_keys(signed, self.hub), self._signed()
            if before and fresh.at < read_hub_keys(before, self.hub).at:
                log.warning("the hub's list of keys is older than the one that this clinic has, which stays")
                return False
        except Forged as error:
            log.warning("the hub sent a list of keys that does not hold: %s", error)
            return False
        self.disk.write(self.keys / HUB_SEALING, fresh.sealing, "hub_keys.sealing")
        self.disk.write(self.keys / AUTHORITY, fresh.authorities_pem, "hub_keys.authority")
        # Last: the hub hears of the list when all of it is in use.
        self.disk.write(self.keys / HUB_KEYS, signed, "hub_keys.list")
        return True

    def authorities_pem(self) -> bytes | None:
        """The trusted authorities; None in a folder that has not joined."""
        return _bytes(self.keys / AUTHORITY)

    def _signed(self) -> bytes:
        return _bytes(self.keys / HUB_KEYS) or b""


def sealing_key(keys: Path) -> HubPublicKey | None:
    """The key to which new epochs are sealed, by DATA/keys; None in a folder that has not joined. Raises Forged."""
    raw = _bytes(keys / HUB_SEALING)
    return None if raw is None else HubPublicKey(raw)


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
