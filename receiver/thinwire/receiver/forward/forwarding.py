"""Forwarding to all targets during `serve`: a thread for each, and a port for storage commitment reports."""

import contextlib
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

from thinwire.receiver.decoding.process import EXAMINING
from thinwire.receiver.export.fhir import WrittenOf, nothing_written
from thinwire.receiver.forward.c_store import CStorePeer, listen_for_commitment
from thinwire.receiver.forward.delivery_content import DeliveryContent
from thinwire.receiver.forward.fhir_peer import FhirPeer
from thinwire.receiver.forward.forwarder import Forwarder, committed
from thinwire.receiver.forward.peer import Peer
from thinwire.receiver.forward.queue import Queue, queue_of
from thinwire.receiver.forward.stow import StowPeer
from thinwire.receiver.hub import Hub
from thinwire.receiver.targets import DicomTarget, ForwardSettings, StowTarget, Target
from thinwire.shared.addresses import host_and_port

log = logging.getLogger(__name__)


def forwarders(hub: Hub, written: WrittenOf = nothing_written) -> list[Forwarder]:
    """One for each target of the hub's settings. written: the report and draft of a study."""
    settings, queue = hub.settings.forward, queue_of(hub)
    queue.enter(target.name for target in settings.targets)
    content = DeliveryContent(hub.study_images(EXAMINING), hub.bundles, written)
    folder = hub.data / "forward"
    if any(isinstance(target, DicomTarget) for target in settings.targets):
        hub.disk.make_folder(folder)
    return [
        Forwarder(target, _peer(target, settings, queue, folder, content), queue, content, hub.clock)
        for target in settings.targets
    ]


@contextlib.contextmanager
def forwarding(hub: Hub, written: WrittenOf = nothing_written) -> Iterator[None]:
    """Forward, in its own threads, until the block ends. Raises BadConfiguration for a port that cannot be used."""
    settings = hub.settings.forward
    listener = None
    if settings.targets and settings.listen is not None:
        guard = hub.listeners.guard("commitment", hub.settings.limits.commitment, idle=True)
        listener = listen_for_commitment(
            guard, host_and_port(settings.listen), settings.title, committed(queue_of(hub))
        )
    each = forwarders(hub, written)
    deaf = [hub.news.subscribe(one.heard) for one in each]
    threads = [threading.Thread(target=one.run, name=f"forward-{one.target.name}") for one in each]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for unsubscribe in deaf:
            unsubscribe()
        for one in each:
            one.stop()
        for thread in threads:
            thread.join()
        if listener is not None:
            listener.shutdown()


def _peer(target: Target, settings: ForwardSettings, queue: Queue, folder: Path, content: DeliveryContent) -> Peer:
    if isinstance(target, DicomTarget):
        report = None if settings.listen is None else committed(queue)
        return CStorePeer(target, settings.title, report, folder)
    return StowPeer(target, content.study_images.decoder) if isinstance(target, StowTarget) else FhirPeer(target)
