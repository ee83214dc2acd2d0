"""`serve`, the hub's process: gRPC server, inference, drafting, forwarding, pages and monitoring, until a signal."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

import torch

from thinwire.receiver.access.audit_message import Act, Message
from thinwire.receiver.drafting import LEAST_URGENT
from thinwire.receiver.export.fhir import Written
from thinwire.receiver.forward.forwarding import forwarding
from thinwire.receiver.hub import Hub, offline_lock, serving_lock
from thinwire.receiver.operations.monitoring import monitoring
from thinwire.receiver.transport import link_status
from thinwire.receiver.transport.link_status import SiteLink
from thinwire.receiver.transport.service import DESCRIPTORS, HubServer
from thinwire.receiver.web.server import WebServer
from thinwire.shared.addresses import host_and_port
from thinwire.shared.crypto.keys import issue_server
from thinwire.shared.errors import HubBusy, Retryable, told
from thinwire.shared.identifiers import SiteName, StudyKey
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
    with serving_lock(hub.data):
        hub.database.require_sound()
        hub.store.parked.begin()
        hub.store.claims.begin(alone=not hub.database.shared)
        with hub.store.parked.guard(SWEEP):
            _sweep(hub)
        with contextlib.ExitStack() as services:
            services.enter_context(_recorded(hub))
            services.enter_context(forwarding(hub, lambda site, study: _written(hub, site, study)))
            if hub.settings.metrics.listen is not None:
                monitoring_port = services.enter_context(monitoring(hub, hub.settings.metrics.listen))
                log.info("metrics and health on port %d", monitoring_port)
            asyncio.run(_serve(hub, listen, web, lambda port, url: ready(host, port, url)))


@contextlib.contextmanager
def _recorded(hub: Hub) -> Iterator[None]:
    """Start and stop in the audit log; the first also signs a log that an earlier version left."""
    hub.audit.record(Message(Act.STARTED, hub.clock.now(), "serve"))
    yield
    try:
        hub.audit.record(Message(Act.STOPPED, hub.clock.now(), "serve"))
    except Retryable as error:
        log.error("the stop is not in the audit log: %s", error)


def _sweep(hub: Hub) -> None:
    try:
        with offline_lock(hub.data):
            swept = hub.store.sweep()
    except HubBusy:
        log.info("an import is running: unfinished files are removed at the next start")
        return
    if swept:
        log.info("removed %d unfinished files", swept)


def _written(hub: Hub, site: SiteName, study: StudyKey) -> Written:
    """The report and the draft of a study."""
    draft = hub.store.draft(site, study)
    sentences = json.loads(draft)["sentences"] if draft else []
    return Written(hub.store.report(site, study), tuple(sentence["text"] for sentence in sentences))


async def _serve(hub: Hub, listen: str, web: str | None, ready: Callable[[int, str | None], None]) -> None:
    pipeline = hub.pipeline()
    # Made before clinics connect, so that an unusable address or certificate is an error at the start.
    web_server = None if web is None else WebServer(hub, pipeline, web)
    # A new certificate at every start: it cannot expire unnoticed, and its key is never on disk.
    identity = issue_server(hub.keys.authority, (), hub.clock)
    inbox = hub.inbox()
    changes = hub.database.changes()
    server = HubServer(
        pipeline,
        inbox,
        identity,
        hub.keys.authority.certificate_pem,
        hub.clock,
        hub.disk,
        reflects=hub.settings.reflection,
        changed=changes.seen,
        guard=hub.listeners.guard("link", hub.settings.limits.link, DESCRIPTORS),
    )
    pipeline.notify = server.notify
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    # Loaded now, so that the first study does not wait for it.
    predictor = hub.bundles.predictor(hub.bundles.default())
    log.info(
        "torch %s on %s, bundle %s (%s)",
        torch.__version__,
        predictor.device,
        predictor.spec.name,
        predictor.spec.preset,
    )
    port = await server.start(listen)
    # If inference ends with an error, the process stops, so that a supervisor starts it again.
    inference = asyncio.ensure_future(asyncio.to_thread(pipeline.run))
    inference.add_done_callback(lambda _: stop.set())
    drafting = hub.drafting(pipeline)
    drafts = threading.Thread(target=_draft, args=(drafting.run,))
    if hub.settings.draft.enabled:
        drafts.start()
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
        changes.close()
        link_status.write_status(hub.data, server.links(), hub.clock.now(), serves=False)
        drafting.stop()
        pipeline.stop()
        if drafts.is_alive():
            drafts.join()
        await inference


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


def _draft(run: Callable[[], None]) -> None:
    """Run drafting in this thread with the lowest priority."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LEAST_URGENT)
    try:
        run()
    except Exception as error:  # noqa: BLE001 - triage goes on without drafts; the error's text may name a patient
        log.error("drafting stopped until the next start; triage continues: %s", told(error))
