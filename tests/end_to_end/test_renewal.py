"""Certificates and keys in time over a real link: renewal, rotation, a hub that was restored, a certificate that has
ended."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import delete

from tests.support.clock import FakeClock
from tests.support.hub_end import HubEnd, enrolled
from tests.support.real_link import sending, serving, until, until_status, write_keys
from tests.support.two_ends import AUTHORITY, HUB_KEY, HUB_SIGNING, KEYS, SITE, SITE_SIGNING, TwoEnds, samples
from thinwire.receiver.sites import keyring, rotation
from thinwire.receiver.sites.enrolment import SiteRegistry
from thinwire.receiver.store.tables import certificates
from thinwire.receiver.transport.service import HubServer
from thinwire.sender.transport.credentials import CERTIFICATE, REQUEST, Credentials
from thinwire.sender.transport.link_status import LinkState
from thinwire.shared.clock import SystemClock
from thinwire.shared.crypto.envelope import peek_hub_key
from thinwire.shared.crypto.keys import Identity, fingerprint
from thinwire.shared.storage.durable import Disk
from thinwire.shared.wire.v1.link_pb2_grpc import HubServicer


def joined_before(ends: TwoEnds, days: int) -> tuple[Identity, Credentials]:
    """The clinic of `ends` with a certificate of so many days ago."""
    past = FakeClock(SystemClock().now() - timedelta(days=days))
    identity = enrolled(SiteRegistry(ends.hub.database, KEYS, past), SITE, SITE_SIGNING)
    clinic = ends.folder / "clinic"
    write_keys(clinic)
    (clinic / "keys" / CERTIFICATE).write_bytes(identity.certificate_pem + identity.key_pem)
    return identity, Credentials(clinic / "keys", SITE, SITE_SIGNING, Disk(), SystemClock())


@pytest.fixture
def ends(tmp_path: Path) -> TwoEnds:
    return TwoEnds(tmp_path, FakeClock(SystemClock().now()))


def accepted(ends: TwoEnds, identity: Identity) -> bool:
    return not ends.hub.enrolment.refused({SITE: fingerprint(identity.certificate_pem)})


def test_a_clinic_renews_and_its_old_certificate_ends_on_every_replica(ends: TwoEnds) -> None:
    old, credentials = joined_before(ends, 600)

    async def run() -> None:
        async with (
            serving(ends) as (server, port),
            serving(ends) as (other, other_port),
            sending(ends, other_port, old) as held,
        ):
            await until_status(held, lambda now: now.state is LinkState.CONNECTED)
            async with sending(ends, port, old, credentials):
                await until(lambda: credentials.present() != old and SITE in server.sites)
                refused = await until_status(held, lambda now: now.state is LinkState.WAITING)
                assert "another certificate" in refused.reason
                assert not other.sites

    asyncio.run(run())
    assert (accepted(ends, old), accepted(ends, credentials.present())) == (False, True)


def test_a_hub_from_before_the_renewal_takes_the_certificate_before_and_renews_it(ends: TwoEnds) -> None:
    old, credentials = joined_before(ends, 600)
    request, proof = credentials.request(old)
    present = fingerprint(old.certificate_pem)
    first = credentials.take(ends.hub.enrolment.renew(SITE, present, request, proof), old)
    with ends.hub.database.write() as connection:  # its backup knows nothing of the renewal
        connection.execute(delete(certificates))

    async def run() -> None:
        async with serving(ends) as (server, port), sending(ends, port, first, credentials):
            await until(lambda: credentials.present() not in (old, first) and SITE in server.sites)
            await until(lambda: not accepted(ends, old))

    asyncio.run(run())
    assert accepted(ends, credentials.present())


def test_a_hub_of_an_earlier_version_renews_nothing_and_goes_on(ends: TwoEnds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HubServer, "Renew", HubServicer.Renew)  # as gRPC answers for a call that a service lacks
    old, credentials = joined_before(ends, 600)
    (study,) = samples(1)

    async def run() -> None:
        async with serving(ends) as (_, port), sending(ends, port, old, credentials) as uplink:
            await until((ends.folder / "clinic" / "keys" / REQUEST).exists)  # it has asked, or does so now
            ends.accept(study)
            ends.make_parts()
            uplink.wake()
            await until(lambda: not ends.outbox.due() and not ends.store.undelivered_receipts(SITE))

    asyncio.run(run())
    ends.assert_arrived([study])
    assert credentials.present().certificate_pem == old.certificate_pem


def test_a_certificate_that_has_ended_says_so_and_a_new_token_helps(ends: TwoEnds) -> None:
    old, credentials = joined_before(ends, 740)
    (study,) = samples(1)
    ends.accept(study)
    ends.make_parts()

    async def run() -> None:
        async with serving(ends) as (_, port):
            async with sending(ends, port, old, credentials) as uplink:
                status = await until_status(uplink, lambda now: now.state is LinkState.WAITING)
                assert "certificate ended 1" in status.reason
                assert "join again" in status.reason
            again = enrolled(SiteRegistry(ends.hub.database, KEYS, SystemClock()), SITE, SITE_SIGNING)
            async with sending(ends, port, again):
                await until(lambda: not ends.outbox.due() and not ends.store.undelivered_receipts(SITE))

    asyncio.run(run())
    ends.assert_arrived([study])


def test_a_clinic_follows_its_hub_to_another_authority_and_sealing_key(ends: TwoEnds) -> None:
    old, credentials = joined_before(ends, 10)
    folder = ends.folder / "hub" / "keys"
    folder.mkdir()
    for name, data in {
        keyring.AUTHORITY: AUTHORITY.certificate_pem,
        keyring.AUTHORITY_KEY: AUTHORITY.key_pem,
        keyring.SEALING: HUB_KEY.raw,
        keyring.SIGNING: HUB_SIGNING.private_bytes_raw(),
    }.items():
        (folder / name).write_bytes(data)
    (study,) = samples(1)

    def started() -> keyring.Keyring:
        found = keyring.load_keyring(folder)
        rotation.advance(found, ends.hub.database, ends.clock)
        keys = rotation.in_use(found, ends.hub.database)
        ends.hub = HubEnd(ends.folder / "hub", b"", keys, ends.disk, ends.clock, [], ends.hub.database)
        return keys

    async def connected(keys: keyring.Keyring, numbers: tuple[int, int]) -> None:
        async with serving(ends, keys=keys) as (_, port), sending(ends, port, old, credentials):
            await until(lambda: rotation.holders(ends.hub.database).get(SITE) == numbers and not ends.outbox.due())
            await until(lambda: not ends.store.undelivered_receipts(SITE))

    started()
    for kind in keyring.KeyKind:
        keyring.rotate(folder, kind, ends.disk, ends.clock)
    first = started()
    assert first.authority == AUTHORITY
    asyncio.run(connected(first, (2, 2)))
    second = started()
    assert second.authority != AUTHORITY
    ends.accept(study)
    ends.make_parts()
    asyncio.run(connected(second, (2, 2)))
    ends.assert_arrived([study])
    (record,) = (ends.outbox.epochs.record(each.epoch) for each in ends.outbox.overview.newest(1))
    assert peek_hub_key(record) == second.sealing.public.key_id != HUB_KEY.public.key_id
