"""Enrolment at the clinic: its certificate, its signing key, the hub's public keys.

`join` writes the signing key and the TLS key first and `config.toml` last; after an
interruption, run it again with the same token: it continues with the same keys, which the hub accepts for that token.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from thinwire.sender.config import FILE, template
from thinwire.sender.outbox.epochs import Epochs
from thinwire.sender.outbox.hub_keys import AUTHORITY, HUB_KEYS, HUB_SEALING
from thinwire.sender.outbox.outbox import Outbox
from thinwire.sender.outbox.tables import CLINIC
from thinwire.sender.outbox.tables import FILE as FILE_OF_DATABASE
from thinwire.sender.transport.connection import HubAddress
from thinwire.sender.transport.connection import join as call_join
from thinwire.sender.transport.credentials import CERTIFICATE, REQUEST, TLS_KEY, Credentials, read_identity
from thinwire.shared.clock import Clock
from thinwire.shared.crypto.keys import (
    HubPublicKey,
    Identity,
    JoinToken,
    Site,
    new_request,
    new_signing_key,
    peer_identity,
    read_token,
)
from thinwire.shared.errors import BadConfiguration, NotEnrolled
from thinwire.shared.identifiers import SiteName, site_name
from thinwire.shared.storage.durable import Disk
from thinwire.shared.storage.migrations import create_database, open_database
from thinwire.shared.wire.v1 import link_pb2 as wire

SIGNING = "signing.key"
HUB_SIGNING = "hub-signing.pub"


@dataclass(frozen=True)
class Enrolment:
    """A joined clinic."""

    site: SiteName
    identity: Identity
    authority_pem: bytes
    signing: Ed25519PrivateKey
    hub: HubPublicKey
    hub_signing: Ed25519PublicKey

    def address(self, target: str) -> HubAddress:
        return HubAddress(target, self.authority_pem, self.identity)

    def credentials(self, data: Path, disk: Disk, clock: Clock) -> Credentials:
        return Credentials(data / "keys", self.site, self.signing, disk, clock)


Ask = Callable[[JoinToken, bytes, Ed25519PrivateKey], wire.JoinReply]
"""Asks the hub for a certificate, with its token, the request and the clinic's signing key."""


def join(data: Path, token_text: str, target: str, disk: Disk, clock: Clock, ask: Ask | None = None) -> SiteName:
    """Enrol with a hub. A folder that has joined already joins the same hub under the same name anew, as after the hub
    was restored from a backup that does not know it: studies and keys stay. Raises NotEnrolled, LinkLost,
    BadConfiguration for a folder that has joined another hub, or under another name. ask: over the link by default."""
    keys = data / "keys"
    token = read_token(token_text)
    before = load_enrolment(data) if (data / FILE).exists() else None
    if before is not None and before.site != token.site:
        raise _joined_another()
    if token.expires < clock.now():
        raise NotEnrolled("the join token has expired")
    disk.make_folder(keys)
    _once(disk, keys / SIGNING, lambda: new_signing_key().private_bytes_raw())
    if not (keys / REQUEST).exists():
        key_pem, request = new_request(token.site)
        disk.write(keys / TLS_KEY, key_pem, "join.key")
        disk.write(keys / REQUEST, request, "join.request")
    signing = Ed25519PrivateKey.from_private_bytes((keys / SIGNING).read_bytes())
    ask = ask or (lambda *asked: asyncio.run(call_join(target, *asked)))
    _take_answer(keys, token, ask(token, (keys / REQUEST).read_bytes(), signing), disk, before)
    if before is not None:
        return token.site
    create_database(data / FILE_OF_DATABASE, CLINIC)
    disk.write(data / FILE, template(target).encode(), "join.config")
    return token.site


def _take_answer(keys: Path, token: JoinToken, reply: wire.JoinReply, disk: Disk, before: Enrolment | None) -> None:
    try:
        HubPublicKey(reply.sealing_key)
        Ed25519PublicKey.from_public_bytes(reply.signing_key)
        if peer_identity(reply.certificate) != Site(token.site):
            raise NotEnrolled("the hub sent a certificate for another site")
    except (ValueError, UnsupportedAlgorithm) as error:
        raise NotEnrolled("the hub sent keys that cannot be used") from error
    # By its signing key: its authority may have been rotated while this clinic was switched off.
    if before is not None and reply.signing_key != before.hub_signing.public_bytes_raw():
        raise _joined_another()
    # It is told anew when the clinic connects.
    disk.remove(keys / HUB_KEYS, "join.hub_keys")
    disk.write(keys / AUTHORITY, token.authority_pem, "join.authority")
    disk.write(keys / HUB_SEALING, reply.sealing_key, "join.sealing")
    disk.write(keys / HUB_SIGNING, reply.signing_key, "join.hub_signing")
    # With its key: a request for the next certificate replaces that file.
    disk.write(keys / CERTIFICATE, reply.certificate + (keys / TLS_KEY).read_bytes(), "join.certificate")


def _joined_another() -> BadConfiguration:
    return BadConfiguration(
        "this data folder has already joined a hub, another one or under another name",
        "Choose another --data folder, or ask that hub for a token of the same name.",
    )


def _once(disk: Disk, path: Path, make: Callable[[], bytes]) -> None:
    if not path.exists():
        disk.write(path, make(), "join.signing")


def load_enrolment(data: Path) -> Enrolment:
    """The keys of a clinic that has joined. Raises NotEnrolled, BadConfiguration for damaged keys."""
    keys = data / "keys"
    try:
        identity = read_identity(keys)
        who = peer_identity(identity.certificate_pem)
        if not isinstance(who, Site):
            raise BadConfiguration("keys/ holds a certificate that is not a site's", "Join again in a new folder.")
        return Enrolment(
            site=site_name(who.name),
            identity=identity,
            authority_pem=(keys / AUTHORITY).read_bytes(),
            signing=Ed25519PrivateKey.from_private_bytes((keys / SIGNING).read_bytes()),
            hub=HubPublicKey((keys / HUB_SEALING).read_bytes()),
            hub_signing=Ed25519PublicKey.from_public_bytes((keys / HUB_SIGNING).read_bytes()),
        )
    except FileNotFoundError as error:
        raise NotEnrolled(
            f"{data} has not joined a hub", "Join first: thinwire-sender join TOKEN --data DIR --hub HOST:PORT."
        ) from error
    except ValueError as error:
        raise BadConfiguration("a key in keys/ is damaged", "Restore keys/ from a backup, or join anew.") from error


def open_outbox(data: Path, enrolment: Enrolment, disk: Disk, clock: Clock) -> Outbox:
    """The clinic's outbox with its epochs. Raises BadConfiguration for a database that is missing or of another
    version."""
    database = open_database(data / FILE_OF_DATABASE, CLINIC)
    epochs = Epochs(
        database=database,
        keys=data / "keys" / "epochs",
        site=enrolment.site,
        hub=enrolment.hub,
        signing=enrolment.signing,
        disk=disk,
        clock=clock,
    )
    return Outbox(data, database, epochs, enrolment.hub_signing)
