"""`serve`, the hub's process: gRPC server, inference, drafting, forwarding, pages and monitoring, until a signal."""

import asyncio
import contextlib
import logging
import signal
import threading
from collections.abc import Callable

from thinwire.receiver.hub import Hub, offline_lock, working_lock
from thinwire.receiver.operations.monitoring import monitoring
from thinwire.receiver.operations.retention import RetentionLoop
from thinwire.receiver.transport import link_status
from thinwire.receiver.transport.link_status import SiteLink
from thinwire.receiver.transport.service import DESCRIPTORS, HubServer
from thinwire.receiver.web.server import WebServer
from thinwire.receiver.work import begin, recorded, unhurried, working
from thinwire.shared.addresses import host_and_port
from thinwire.shared.crypto.keys import issue_server
from thinwire.shared.errors import HubBusy
from thinwire.shared.storage.status_file import EVERY

log = logging.getLogger(__name__)


SWEEP, LINK_STATUS = "sweep", "link status"
"""Names of loops in the list of parked items."""
Ready = Callable[[str, int, str | None], None]
"""Called with the host and the real port once clinics can connect, and with the page's address, if there is a page."""


def serve(hub: Hub, listen: str, web: str | None, ready: Ready) -> None:
    """Serve until SIGINT or SIGTERM. web: HOST:PORT of the reading room; None for none.

    Raises BadConfiguration for an address that cannot be used, or where another process serves this hub.
    """
    host, _ = host_and_port(listen)
    with working_lock(hub.data, serves=True) as alone:
        begin(hub, alone)
        with hub.store.parked.guard(SWEEP):
            _sweep(hub)
        with contextlib.ExitStack() as services:
            services.enter_context(recorded(hub, "serve"))
            services.enter_context(hub.news.running())
            if hub.settings.metrics.listen is not None:
                monitoring_port = services.enter_context(monitoring(hub, hub.settings.metrics.listen))
                log.info("metrics and health on port %d", monitoring_port)
            asyncio.run(_serve(hub, listen, web, lambda port, url: ready(host, port, url)))


def _sweep(hub: Hub) -> None:
    try:
        with offline_lock(hub.data):
            swept = hub.store.sweep()
    except HubBusy:
        log.info("an import is running: unfinished files are removed at the next start")
        return
    if swept:
        log.info("removed %d unfinished files", swept)


async def _serve(hub: Hub, listen: str, web: str | None, ready: Callable[[int, str | None], None]) -> None:
    pipeline = hub.pipeline()
    # Made before clinics connect, so that an unusable address or certificate is an error at the start.
    web_server = None if web is None else WebServer(hub, pipeline, web)
    # A new certificate at every start: it cannot expire unnoticed, and its key is never on disk.
    identity = issue_server(hub.keys.authority, (), hub.clock)
    inbox = hub.inbox()
    server = HubServer(
        pipeline,
        inbox,
        identity,
        hub.keys.authority.certificate_pem,
        hub.clock,
        hub.disk,
        hub.news,
        reflects=hub.settings.reflection,
        guard=hub.listeners.guard("link", hub.settings.limits.link, DESCRIPTORS),
    )
    hub.news.subscribe(pipeline.heard)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    retention = RetentionLoop(hub)
    removals = threading.Thread(target=unhurried, args=(retention.run,), name="retention")
    with working(hub, hub.settings.served_work, pipeline, lambda: loop.call_soon_threadsafe(stop.set)):
        port = await server.start(listen)
        removals.start()
        status = asyncio.ensure_future(_write_link_status(hub, server, stop))
        try:
            if web_server is not None:
                web_server.start()
            ready(port, None if web_server is None else web_server.url)
            await stop.wait()
            log.info("stopping")
        finally:
            stop.set()
            await asyncio.wait({status})
            if web_server is not None:
                await asyncio.to_thread(web_server.stop)
            await server.stop()
            link_status.write_status(hub.data, server.links(), hub.clock.now(), serves=False)
            retention.stop()
            removals.join()


async def _write_link_status(hub: Hub, server: HubServer, stop: asyncio.Event) -> None:
    """Write the link status about once a second, until `stop`."""
    server.links(before=link_status.read_status(hub.data, hub.clock.now())[1])
    while not stop.is_set():
        # Beside the loop that serves all clinics: a slow disk, or a database that another writes to, holds none up.
        await asyncio.to_thread(_record_links, hub, server.links())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), EVERY)


def _record_links(hub: Hub, links: list[SiteLink]) -> None:
    with hub.store.parked.guard(LINK_STATUS):
        link_status.write_status(hub.data, links, hub.clock.now())
