"""The monitoring port: /metrics for Prometheus, /healthz for a supervisor.

Neither names a study. There is no sign-in: the port is on this machine alone unless configured otherwise.
"""

import contextlib
import logging
from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from thinwire.receiver.forward.queue import queue_of
from thinwire.receiver.hub import Hub
from thinwire.receiver.operations.metrics import Counts
from thinwire.receiver.store.tables import sites
from thinwire.shared.addresses import host_and_port
from thinwire.shared.errors import ThinwireError
from thinwire.shared.listening.web import WebThread

log = logging.getLogger(__name__)

_FRESH = {"Cache-Control": "no-store"}


def health(hub: Hub) -> dict[str, bool]:
    """The conditions under which the hub can store a study, and whether each is met."""
    try:
        with hub.database.read() as connection:
            connection.execute(select(sites.c.name).limit(1)).all()
        database = True
    except (ThinwireError, SQLAlchemyError):
        database = False
    try:
        space = hub.disk.free(hub.data) > 0
    except OSError:
        space = False
    # room_on_disk: the older name, for monitors that have it.
    return {"database": database, "disk_space": space, "room_on_disk": space}


@contextlib.contextmanager
def monitoring(hub: Hub, listen: str) -> Iterator[int]:
    """Serve on HOST:PORT until the block ends; yields the port. Raises BadConfiguration."""
    host, port = host_and_port(listen)
    guard = hub.listeners.guard("metrics", hub.settings.limits.metrics)
    server = WebThread(_app(hub), guard.listen(host, port, "Choose a free port in [metrics]."), "monitoring")
    server.start()
    try:
        yield server.port
    finally:
        server.stop()


def _app(hub: Hub) -> Starlette:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(
        Counts(hub.database, queue_of(hub), hub.data, hub.disk, hub.clock, hub.store.parked, hub.listeners)
    )

    def metrics(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST, headers=_FRESH)

    def healthz(_: Request) -> Response:
        parts = health(hub)
        healthy = all(parts.values())
        return JSONResponse({"healthy": healthy, **parts}, 200 if healthy else 503, _FRESH)

    def other(_: Request, _error: Exception) -> Response:
        return PlainTextResponse("/metrics or /healthz\n", 404, _FRESH)

    return Starlette(routes=[Route("/metrics", metrics), Route("/healthz", healthz)], exception_handlers={404: other})
