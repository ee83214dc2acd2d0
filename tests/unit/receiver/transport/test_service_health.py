"""gRPC health and reflection of the hub: for whoever the hub certified, and reflection only where it is asked for."""

import asyncio
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from tests.support.real_link import serving, site_identity
from tests.support.two_ends import AUTHORITY, TwoEnds
from thinwire.shared.clock import SystemClock
from thinwire.shared.crypto.keys import Identity, new_authority

SERVICE = "thinwire.shared.wire.v1.Hub"


def channel(port: int, identity: Identity) -> grpc.aio.Channel:
    credentials = grpc.ssl_channel_credentials(AUTHORITY.certificate_pem, identity.key_pem, identity.certificate_pem)
    options = (("grpc.ssl_target_name_override", "localhost"),)
    return grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options)


@pytest.mark.parametrize("name", ["", SERVICE])
def test_a_hub_that_serves_says_so(tmp_path: Path, name: str) -> None:
    async def ask() -> int:
        async with serving(TwoEnds(tmp_path)) as (_, port), channel(port, site_identity()) as to_hub:
            answer = await HealthStub(to_hub).Check(HealthCheckRequest(service=name), timeout=30)
            return int(answer.status)

    assert asyncio.run(ask()) == HealthCheckResponse.SERVING


def test_a_hub_that_is_not_ready_says_so(tmp_path: Path) -> None:
    async def ask() -> list[int]:
        said = []
        async with serving(TwoEnds(tmp_path)) as (server, port), channel(port, site_identity()) as to_hub:
            for serves in (False, True):
                await server.set_serving(serves)
                answer = await HealthStub(to_hub).Check(HealthCheckRequest(service=SERVICE), timeout=30)
                said.append(int(answer.status))
        return said

    assert asyncio.run(ask()) == [HealthCheckResponse.NOT_SERVING, HealthCheckResponse.SERVING]


def test_nobody_without_a_certificate_of_the_hub_is_answered(tmp_path: Path) -> None:
    stranger = site_identity(new_authority(SystemClock()))

    async def ask() -> None:
        async with serving(TwoEnds(tmp_path)) as (_, port), channel(port, stranger) as to_hub:
            await HealthStub(to_hub).Check(HealthCheckRequest(), timeout=30)

    with pytest.raises(grpc.aio.AioRpcError):
        asyncio.run(ask())


@pytest.mark.parametrize("reflects", [True, False])
def test_services_are_listed_where_the_hub_is_told_to(tmp_path: Path, reflects: bool) -> None:
    async def ask() -> list[str]:
        async with (
            serving(TwoEnds(tmp_path), reflects) as (_, port),
            channel(port, site_identity()) as to_hub,
        ):
            call = ServerReflectionStub(to_hub).ServerReflectionInfo(timeout=30)
            await call.write(ServerReflectionRequest(list_services=""))
            await call.done_writing()
            answer = await call.read()
            return [each.name for each in answer.list_services_response.service]

    if reflects:
        assert SERVICE in asyncio.run(ask())
    else:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            asyncio.run(ask())
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
