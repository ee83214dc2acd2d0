"""Both ends over real gRPC and real TLS on this machine, and a wire between them that can be cut at any byte."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from tests.support.hub_end import served
from tests.support.two_ends import AUTHORITY, HUB_KEY, HUB_SIGNING, KEYS, SITE, SITE_SIGNING, TwoEnds
from thinwire.receiver.sites.keyring import Keyring
from thinwire.receiver.transport.service import HubServer
from thinwire.sender import enrolment
from thinwire.sender.outbox import hub_keys
from thinwire.sender.outbox.tables import CLINIC, FILE
from thinwire.sender.transport import credentials
from thinwire.sender.transport.connection import HubAddress, Uplink
from thinwire.sender.transport.link_status import LinkStatus
from thinwire.shared.clock import SystemClock
from thinwire.shared.crypto.keys import Authority, Identity, issue_client, issue_server, new_request
from thinwire.shared.identifiers import SiteName
from thinwire.shared.storage.migrations import create_database

SERVER = issue_server(AUTHORITY, ["localhost"], SystemClock())
PATIENCE = 120.0
"""Seconds after which a test that waits has failed."""


def site_identity(authority: Authority = AUTHORITY, site: SiteName = SITE) -> Identity:
    """Of SITE and this hub, the certificate with which it joined; else a new one."""
    if (authority, site) == (AUTHORITY, SITE):
        return served(KEYS, SITE, SITE_SIGNING)[1]
    key, request = new_request(site)
    return Identity(issue_client(authority, site, request, SystemClock()), key)


def as_joined(clinic: Path) -> None:
    """Write into a clinic's data folder what `join` leaves: the keys of `TwoEnds`, and a database if there is none."""
    write_keys(clinic)
    create_database(clinic / FILE, CLINIC)


def write_keys(clinic: Path) -> None:
    """The enrolment of a clinic, which earlier versions wrote too."""
    keys = clinic / "keys"
    keys.mkdir(parents=True, exist_ok=True)
    identity = site_identity()
    for name, data in {
        enrolment.SIGNING: SITE_SIGNING.private_bytes_raw(),
        credentials.TLS_KEY: identity.key_pem,
        credentials.CERTIFICATE: identity.certificate_pem,
        hub_keys.AUTHORITY: AUTHORITY.certificate_pem,
        hub_keys.HUB_SEALING: HUB_KEY.public.raw,
        enrolment.HUB_SIGNING: HUB_SIGNING.public_key().public_bytes_raw(),
    }.items():
        (keys / name).write_bytes(data)


def hub_server(ends: TwoEnds, reflects: bool = False, keys: Keyring = KEYS) -> HubServer:
    """The real server of the hub of `ends`, not started."""
    clock = SystemClock()
    identity = SERVER if keys is KEYS else issue_server(keys.authority, ["localhost"], clock)
    parts = ends.hub.pipeline, ends.inbox, identity, keys.trusted_pem, clock, ends.disk, ends.hub.news, ends.limits
    return HubServer(*parts, reflects)


@contextlib.asynccontextmanager
async def serving(ends: TwoEnds, reflects: bool = False, keys: Keyring = KEYS) -> AsyncIterator[tuple[HubServer, int]]:
    """The hub of `ends` behind its real server; gives it and its port."""
    server = hub_server(ends, reflects, keys)
    port = await server.start("127.0.0.1:0")
    try:
        yield server, port
    finally:
        await server.stop(grace=0)


@contextlib.asynccontextmanager
async def sending(
    ends: TwoEnds, port: int, identity: Identity | None = None, renewed: credentials.Credentials | None = None
) -> AsyncIterator[Uplink]:
    """The clinic of `ends` behind its real uplink, without pauses between attempts."""
    address = HubAddress(f"127.0.0.1:{port}", AUTHORITY.certificate_pem, identity or site_identity())
    uplink = Uplink(ends.outbox, address, SystemClock(), ends.disk, uniform=lambda: -0.99, credentials=renewed)
    stop = asyncio.Event()
    running = asyncio.ensure_future(uplink.run(stop))
    try:
        yield uplink
    finally:
        stop.set()
        await running


async def until(true: Callable[[], bool]) -> None:
    """Wait for something that another task brings about."""
    async with asyncio.timeout(PATIENCE):
        while not true():
            await asyncio.sleep(0.005)


async def until_status(uplink: Uplink, true: Callable[[LinkStatus], bool]) -> LinkStatus:
    await until(lambda: true(uplink.status))
    return uplink.status


class Wire:
    """A TCP relay that breaks the connection after so many bytes from the clinic.

    cuts: for each connection in turn, the bytes after which it breaks; afterwards it holds.
    """

    def __init__(self, port: int, cuts: list[int]) -> None:
        self.port = port
        self.cuts = cuts
        self.up = 0
        """Bytes that came from the clinic, over all connections."""
        self._server: asyncio.Server | None = None
        self._relays: set[asyncio.Task[None]] = set()

    async def open(self) -> int:
        """Returns the port that clinics dial."""
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for relay in self._relays:
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)

    async def _relay(self, clinic: asyncio.StreamReader, to_clinic: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        hub, to_hub = await asyncio.open_connection("127.0.0.1", self.port)
        budget = self.cuts.pop(0) if self.cuts else None

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter, most: int | None) -> None:
            while data := await source.read(65536 if most is None else max(1, min(most, 65536))):
                if most is not None:
                    most -= len(data)
                    if most <= 0:
                        return
                if target is to_hub:
                    self.up += len(data)
                target.write(data)
                await target.drain()

        ways = {
            asyncio.ensure_future(pump(clinic, to_hub, budget)),
            asyncio.ensure_future(pump(hub, to_clinic, None)),
        }
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for end in (to_clinic, to_hub):
                end.transport.abort()
