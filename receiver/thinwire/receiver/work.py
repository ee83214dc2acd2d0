"""Prediction, drafting and forwarding, each in threads of its own: within `serve`, or alone in the process of `work`.

Any number of processes may do the same work, on this machine or on others (`store.claims`).
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from thinwire.receiver.access.audit_message import Act, Message
from thinwire.receiver.config import WorkKind
from thinwire.receiver.drafting import LEAST_URGENT
from thinwire.receiver.export.fhir import Written
from thinwire.receiver.forward.forwarding import forwarding
from thinwire.receiver.hub import Hub, require_place, working_lock
from thinwire.receiver.operations.health import Health
from thinwire.receiver.operations.monitoring import monitoring
from thinwire.receiver.pipeline import HubPipeline
from thinwire.shared.errors import Retryable, told
from thinwire.shared.heartbeats import beat
from thinwire.shared.identifiers import SiteName, StudyKey
from thinwire.shared.service_manager import READY, STOPPING, keep_alive, tell

log = logging.getLogger(__name__)


def work(hub: Hub, kinds: Set[WorkKind], metrics: str | None, ready: Callable[[], None]) -> None:
    """Do these kinds of work until SIGINT or SIGTERM, and end after the present batches. metrics: HOST:PORT or None.

    Raises BadConfiguration for an address that cannot be used, or while the hub is brought forward or restored.
    """
    began = hub.clock.now()
    with working_lock(hub.data, serves=False) as alone, contextlib.ExitStack() as services:
        begin(hub, began if alone else None)
        services.enter_context(recorded(hub, "work"))
        services.enter_context(hub.news.running())
        if metrics is not None:
            log.info(
                "metrics and health on port %d",
                services.enter_context(monitoring(hub, metrics, Health(hub, WorkKind.PREDICT in kinds))),
            )
        asyncio.run(_work(hub, kinds, ready))


async def _work(hub: Hub, kinds: Set[WorkKind], ready: Callable[[], None]) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    with working(hub, kinds, hub.pipeline(), lambda: loop.call_soon_threadsafe(stop.set)):
        ready()
        tell(READY)
        moving = [asyncio.create_task(each) for each in (beat(hub.heartbeats, "work"), keep_alive(hub.heartbeats))]
        await stop.wait()
        log.info("stopping")
        tell(STOPPING)
        for task in moving:
            task.cancel()


def begin(hub: Hub, alone: datetime | None) -> None:
    """At the start of a process that serves or works. alone: who does so in this folder has begun later; None if others
    may have."""
    require_place(hub)
    hub.database.require_sound()
    hub.store.parked.begin()
    hub.store.claims.begin(None if hub.database.shared else alone)


@contextlib.contextmanager
def recorded(hub: Hub, process: str) -> Iterator[None]:
    """Start and stop in the audit log; the first also signs a log that an earlier version left."""
    hub.audit.record(Message(Act.STARTED, hub.clock.now(), process))
    yield
    try:
        hub.audit.record(Message(Act.STOPPED, hub.clock.now(), process))
    except Retryable as error:
        log.error("the stop is not in the audit log: %s", error)


@contextlib.contextmanager
def working(hub: Hub, kinds: Set[WorkKind], pipeline: HubPipeline, ended: Callable[[], object]) -> Iterator[None]:
    """Do these kinds of work until the block ends. ended: called from another thread when prediction ends; its error is
    raised at the end of the block, so that a supervisor starts the process again."""
    if WorkKind.PREDICT in kinds:
        _load_predictor(hub)
    with ThreadPoolExecutor(1, "predict") as predicting, contextlib.ExitStack() as services:
        if WorkKind.FORWARD in kinds:
            services.enter_context(forwarding(hub, lambda site, study: _written(hub, site, study)))
        if WorkKind.DRAFT in kinds:
            if WorkKind.PREDICT in kinds:
                drafting = hub.drafting(pipeline.idle)
                pipeline.on_idle = drafting.wake
            else:
                # Another process predicts, if any does.
                idle = threading.Event()
                idle.set()
                drafting = hub.drafting(idle)
                services.callback(hub.news.subscribe(drafting.heard))
            drafts = threading.Thread(target=_draft, args=(drafting.run,), name="draft")
            drafts.start()
            services.callback(drafts.join)
            services.callback(drafting.stop)
        if WorkKind.PREDICT in kinds:
            services.callback(hub.news.subscribe(pipeline.heard))
            prediction = predicting.submit(pipeline.run)
            services.callback(prediction.result)
            services.callback(pipeline.stop)
            prediction.add_done_callback(lambda _: ended())
        yield


def _load_predictor(hub: Hub) -> None:
    """Load it before the first study comes, which then does not wait for it."""
    # Imported here: a process that does not predict needs no torch.
    import torch

    predictor = hub.bundles.predictor(hub.bundles.default())
    spec = predictor.spec
    log.info("torch %s on %s, bundle %s (%s)", torch.__version__, predictor.device, spec.name, spec.preset)


def _written(hub: Hub, site: SiteName, study: StudyKey) -> Written:
    """The report and the draft of a study."""
    draft = hub.store.draft(site, study)
    sentences = json.loads(draft)["sentences"] if draft else []
    return Written(hub.store.report(site, study), tuple(sentence["text"] for sentence in sentences))


def unhurried(run: Callable[[], None]) -> None:
    """Run in this thread with the lowest priority."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LEAST_URGENT)
    run()


def _draft(run: Callable[[], None]) -> None:
    try:
        unhurried(run)
    except Exception as error:  # noqa: BLE001 - triage goes on without drafts; the error's text may name a patient
        log.error("drafting stopped until the next start; triage continues: %s", told(error))
