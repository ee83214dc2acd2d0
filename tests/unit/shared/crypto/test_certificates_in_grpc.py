"""The certificates in the TLS that they are made for: a real gRPC server and client on localhost."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import grpc
import pytest

from tests.support.format_samples import SITE, FixedClock
from thinwire.shared.clock import Clock, SystemClock
from thinwire.shared.crypto.keys import (
    HUB_NAME,
    Authority,
    Identity,
    Site,
    issue_client,
    issue_server,
    make_token,
    new_authority,
    new_request,
    peer_identity,
    read_token,
)

METHOD = "/thinwire.Test/WhoAmI"
AUTHORITY = new_authority(SystemClock())
SERVER = issue_server(AUTHORITY, [], SystemClock())


def client(authority: Authority, clock: Clock | None = None) -> Identity:
    key, csr = new_request(SITE)
    return Identity(issue_client(authority, SITE, csr, clock or SystemClock()), key)


def who_am_i(request: bytes, context: grpc.ServicerContext) -> bytes:
    (certificate,) = context.auth_context()["x509_pem_cert"]
    return request + repr(peer_identity(certificate)).encode()


@contextmanager
def serving(identity: Identity) -> Iterator[int]:
    """A server that takes clients of AUTHORITY alone; gives its port."""
    handlers = {"WhoAmI": grpc.unary_unary_rpc_method_handler(who_am_i)}
    with ThreadPoolExecutor(2) as workers:
        server = grpc.server(workers)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("thinwire.Test", handlers),))
        credentials = grpc.ssl_server_credentials(
            [(identity.key_pem, identity.certificate_pem)], AUTHORITY.certificate_pem, require_client_auth=True
        )
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        try:
            yield port
        finally:
            server.stop(None).wait()


def ask(port: int, authority_pem: bytes, identity: Identity | None, name: str = HUB_NAME) -> bytes:
    key = identity and identity.key_pem
    chain = identity and identity.certificate_pem
    credentials = grpc.ssl_channel_credentials(authority_pem, key, chain)
    options = [("grpc.ssl_target_name_override", name)]
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        answer = channel.unary_unary(METHOD)(b"you are ", timeout=10)
    assert isinstance(answer, bytes)
    return answer


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving(SERVER) as port:
        yield port


def test_a_site_is_known_by_its_certificate(port: int) -> None:
    assert ask(port, AUTHORITY.certificate_pem, client(AUTHORITY)) == b"you are " + repr(Site(SITE)).encode()


def test_a_join_token_alone_makes_the_first_connection(port: int) -> None:
    token = read_token(make_token(AUTHORITY, SITE, SystemClock()))
    assert ask(port, token.authority_pem, token.bootstrap) == b"you are " + repr(token.id).encode()


FOREIGN = new_authority(SystemClock())
LONG_AGO = FixedClock(datetime.now(UTC) - timedelta(days=5000))


@pytest.mark.parametrize(
    ("authority_pem", "identity", "name"),
    [
        pytest.param(AUTHORITY.certificate_pem, None, HUB_NAME, id="no certificate"),
        pytest.param(AUTHORITY.certificate_pem, client(FOREIGN), HUB_NAME, id="of another authority"),
        pytest.param(AUTHORITY.certificate_pem, client(AUTHORITY, LONG_AGO), HUB_NAME, id="expired"),
        pytest.param(AUTHORITY.certificate_pem, SERVER, HUB_NAME, id="a server's certificate"),
        pytest.param(FOREIGN.certificate_pem, client(AUTHORITY), HUB_NAME, id="a hub of another authority"),
        pytest.param(AUTHORITY.certificate_pem, client(AUTHORITY), "example.org", id="a hub of another name"),
    ],
)
def test_others_are_not_let_in(port: int, authority_pem: bytes, identity: Identity | None, name: str) -> None:
    with pytest.raises(grpc.RpcError) as error:
        ask(port, authority_pem, identity, name)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_clinic_cannot_play_the_hub() -> None:
    with serving(client(AUTHORITY)) as port, pytest.raises(grpc.RpcError) as error:
        ask(port, AUTHORITY.certificate_pem, client(AUTHORITY), SITE)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
