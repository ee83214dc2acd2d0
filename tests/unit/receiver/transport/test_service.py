"""The hub's server and the clinic's channel over real gRPC and TLS."""

import asyncio
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.support.real_link import hub_server, sending, serving, site_identity, until, until_status
from tests.support.two_ends import AUTHORITY, HUB_KEY, HUB_SIGNING, KEYS, SITE, Sample, TwoEnds, samples
from thinwire.receiver.sites.enrolment import SiteRegistry
from thinwire.receiver.store.reports import Report, ReportState
from thinwire.receiver.transport import service as server_module
from thinwire.receiver.transport.service import HubServer
from thinwire.sender.outbox.tiers import TierPolicy
from thinwire.sender.outbox.usage import read_usage
from thinwire.sender.transport import link_status
from thinwire.sender.transport.connection import HubAddress, Uplink, dial, dial_tcp, error_of, join
from thinwire.sender.transport.link_status import LinkState
from thinwire.sender.transport.tcp import TcpConnection
from thinwire.sender.transport.tls import Security
from thinwire.shared.clock import SystemClock
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.crypto.keys import (
    Identity,
    fingerprint,
    make_token,
    new_authority,
    new_request,
    new_signing_key,
    read_token,
)
from thinwire.shared.errors import BadConfiguration, LinkLost, NotEnrolled, ProtocolBroken
from thinwire.shared.formats.receipts import StudyStatus
from thinwire.shared.identifiers import SiteName
from thinwire.shared.wire.v1 import link_pb2 as wire
from thinwire.shared.wire.v1.link_pb2_grpc import HubStub

TOKEN = read_token(make_token(AUTHORITY, SITE, SystemClock()))
"""A token that the hub's database does not have."""
KEY, REQUEST = new_request(SITE)


def accepted(ends: TwoEnds, *studies: Sample) -> None:
    for sample in studies:
        ends.accept(sample)
    ends.make_parts()


def with_hub(ends: TwoEnds, act: Callable[[HubServer, int], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        async with serving(ends) as (server, port):
            await act(server, port)

    asyncio.run(run())


def test_studies_cross_and_the_hub_answers(ends: TwoEnds) -> None:
    studies = samples(2, size=700_000)
    accepted(ends, *studies)

    async def act(server: HubServer, port: int) -> None:
        async with sending(ends, port) as uplink:
            await until(lambda: not ends.outbox.due() and not ends.store.undelivered_receipts(SITE))
            assert server.sites == [SITE]
            status = await until_status(uplink, lambda now: now.state is LinkState.CONNECTED and not now.transfers)
            assert (status.reason, (status.rate or 0) > 0, status.round_trip is not None) == ("", True, True)
            (link,) = server.links()
            assert (link.site, link.connected, link.arriving) == (SITE, True, ())
        assert uplink.status.state is LinkState.STOPPED

    with_hub(ends, act)
    ends.assert_arrived(studies)


def test_a_revocation_while_a_stream_is_opened_ends_it(ends: TwoEnds, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = ends.hub.pipeline.connect

    def and_revoke(site: SiteName, certificate: bytes) -> None:
        connect(site, certificate)
        ends.hub.enrolment.dismiss(site)

    monkeypatch.setattr(ends.hub.pipeline, "connect", and_revoke)

    async def act(server: HubServer, port: int) -> None:
        address = HubAddress(f"127.0.0.1:{port}", AUTHORITY.certificate_pem, site_identity())
        async with dial(address) as channel:
            call = HubStub(channel).Connect()
            last = await asyncio.wait_for(call.read(), 60)
            assert last.refusal.code == wire.REFUSAL_CODE_NOT_ENROLLED
            call.cancel()
            await until(lambda: not server.sites)

    with_hub(ends, act)


def test_what_is_accepted_while_the_link_is_up_crosses_without_a_new_one(ends: TwoEnds) -> None:
    async def act(_: HubServer, port: int) -> None:
        async with sending(ends, port) as uplink:
            await until_status(uplink, lambda now: now.state is LinkState.CONNECTED)
            accepted(ends, *samples(1))
            uplink.wake()
            await until(lambda: not ends.outbox.due() and not ends.store.undelivered_receipts(SITE))

    with_hub(ends, act)
    ends.assert_arrived(samples(1))


def test_the_hubs_later_words_come_down_the_same_stream(ends: TwoEnds) -> None:
    (study,) = samples(1)
    accepted(ends, study)

    async def act(server: HubServer, port: int) -> None:
        async with sending(ends, port):
            await until(lambda: not ends.outbox.due())
            at = SystemClock().now()
            report = Report(SITE, study.study, 1, ReportState.FINAL, "clear", "anna", "Dr. Anna", False, at)
            ends.store.add_report(report, lambda _: None)
            await until(lambda: ends.outbox.entry(study.study).status is StudyStatus.REPORTED)
            ends.store.request(SITE, study.study, Kind.PREVIEW)
            await until(lambda: ends.outbox.entry(study.study).part(Kind.PREVIEW).requested)  # no word to the server

    with_hub(ends, act)


def test_a_hub_that_starts_again_is_found_again(ends: TwoEnds) -> None:
    (study,) = samples(1, size=200_000)

    async def run() -> None:
        async with serving(ends) as (_, port):
            pass
        async with sending(ends, port) as uplink:
            status = await until_status(uplink, lambda now: now.state is LinkState.WAITING)
            assert "the hub cannot be reached" in status.reason
            accepted(ends, study)
            server = hub_server(ends)
            assert await server.start(f"127.0.0.1:{port}") == port
            await until(lambda: not ends.outbox.due() and not ends.store.undelivered_receipts(SITE))
            await server.stop(grace=0)

    asyncio.run(run())
    ends.assert_arrived([study])


def test_a_second_stream_of_a_site_takes_over(ends: TwoEnds) -> None:
    async def act(server: HubServer, port: int) -> None:
        address = HubAddress(f"127.0.0.1:{port}", AUTHORITY.certificate_pem, site_identity())
        async with dial(address) as first, dial(address) as second:
            one = HubStub(first).Connect()
            await one.write(wire.Up(hello=wire.Hello(version=1)))
            assert (await one.read()).welcome.version == 1
            two = HubStub(second).Connect()
            await two.write(wire.Up(hello=wire.Hello(version=1)))
            assert (await two.read()).welcome.version == 1
            assert server.sites == [SITE]
            assert [link.connected for link in server.links()] == [True]
            assert (await one.code()).name == "ABORTED"
            two.cancel()
        await until(lambda: not server.sites)
        assert [(link.site, link.connected) for link in server.links()] == [(SITE, False)]

    with_hub(ends, act)


SERVE = """
import asyncio, sys
from pathlib import Path
from tests.support.real_link import serving
from tests.support.two_ends import TwoEnds

async def run():
    async with serving(TwoEnds(Path(sys.argv[1]))) as (_, port):
        print(port, flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(run())
"""


@pytest.mark.process
def test_no_tls_before_1_3(tmp_path: Path) -> None:
    identity = site_identity()
    (tmp_path / "pem").write_bytes(identity.certificate_pem + identity.key_pem)

    def version(newest: ssl.TLSVersion) -> str | None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.load_cert_chain(tmp_path / "pem")
        context.set_alpn_protocols(["h2"])
        context.maximum_version = newest
        with socket.create_connection(("127.0.0.1", port)) as plain, context.wrap_socket(plain) as secure:
            return secure.version()

    command = [sys.executable, "-c", SERVE, str(tmp_path / "hub")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as hub:
        assert hub.stdout is not None
        port = int(hub.stdout.readline())
        assert version(ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
        with pytest.raises(OSError):
            version(ssl.TLSVersion.TLSv1_2)
        hub.communicate()


def status_with(ends: TwoEnds, identity: Identity, authority_pem: bytes = AUTHORITY.certificate_pem) -> str:
    """Why a clinic with this certificate has no link."""
    reasons: list[str] = []

    async def act(_: HubServer, port: int) -> None:
        address = HubAddress(f"127.0.0.1:{port}", authority_pem, identity)
        stop = asyncio.Event()
        uplink = Uplink(ends.outbox, address, SystemClock(), ends.disk, uniform=lambda: 0.0)
        running = asyncio.ensure_future(uplink.run(stop))
        reasons.append((await until_status(uplink, lambda now: now.state is LinkState.WAITING)).reason)
        stop.set()
        await running

    with_hub(ends, act)
    return reasons[0]


def test_a_certificate_of_another_authority_does_not_connect(ends: TwoEnds) -> None:
    other = new_authority(SystemClock())
    assert "the hub cannot be reached" in status_with(ends, site_identity(other))
    assert "the hub cannot be reached: TLS fails (certificate verify failed)" in status_with(
        ends, site_identity(), other.certificate_pem
    )


def test_a_join_token_may_join_and_nothing_else(ends: TwoEnds) -> None:
    assert "the hub refuses: a join token allows only enrolment" in status_with(ends, TOKEN.bootstrap)


def test_a_site_that_was_removed_is_told_so(ends: TwoEnds) -> None:
    assert "the hub refuses: the hub does not serve this site" in status_with(
        ends, site_identity(site=SiteName("south-ridge"))
    )


def test_a_clinic_joins_once_and_may_ask_again_with_the_same_key(ends: TwoEnds) -> None:
    token = read_token(SiteRegistry(ends.hub.database, KEYS, SystemClock()).enrol(SITE)[0])
    key, another = new_signing_key(), new_signing_key()
    short = wire.JoinRequest(version=1, certificate_request=REQUEST, signing_key=b"short", proof=bytes(64))
    old = wire.JoinRequest(version=1, certificate_request=REQUEST, signing_key=key.public_key().public_bytes_raw())

    async def act(_: HubServer, port: int) -> None:
        target = f"127.0.0.1:{port}"
        for _attempt in range(2):
            joined = await join(target, token, REQUEST, key)
            assert (joined.site, joined.sealing_key) == (SITE, HUB_KEY.public.raw)
            assert joined.signing_key == HUB_SIGNING.public_key().public_bytes_raw()
            assert not ends.hub.enrolment.refused({SITE: fingerprint(joined.certificate)})
        with pytest.raises(NotEnrolled, match="used"):
            await join(target, token, REQUEST, another)
        with pytest.raises(NotEnrolled, match="unknown"):
            await join(target, TOKEN, REQUEST, key)
        async with dial(HubAddress(target, AUTHORITY.certificate_pem, token.bootstrap)) as channel:
            for refused, said in ((short, "too large"), (old, "does not prove")):
                with pytest.raises(Exception, match=said):
                    await HubStub(channel).Join(refused)
        with pytest.raises(ProtocolBroken):
            await join(target, token, REQUEST * 20, key)
        async with dial(HubAddress(target, AUTHORITY.certificate_pem, site_identity())) as channel:
            with pytest.raises(Exception, match="enrolment needs a join token"):
                await HubStub(channel).Join(wire.JoinRequest(version=1))

    with_hub(ends, act)


def test_a_hub_that_is_not_there(ends: TwoEnds) -> None:
    async def run() -> None:
        async with serving(ends) as (_, port):
            pass
        with pytest.raises(LinkLost, match="the hub cannot be reached"):
            await join(f"127.0.0.1:{port}", TOKEN, REQUEST, new_signing_key())

    asyncio.run(run())


def test_a_port_that_is_taken_or_no_port(ends: TwoEnds) -> None:
    async def act(_: HubServer, port: int) -> None:
        for listen in (f"127.0.0.1:{port}", "nowhere.invalid:1"):
            server = hub_server(ends)
            with pytest.raises(BadConfiguration, match="cannot listen"):
                await server.start(listen)

    with_hub(ends, act)


def test_a_stream_that_ends_says_why(ends: TwoEnds) -> None:
    async def act(_: HubServer, port: int) -> None:
        address = HubAddress(f"127.0.0.1:{port}", AUTHORITY.certificate_pem, site_identity())
        for up, said in (
            (wire.Up(chunk=wire.Chunk(number=1)), "in the wrong order"),
            (wire.Up(hello=wire.Hello(version=9)), "version 9"),
        ):
            async with dial(address) as channel:
                call = HubStub(channel).Connect()
                await call.write(up)
                refusal = (await call.read()).refusal
                assert (refusal.number, refusal.code) == (0, wire.REFUSAL_CODE_PROTOCOL_BROKEN)
                assert said in refusal.what

    with_hub(ends, act)


def test_a_clinic_that_stays_is_ended_by_a_status(ends: TwoEnds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "DRAIN_SECONDS", 0.1)

    async def act(_: HubServer, port: int) -> None:
        address = HubAddress(f"127.0.0.1:{port}", AUTHORITY.certificate_pem, site_identity())
        async with dial(address) as channel:
            call = HubStub(channel).Connect()
            await call.write(wire.Up(chunk=wire.Chunk(number=1)))
            assert (await call.read()).refusal.number == 0
            error = error_of(await call.code(), await call.details())
            assert isinstance(error, ProtocolBroken)
            assert "in the wrong order" in str(error)

    with_hub(ends, act)


def test_a_clinic_counts_what_crossed_and_leaves_what_it_measured(ends: TwoEnds) -> None:
    studies = samples(1, size=300_000)
    accepted(ends, *studies)

    async def act(_: HubServer, port: int) -> None:
        async with sending(ends, port):
            await until(lambda: not ends.outbox.due())

    with_hub(ends, act)
    ((up, down),) = read_usage(ends.outbox.database).values()
    assert 300_000 < up < 400_000
    assert 1_000 < down < 50_000
    left = link_status.read_status(ends.outbox.folder, SystemClock().now())
    assert left.state is LinkState.STOPPED
    assert left.measured is not None


def test_a_study_that_becomes_urgent_late_is_made_known(ends: TwoEnds) -> None:
    (study,) = samples(1)
    accepted(ends, study)

    async def act(_: HubServer, port: int) -> None:
        async with sending(ends, port):
            await until(lambda: not ends.outbox.due())
            ends.outbox.accept(study.study, study.source, TierPolicy().plan, urgent=True)
            await until(lambda: not ends.outbox.pending_escalations())
        assert ends.urgent(study.study)

    with_hub(ends, act)


def test_a_connection_costs_few_bytes_and_the_next_one_fewer(ends: TwoEnds) -> None:
    costs: list[tuple[int, int]] = []

    async def act(_: HubServer, port: int) -> None:
        address = HubAddress(f"127.0.0.1:{port}", AUTHORITY.certificate_pem, site_identity())
        security = Security(address.authority_pem, address.identity)
        for _attempt in range(2):
            line = await TcpConnection.dial(address.target, 10.0)
            async with line.relay(security) as via, dial_tcp(via) as channel:
                call = HubStub(channel).Connect()
                await call.write(wire.Up(hello=wire.Hello(version=1, software="thinwire-sender")))
                assert (await call.read()).welcome.version == 1
                costs.append((line.condition.up, line.condition.down))
                call.cancel()
            await line.close()

    with_hub(ends, act)
    first, second = costs
    assert first[0] < 3_600
    assert first[1] < 4_300
    assert sum(second) < sum(first)
