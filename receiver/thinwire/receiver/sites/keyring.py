"""The hub's keys on disk: DATA/keys, made by `init`, with a new generation at each rotation. Format:
docs/store-format.md.

The index names the generations, and is written last: files of a rotation that a power cut ended are no keys. Every
replica has the same folder.
"""

import json
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from thinwire.shared.clock import Clock
from thinwire.shared.crypto import certificates
from thinwire.shared.crypto.envelope import peek_hub_key
from thinwire.shared.crypto.keys import Authority, HubPrivateKey, new_authority, new_signing_key
from thinwire.shared.errors import BadConfiguration
from thinwire.shared.formats.positional import micros, moment
from thinwire.shared.identifiers import Digest, digest
from thinwire.shared.storage.durable import Disk

AUTHORITY: Final = "authority.crt"
AUTHORITY_KEY: Final = "authority.key"
SEALING: Final = "sealing.key"
SIGNING: Final = "signing.key"
INDEX: Final = "keys.json"
INDEX_VERSION: Final = 1


class KeyKind(StrEnum):
    """The keys that rotate. The signing key does not: it is how clinics know the hub."""

    AUTHORITY = "authority"
    SEALING = "sealing"


@dataclass(frozen=True)
class KeyGeneration:
    """One generation of a key."""

    kind: KeyKind
    number: int
    """From 1."""
    digest: Digest
    """SHA-256 of what is public of it: the certificate, DER, or the 1216 bytes."""
    made_at: datetime
    secret: Authority | HubPrivateKey | None = field(repr=False)
    """None for one that is retired."""

    @property
    def retired(self) -> bool:
        return self.secret is None


@dataclass(frozen=True)
class Announcement:
    """The list of keys that clinics are told, and the newest generations in it."""

    signed: bytes = field(default=b"", repr=False)
    """`formats.hub_keys`; empty before the first rotation."""
    authority: int = 1
    sealing: int = 1


@dataclass(frozen=True)
class Keyring:
    """authority: issues certificates and join tokens. sealing: to which clinics seal. Both are those in use: a newer
    generation may be held that clinics do not know yet (`rotation.in_use`)."""

    authority: Authority = field(repr=False)
    sealing: HubPrivateKey = field(repr=False)
    signing: Ed25519PrivateKey = field(repr=False)
    generations: tuple[KeyGeneration, ...] = ()
    """All, by kind and number; those that are retired have no secret."""
    announcement: Announcement = Announcement()

    @property
    def trusted_pem(self) -> bytes:
        """The authorities whose certificates may connect."""
        held = [each.secret.certificate_pem for each in self.generations if isinstance(each.secret, Authority)]
        return b"".join(held) or self.authority.certificate_pem

    def sealed_to(self, record: bytes) -> HubPrivateKey:
        """The key that opens an epoch record; the one in use where none does, which then refuses it. Raises Forged for
        bytes of another form."""
        wanted = peek_hub_key(record)
        held = [each.secret for each in self.generations if isinstance(each.secret, HubPrivateKey)]
        return next((each for each in held if each.public.key_id == wanted), self.sealing)


def make_keyring(folder: Path, disk: Disk, clock: Clock) -> None:
    """New keys in a new folder (0700, files 0600)."""
    disk.make_folder(folder)
    disk.write(folder / SIGNING, new_signing_key().private_bytes_raw(), "keys")
    first = (new_authority(clock), HubPrivateKey.new())
    for secret in first:
        _write(folder, 1, secret, disk)
    made = [_generation(1, secret, clock.now()) for secret in first]
    _write_index(folder, made, disk)


def rotate(folder: Path, kind: KeyKind, disk: Disk, clock: Clock) -> KeyGeneration:
    """A new generation of a key, durable when this returns. Clinics learn it before it is used (`rotation.advance`).
    After a power cut the folder has it or not; repeat it then."""
    known = list(load_keyring(folder).generations)
    number = 1 + max(each.number for each in known if each.kind is kind)
    secret = new_authority(clock) if kind is KeyKind.AUTHORITY else HubPrivateKey.new()
    _write(folder, number, secret, disk)
    made = _generation(number, secret, clock.now())
    _write_index(folder, [*known, made], disk)
    return made


def remove_retired(folder: Path, retired: set[Digest], disk: Disk) -> None:
    """Remove the files of retired generations: first their secrets from the index, then from the disk."""
    known = load_keyring(folder).generations
    left = [
        KeyGeneration(each.kind, each.number, each.digest, each.made_at, None) if each.digest in retired else each
        for each in known
    ]
    _write_index(folder, left, disk)
    for each in left:
        if each.retired:
            for path in _paths(folder, each.kind, each.number):
                disk.remove(path, "keys.retire")


def load_keyring(folder: Path) -> Keyring:
    """The keys, those of the first generation in use. Raises BadConfiguration for keys that are missing or damaged, and
    for an index of a newer version."""
    try:
        generations = tuple(sorted(_generations(folder), key=lambda each: (each.kind, each.number)))
        authority = next(each.secret for each in generations if isinstance(each.secret, Authority))
        sealing = next(each.secret for each in generations if isinstance(each.secret, HubPrivateKey))
        signing = Ed25519PrivateKey.from_private_bytes((folder / SIGNING).read_bytes())
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise BadConfiguration("a key of the hub is missing or damaged", "Restore keys/ from a backup.") from error
    return Keyring(authority, sealing, signing, generations)


def _generations(folder: Path) -> list[KeyGeneration]:
    if not (folder / INDEX).exists():  # of before the first rotation
        authority = _read(folder, KeyKind.AUTHORITY, 1)
        assert isinstance(authority, Authority)
        made_at = certificates.begin(certificates.load(authority.certificate_pem))
        return [_generation(1, each, made_at) for each in (authority, _read(folder, KeyKind.SEALING, 1))]
    index: dict[str, Any] = json.loads((folder / INDEX).read_text(encoding="ascii"))
    if index["version"] != INDEX_VERSION:
        raise BadConfiguration(
            f"keys/{INDEX} has version {index['version']}, this program reads version {INDEX_VERSION}",
            "Install the version of thinwire that wrote it, or a newer one.",
        )
    found = []
    for row in index["keys"]:
        kind, number, made_at = KeyKind(row["kind"]), int(row["number"]), moment(int(row["made_at"]))
        secret = None if row["retired"] else _read(folder, kind, number)
        read = KeyGeneration(kind, number, Digest(bytes.fromhex(row["digest"])), made_at, secret)
        if secret is not None and _digest(secret) != read.digest:
            raise ValueError("a file of another generation")
        found.append(read)
    return found


def _write_index(folder: Path, generations: list[KeyGeneration], disk: Disk) -> None:
    rows = [
        {
            "kind": str(each.kind),
            "number": each.number,
            "made_at": micros(each.made_at),
            "digest": each.digest.hex(),
            "retired": each.retired,
        }
        for each in generations
    ]
    data = json.dumps({"version": INDEX_VERSION, "keys": rows}, indent=1).encode("ascii") + b"\n"
    disk.write(folder / INDEX, data, "keys.index")


def _write(folder: Path, number: int, secret: Authority | HubPrivateKey, disk: Disk) -> None:
    if isinstance(secret, Authority):
        certificate, key = _paths(folder, KeyKind.AUTHORITY, number)
        disk.write(certificate, secret.certificate_pem, "keys.certificate")
        disk.write(key, secret.key_pem, "keys.key")
    else:
        (key,) = _paths(folder, KeyKind.SEALING, number)
        disk.write(key, secret.raw, "keys.key")


def _read(folder: Path, kind: KeyKind, number: int) -> Authority | HubPrivateKey:
    files = [path.read_bytes() for path in _paths(folder, kind, number)]
    return Authority(*files) if kind is KeyKind.AUTHORITY else HubPrivateKey(*files)


def _paths(folder: Path, kind: KeyKind, number: int) -> list[Path]:
    """The first generation has the names that it had before there was another one."""
    names = [AUTHORITY, AUTHORITY_KEY] if kind is KeyKind.AUTHORITY else [SEALING]
    return [folder / (name if number == 1 else f"-{number}.".join(name.split("."))) for name in names]


def _generation(number: int, secret: Authority | HubPrivateKey, made_at: datetime) -> KeyGeneration:
    kind = KeyKind.AUTHORITY if isinstance(secret, Authority) else KeyKind.SEALING
    return KeyGeneration(kind, number, _digest(secret), made_at, secret)


def _digest(secret: Authority | HubPrivateKey) -> Digest:
    if isinstance(secret, Authority):
        return digest(certificates.der(certificates.load(secret.certificate_pem)))
    return digest(secret.public.raw)
