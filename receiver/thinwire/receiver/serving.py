"""`serve`: the gRPC server and, beside it, the thread that reads graphs; both until a signal."""

import asyncio
import contextlib
import logging
import signal
import threading
from collections.abc import Callable

import torch

from thinwire.receiver.config import address
from thinwire.receiver.forward.forwarding import forwarding
from thinwire.receiver.hub import Hub, sole_carrier, sole_keeper
from thinwire.receiver.link import traffic
from thinwire.receiver.link.inbox import Inbox
from thinwire.receiver.server import HubServer
from thinwire.receiver.watch import watched
from thinwire.shared.errors import HubBusy
from thinwire.shared.keys import issue_server

log = logging.getLogger(__name__)


def serve(hub: Hub, listen: str, ready: Callable[[str, int], None]) -> None:
    """Serve until SIGINT or SIGTERM. ready: called with the host and the real port once clinics can connect.

    Raises BadConfiguration for an address that cannot be used, or where another process serves this hub.
    """
    host, _ = address(listen)
    with sole_keeper(hub.data):
        _sweep(hub)
        with contextlib.ExitStack() as beside:
            beside.enter_context(forwarding(hub))
            if hub.settings.metrics.listen is not None:
                watch_port = beside.enter_context(watched(hub, hub.settings.metrics.listen))
                log.info("metrics and health on port %d", watch_port)
            asyncio.run(_serve(hub, listen, lambda port: ready(host, port)))


def _sweep(hub: Hub) -> None:
    try:
        with sole_carrier(hub.data):
            swept = hub.store.sweep()
    except HubBusy:
        log.info("an import goes on: the store is swept at the next start")
        return
    if swept:
        log.info("removed %d unfinished files", swept)


async def _serve(hub: Hub, listen: str, ready: Callable[[int], None]) -> None:
    pipeline = hub.pipeline()
    # A fresh certificate at every start: it cannot run out unnoticed, and its key is never on disk.
    identity = issue_server(hub.keys.authority, (), hub.clock)
    inbox = Inbox(hub.data / "inbox", hub.disk, hub.clock)
    server = HubServer(
        pipeline,
        inbox,
        hub.keys.signing,
        identity,
        hub.keys.authority.certificate_pem,
        hub.clock,
        hub.disk,
        reflects=hub.settings.reflection,
    )
    pipeline.on_receipt = server.notify
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    # Loaded before the first study comes: it need not wait for this.
    reader = hub.bundles.reader(hub.bundles.default())
    log.info("torch %s on %s, bundle %s (%s)", torch.__version__, reader.device, reader.spec.name, reader.spec.preset)
    port = await server.start(listen)
    reading = threading.Thread(target=_read, args=(pipeline.run, lambda: loop.call_soon_threadsafe(stop.set)))
    reading.start()
    drafting = hub.drafting(pipeline)
    drafts = threading.Thread(target=_draft, args=(drafting.run,))
    if hub.settings.draft.enabled:
        drafts.start()
    showing = asyncio.ensure_future(_show(hub, server))
    try:
        ready(port)
        await stop.wait()
        log.info("stopping")
    finally:
        showing.cancel()
        await server.stop()
        traffic.leave(hub.data, server.links(), hub.clock.now(), serves=False)
        drafting.stop()
        pipeline.stop()
        reading.join()
        if drafts.is_alive():
            drafts.join()


async def _show(hub: Hub, server: HubServer) -> None:
    """Leave the links' state for `status`, about once a second."""
    server.links(before=traffic.find(hub.data, hub.clock.now())[1])
    while True:
        traffic.leave(hub.data, server.links(), hub.clock.now())
        await asyncio.sleep(traffic.EVERY)


def _draft(run: Callable[[], None]) -> None:
    """A hub goes on triaging where its drafting has died."""
    try:
        run()
    except Exception:
        log.exception("drafting ends until the next start; studies are triaged as before")
        raise


def _read(run: Callable[[], None], give_up: Callable[[], object]) -> None:
    """A hub whose reading has died stops, so that whoever watches it starts it again."""
    try:
        run()
    except BaseException:
        log.exception("reading ends")
        give_up()
        raise
