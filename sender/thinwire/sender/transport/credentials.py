"""The clinic's certificates on disk: the present one with its key, the one before, and the request for the next.

Each certificate stands in one file with its private key, so that a power cut never parts them. The next one replaces
the present one when it is whole and durable. The one before stays until it ends: a hub that was restored from a backup
of before the renewal knows that one alone. Files: docs/outbox-format.md.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from thinwire.shared.clock import Clock
from thinwire.shared.crypto.certificates import begin, expiry, key_from_pem, load, requested_key
from thinwire.shared.crypto.keys import (
    Identity,
    Site,
    fingerprint,
    new_request,
    peer_identity,
    prove_renewal,
)
from thinwire.shared.errors import BadConfiguration, NotEnrolled
from thinwire.shared.identifiers import SiteName
from thinwire.shared.storage.durable import Disk

TLS_KEY: Final = "tls.key.pem"
"""The key of the request."""
REQUEST: Final = "tls.request.pem"
CERTIFICATE: Final = "tls.certificate.pem"
PREVIOUS: Final = "tls.previous.pem"
_KEY_MARK = b"-----BEGIN PRIVATE KEY-----"


@dataclass(frozen=True)
class Credentials:
    """keys: DATA/keys. Of the process that owns the link; others only read."""

    keys: Path
    site: SiteName
    signing: Ed25519PrivateKey = field(repr=False)
    disk: Disk = field(repr=False)
    clock: Clock = field(repr=False)

    def present(self) -> Identity:
        """Raises BadConfiguration, FileNotFoundError."""
        return read_identity(self.keys)

    def others(self, refused: Identity) -> list[Identity]:
        """The valid identities besides one that the hub refuses: it may be restored from an earlier backup."""
        now, found = self.clock.now(), [self.present()]
        if (self.keys / PREVIOUS).exists():
            found.append(_read(self.keys / PREVIOUS, self.keys / TLS_KEY))
        return [each for each in found if each != refused and expiry(load(each.certificate_pem)) > now]

    def is_due(self, used: Identity) -> bool:
        """Whether to ask for the next certificate now, on a connection with this one."""
        return used != self.present() or self.clock.now() >= renewal_time(used.certificate_pem)

    def request(self, used: Identity) -> tuple[bytes, bytes]:
        """The request for the next certificate on a connection with `used` (PKCS #10, PEM), and its proof. The same
        one until `take`, also after a power cut."""
        present = self.present()
        if not self._is_pending(present):
            # From here on the present certificate does not depend on the key of the request.
            self.disk.write(self.keys / CERTIFICATE, _joined(present), "renew.present")
            self.disk.remove(self.keys / REQUEST, "renew.old_request")
            key, request = new_request(self.site)
            self.disk.write(self.keys / TLS_KEY, key, "renew.key")
            self.disk.write(self.keys / REQUEST, request, "renew.request")
        request = (self.keys / REQUEST).read_bytes()
        return request, prove_renewal(self.signing, fingerprint(used.certificate_pem), request)

    def take(self, certificate: bytes, used: Identity) -> Identity:
        """Put the hub's answer (PEM) in the place of the present certificate, durably. used: of the connection.

        Raises NotEnrolled for a certificate that is not this clinic's, BadConfiguration, DiskFull; then all stays as
        it was.
        """
        fresh = Identity(certificate, (self.keys / TLS_KEY).read_bytes())
        try:
            loaded = load(certificate)
            if peer_identity(certificate) != Site(self.site) or expiry(loaded) <= self.clock.now():
                raise NotEnrolled("the hub sent a certificate of another site, or one that has ended")
            if loaded.public_key() != key_from_pem(fresh.key_pem).public_key():
                raise NotEnrolled("the hub sent a certificate for another key")
        except ValueError as error:
            raise NotEnrolled("the hub sent a certificate that cannot be used") from error
        self.disk.write(self.keys / PREVIOUS, _joined(used), "renew.previous")
        self.disk.write(self.keys / CERTIFICATE, _joined(fresh), "renew.certificate")
        return self.present()

    def _is_pending(self, present: Identity) -> bool:
        """Whether the request on disk is of a key that has no certificate yet."""
        try:
            asked = requested_key((self.keys / REQUEST).read_bytes())
            mine = key_from_pem((self.keys / TLS_KEY).read_bytes()).public_key()
            return asked == mine != load(present.certificate_pem).public_key()
        except (FileNotFoundError, ValueError, BadConfiguration):
            return False


def read_identity(keys: Path) -> Identity:
    """The present certificate and its key. Raises FileNotFoundError."""
    return _read(keys / CERTIFICATE, keys / TLS_KEY)


def renewal_time(certificate: bytes) -> datetime:
    """When a clinic asks for the next certificate: at two thirds of this one's life, and up to a twelfth later, by its
    fingerprint, so that clinics that joined on one day do not ask on one day. certificate: PEM."""
    loaded = load(certificate)
    life = expiry(loaded) - begin(loaded)
    return begin(loaded) + life * (2 / 3 + fingerprint(certificate)[0] / 256 / 12)


def warned_time(certificate: bytes) -> datetime:
    """From when on a certificate that was not renewed is a warning: when a sixth of its life is left."""
    loaded = load(certificate)
    return expiry(loaded) - (expiry(loaded) - begin(loaded)) / 6


def left_of(certificate: bytes, now: datetime) -> timedelta:
    """The time for which a certificate (PEM) is still valid; negative afterwards."""
    return expiry(load(certificate)) - now


def _read(path: Path, key: Path) -> Identity:
    certificate, mark, own = path.read_bytes().partition(_KEY_MARK)
    # Earlier versions kept the key in a file of its own.
    return Identity(certificate, mark + own if mark else key.read_bytes())


def _joined(identity: Identity) -> bytes:
    return identity.certificate_pem + identity.key_pem
