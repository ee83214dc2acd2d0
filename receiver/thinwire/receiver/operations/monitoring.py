"""The monitoring port: /metrics for Prometheus, /healthz for a supervisor, /readyz for a balancer.

Neither names a study. There is no sign-in: the port is on this machine alone unless configured otherwise.
"""

import contextlib
import logging
from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from thinwire.receiver.forward.queue import queue_of
from thinwire.receiver.hub import Hub
from thinwire.receiver.operations.health import Health
from thinwire.receiver.operations.metrics import Counts, HubState
from thinwire.shared.addresses import host_and_port
from thinwire.shared.listening.web import WebThread

log = logging.getLogger(__name__)

_FRESH = {"Cache-Control": "no-store"}


@contextlib.contextmanager
def monitoring(hub: Hub, listen: str, health: Health) -> Iterator[int]:
    """Serve on HOST:PORT until the block ends; yields the port. Raises BadConfiguration."""
    host, port = host_and_port(listen)
    guard = hub.listeners.guard("metrics", hub.settings.limits.metrics)
    server = WebThread(_app(hub, health), guard.listen(host, port, "Choose a free port in [metrics]."), "monitoring")
    server.start()
    try:
        yield server.port
    finally:
        server.stop()


def _app(hub: Hub, health: Health) -> Starlette:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(
        Counts(hub.database, queue_of(hub), hub.data, hub.disk, hub.clock, hub.store.parked, hub.listeners)
    )
    registry.register(HubState(hub, health))

    def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST, headers=_FRESH)

    def healthz(_: Request) -> Response:
        stopped = health.stopped()
        return JSONResponse({"healthy": not stopped, "stopped": stopped}, 503 if stopped else 200, _FRESH)

    def readyz(_: Request) -> Response:
        reasons = {name: reason for name, reason in health.reasons().items() if reason}
        return JSONResponse({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200, _FRESH)

    def other(_: Request, _error: Exception) -> Response:
        return PlainTextResponse("/metrics, /healthz or /readyz\n", 404, _FRESH)

    paths = {"/metrics": metrics, "/healthz": healthz, "/readyz": readyz}
    return Starlette(routes=[Route(path, page) for path, page in paths.items()], exception_handlers={404: other})
