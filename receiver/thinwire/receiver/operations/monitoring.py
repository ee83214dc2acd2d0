"""The monitoring port: /metrics for Prometheus, /healthz for a supervisor.

Neither names a study. There is no sign-in: the port is on this machine alone unless configured otherwise.
"""

import contextlib
import json
import logging
import threading
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from thinwire.receiver.forward.queue import queue_of
from thinwire.receiver.hub import Hub
from thinwire.receiver.operations.metrics import Counts
from thinwire.receiver.store.tables import sites
from thinwire.shared.addresses import host_and_port
from thinwire.shared.errors import BadConfiguration, ThinwireError

log = logging.getLogger(__name__)


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
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Counts(hub.database, queue_of(hub), hub.data, hub.disk, hub.clock, hub.store.parked))

    class Handler(_Handler):
        monitored = hub
        counts = registry

    try:
        server = ThreadingHTTPServer(host_and_port(listen), Handler)
    except OSError as error:
        raise BadConfiguration(f"cannot listen on {listen} for metrics", "Choose a free port in [metrics].") from error
    thread = threading.Thread(target=server.serve_forever, name="monitoring", daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    monitored: ClassVar[Hub]
    counts: ClassVar[CollectorRegistry]
    timeout = 10
    server_version = "thinwire"
    sys_version = ""

    def do_GET(self) -> None:
        if self.path == "/metrics":
            self._answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(self.counts))
        elif self.path == "/healthz":
            parts = health(self.monitored)
            healthy = all(parts.values())
            status = HTTPStatus.OK if healthy else HTTPStatus.SERVICE_UNAVAILABLE
            self._answer(status, "application/json", json.dumps({"healthy": healthy, **parts}).encode())
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", b"/metrics or /healthz\n")

    def _answer(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """No log line for each scrape."""
