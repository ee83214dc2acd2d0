"""The hub's keys on disk: DATA/keys, made once by `init`. Format: docs/store-format.md."""

from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from thinwire.shared.clock import Clock
from thinwire.shared.crypto.keys import Authority, HubPrivateKey, new_authority, new_signing_key
from thinwire.shared.errors import BadConfiguration
from thinwire.shared.storage.durable import Disk

AUTHORITY = "authority.crt"
AUTHORITY_KEY = "authority.key"
SEALING = "sealing.key"
SIGNING = "signing.key"


@dataclass(frozen=True)
class Keyring:
    authority: Authority = field(repr=False)
    sealing: HubPrivateKey = field(repr=False)
    signing: Ed25519PrivateKey = field(repr=False)


def make_keyring(folder: Path, disk: Disk, clock: Clock) -> None:
    """New keys in a new folder (0700, files 0600)."""
    authority = new_authority(clock)
    disk.make_folder(folder)
    disk.write(folder / AUTHORITY, authority.certificate_pem, "keys")
    disk.write(folder / AUTHORITY_KEY, authority.key_pem, "keys")
    disk.write(folder / SEALING, HubPrivateKey.new().raw, "keys")
    disk.write(folder / SIGNING, new_signing_key().private_bytes_raw(), "keys")


def load_keyring(folder: Path) -> Keyring:
    """Raises BadConfiguration for keys that are missing or damaged."""
    try:
        return Keyring(
            Authority((folder / AUTHORITY).read_bytes(), (folder / AUTHORITY_KEY).read_bytes()),
            HubPrivateKey((folder / SEALING).read_bytes()),
            Ed25519PrivateKey.from_private_bytes((folder / SIGNING).read_bytes()),
        )
    except (OSError, ValueError) as error:
        raise BadConfiguration("a key of the hub is missing or damaged", "Restore keys/ from a backup.") from error
