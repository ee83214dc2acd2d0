"""A site's end of the link that does what it likes: real gRPC and TLS, and whatever messages a test sends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.hub_folder import Clinic, Sealed, sealed_manifest
from thinwire.sender.transport.connection import HubAddress, dial, join
from thinwire.shared.clock import SystemClock
from thinwire.shared.crypto.envelope import new_epoch
from thinwire.shared.crypto.keys import HubPublicKey, Identity, JoinToken, new_request, new_signing_key, read_token
from thinwire.shared.identifiers import BundleId, SiteName, digest
from thinwire.shared.wire.v1 import link_pb2 as wire
from thinwire.shared.wire.v1.link_pb2_grpc import HubStub


@dataclass
class ForeignClinic:
    """A site that has joined a real hub."""

    target: str
    token: JoinToken
    signing: Ed25519PrivateKey = field(repr=False)
    request: bytes = field(repr=False)
    identity: Identity = field(repr=False)
    hub: HubPublicKey = field(repr=False)
    site: SiteName

    @classmethod
    def joined(cls, target: str, token_text: str) -> "ForeignClinic":
        token = read_token(token_text)
        signing, (key, request) = new_signing_key(), new_request(token.site)
        reply = asyncio.run(join(target, token, request, signing))
        identity, hub = Identity(reply.certificate, key), HubPublicKey(reply.sealing_key)
        return cls(target, token, signing, request, identity, hub, SiteName(reply.site))

    def epoch(self) -> Clinic:
        """A new epoch, which the hub does not have yet."""
        key, record = new_epoch(self.site, self.hub, self.signing, SystemClock())
        return Clinic(self.site, self.signing, key, record)

    @asynccontextmanager
    async def stream(self, head: bytes = b"") -> AsyncIterator["ForeignStream"]:
        """head: of the audit log, as this site keeps it."""
        async with dial(HubAddress(self.target, self.token.authority_pem, self.identity)) as channel:
            call = HubStub(channel).Connect()
            await call.write(wire.Up(hello=wire.Hello(version=1, audit_head=head)))
            stream = ForeignStream(call)
            answer = await stream.answer("welcome")
            assert answer.HasField("welcome"), answer.refusal.what
            stream.welcome = answer.welcome
            try:
                yield stream
            finally:
                call.cancel()


class ForeignStream:
    def __init__(self, call: Any) -> None:
        self.welcome = wire.Welcome()
        self._call = call
        self._number = 0

    async def answer(self, *kinds: str) -> wire.Down:
        """The next message of these kinds, or a refusal; others are dropped."""
        while True:
            down = await self._call.read()
            assert isinstance(down, wire.Down), "the stream ended"
            if down.WhichOneof("message") in (*kinds, "refusal"):
                return down

    async def offer(self, data: bytes, size: int | None = None) -> wire.Down:
        """Offer an object, whole where no larger size is given; the hub's answer to it."""
        self._number += 1
        offer = wire.Offer(number=self._number, object=digest(data), size=size or len(data), head=data)
        await self._call.write(wire.Up(offer=offer))
        while True:
            down = await self.answer("progress", "receipt")
            # Not the progress of an object before it.
            if down.HasField("receipt") or self._number in (down.progress.number, down.refusal.number):
                return down
            if down.HasField("refusal") and not down.refusal.number:
                return down


def manifest(clinic: Clinic, number: int) -> Sealed:
    """The manifest of a study of its own, which is a whole object of few bytes."""
    return sealed_manifest(clinic, (b"file %d" % number,), BundleId(bytes(16)))
