"""`serve`, the hub's process: gRPC server, inference, drafting, forwarding, pages and monitoring, until a signal."""

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator

from thinwire.receiver.config import WorkKind
from thinwire.receiver.hub import Hub, offline_lock, working_lock
from thinwire.receiver.operations.health import Health
from thinwire.receiver.operations.monitoring import monitoring
from thinwire.receiver.operations.retention import RetentionLoop
from thinwire.receiver.sites.rotation import check_running
from thinwire.receiver.store.news import CATCH_UP_SECONDS
from thinwire.receiver.store.streams import Streams
from thinwire.receiver.transport.link_book import LinkBook
from thinwire.receiver.transport.link_status import SiteLink
from thinwire.receiver.transport.service import DESCRIPTORS, HubServer
from thinwire.receiver.web.server import WebServer
from thinwire.receiver.work import begin, recorded, unhurried, working
from thinwire.shared.addresses import host_and_port
from thinwire.shared.crypto.keys import issue_server
from thinwire.shared.errors import HubBusy, Retryable
from thinwire.shared.heartbeats import beat
from thinwire.shared.service_manager import READY, STOPPING, keep_alive, tell
from thinwire.shared.storage.status_file import EVERY

log = logging.getLogger(__name__)


HEALTH_SECONDS = 10.0
"""Seconds between two looks whether this process is ready."""
KEYS_SECONDS = 60.0
"""Seconds between two looks whether another replica uses newer keys."""
SWEEP, LINK_STATUS = "sweep", "link status"
"""Names of loops in the list of parked items."""
Ready = Callable[[str, int, str | None], None]
"""Called with the host and the real port once clinics can connect, and with the page's address, if there is a page."""


def serve(hub: Hub, listen: str, web: str | None, ready: Ready) -> None:
    """Serve until SIGINT or SIGTERM. web: HOST:PORT of the reading room; None for none.

    Raises BadConfiguration for an address that cannot be used, or where another process serves this hub.
    """
    host, _ = host_and_port(listen)
    began = hub.clock.now()
    with working_lock(hub.data, serves=True) as alone:
        begin(hub, began if alone else None)
        with hub.store.parked.guard(SWEEP):
            _sweep(hub)
        with contextlib.ExitStack() as services:
            services.enter_context(recorded(hub, "serve"))
            health = Health(hub, WorkKind.PREDICT in hub.settings.served_work)
            services.enter_context(hub.news.running())
            if hub.settings.metrics.listen is not None:
                monitoring_port = services.enter_context(monitoring(hub, hub.settings.metrics.listen, health))
                log.info("metrics and health on port %d", monitoring_port)
            services.enter_context(_retaining(hub))
            asyncio.run(_serve(hub, listen, web, lambda port, url: ready(host, port, url), health))


@contextlib.contextmanager
def _retaining(hub: Hub) -> Iterator[None]:
    loop = RetentionLoop(hub)
    thread = threading.Thread(target=unhurried, args=(loop.run,), name="retention")
    thread.start()
    try:
        yield
    finally:
        loop.stop()
        thread.join()


def _sweep(hub: Hub) -> None:
    try:
        with offline_lock(hub.data):
            swept = hub.store.sweep()
    except HubBusy:
        log.info("an import is running: unfinished files are removed at the next start")
        return
    if swept:
        log.info("removed %d unfinished files", swept)


async def _serve(
    hub: Hub, listen: str, web: str | None, ready: Callable[[int, str | None], None], health: Health
) -> None:
    pipeline = hub.pipeline()
    # Made before clinics connect, so that an unusable address or certificate is an error at the start.
    web_server = None if web is None else WebServer(hub, pipeline, web)
    # A new certificate at every start: it cannot expire unnoticed, and its key is never on disk.
    identity = issue_server(hub.keys.authority, (), hub.clock)
    streams = Streams(hub.database, hub.clock, socket.gethostname()) if hub.database.shared else None
    inbox = hub.inbox()
    server = HubServer(
        pipeline,
        inbox,
        identity,
        hub.keys.trusted_pem,
        hub.clock,
        hub.disk,
        hub.news,
        reflects=hub.settings.reflection,
        guard=hub.listeners.guard("link", hub.settings.limits.link, DESCRIPTORS),
        streams=streams,
    )
    book = LinkBook(hub.data, hub.clock, streams)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    with working(hub, hub.settings.served_work, pipeline, lambda: loop.call_soon_threadsafe(stop.set)):
        server.links(before=await asyncio.to_thread(book.begin))
        port = await server.start(listen)
        keys = asyncio.ensure_future(_watch_keys(hub))
        keys.add_done_callback(lambda _: stop.set())
        status = asyncio.ensure_future(_write_link_status(hub, server, book, stop))
        moving = [
            asyncio.create_task(each)
            for each in (beat(hub.heartbeats, "link"), keep_alive(hub.heartbeats), _follow(health, server))
        ]
        try:
            if web_server is not None:
                web_server.start()
            ready(port, None if web_server is None else web_server.url)
            tell(READY)
            await stop.wait()
            log.info("stopping")
        finally:
            tell(STOPPING)
            stop.set()
            for task in moving:
                task.cancel()
            await asyncio.wait({status})
            if web_server is not None:
                await asyncio.to_thread(web_server.stop)
            await server.stop()
            # Beside the loop too: a database that does not answer holds up nothing else that ends.
            await asyncio.to_thread(_end_links, hub, book, server.links())
            keys.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keys


async def _watch_keys(hub: Hub) -> None:
    """End this process where it must not go on with its keys. Raises BadConfiguration."""
    while True:
        await asyncio.sleep(KEYS_SECONDS)
        with contextlib.suppress(Retryable):
            await asyncio.to_thread(check_running, hub.keys, hub.database)


async def _follow(health: Health, server: HubServer) -> None:
    """Let the gRPC health of the clinics' port be that of /readyz, until cancelled."""
    while True:
        reasons = {name: reason for name, reason in (await asyncio.to_thread(health.reasons)).items() if reason}
        await server.set_serving(not reasons)
        await asyncio.sleep(HEALTH_SECONDS)


async def _write_link_status(hub: Hub, server: HubServer, book: LinkBook, stop: asyncio.Event) -> None:
    """Write the link status about once a second, until `stop`."""
    checked = hub.clock.monotonic()
    while not stop.is_set():
        # Beside the loop that serves all clinics: a slow disk, or a database that another writes to, holds none up.
        held = await asyncio.to_thread(_record_links, hub, book, server.links())
        if not held or hub.clock.monotonic() - checked >= CATCH_UP_SECONDS:
            server.check_replaced()
            checked = hub.clock.monotonic()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), EVERY)


def _record_links(hub: Hub, book: LinkBook, links: list[SiteLink]) -> bool:
    held = True
    with hub.store.parked.guard(LINK_STATUS):
        held = book.write(links)
    return held


def _end_links(hub: Hub, book: LinkBook, links: list[SiteLink]) -> None:
    with hub.store.parked.guard(LINK_STATUS):
        book.end(links)
