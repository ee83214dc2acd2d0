"""One bad thing stops one thing: at each loop, whatever one item raises, the others arrive; the item is parked with its
reason, and arrives when it is tried again. Any error at random, in real processes: tests/attacks/test_chaos.py."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.chaos import KINDS, SECRET
from tests.support.clock import FakeClock
from tests.support.forwarded_hub import keep_study
from tests.support.hub_folder import join
from tests.support.machine_results import image_file
from tests.support.programs import until
from tests.support.scripted_peer import ScriptedPeer
from tests.support.tiny_bundle import tiny_bundle
from tests.support.two_ends import TwoEnds, samples
from thinwire.receiver import drafting as drafting_module
from thinwire.receiver import pipeline as pipeline_module
from thinwire.receiver.drafting import DRAFTING
from thinwire.receiver.forward import forwarder as forwarder_module
from thinwire.receiver.forward.delivery import DeliveryState
from thinwire.receiver.forward.delivery_content import DeliveryContent
from thinwire.receiver.forward.forwarder import Forwarder
from thinwire.receiver.forward.queue import Queue, queue_of
from thinwire.receiver.hub import Hub, make_hub, open_hub
from thinwire.receiver.inference.bundles import Bundles
from thinwire.receiver.inference.mpnn import Predictor
from thinwire.receiver.pipeline import INFERENCE, RECEIVING, HubPipeline
from thinwire.receiver.store.records import item_of
from thinwire.receiver.store.store import Store
from thinwire.receiver.targets import DicomTarget
from thinwire.receiver.transport.inbox import FilePartial, FolderInbox
from thinwire.sender.outbox.outbox import Outbox
from thinwire.sender.transport.session import SENDING
from thinwire.shared.errors import DiskFull
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.identifiers import StudyKey, digest
from thinwire.shared.parked import ParkedItem, ParkedItems
from thinwire.shared.storage.durable import Disk

PACS = DicomTarget(kind="c-store", name="pacs", host="pacs", port=104, called="PACS")
Of = Callable[..., object]
STUDIES = 2


class Poison:
    """Work on one study raises until it is healed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, act: Any, of: Of, error: Callable[[], Exception]) -> None:
        holder, name = act
        whole = getattr(holder, name)
        self.bad: object = None
        self.raised = 0

        def instead(*given: Any, **more: Any) -> Any:
            if self.bad is not None and of(*given, **more) == self.bad:
                self.raised += 1
                raise error()
            return whole(*given, **more)

        monkeypatch.setattr(holder, name, instead)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture
def hub(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for module, name in (
        (pipeline_module, "PAUSE"),
        (pipeline_module, "POLL_SECONDS"),
        (drafting_module, "POLL_SECONDS"),
        (forwarder_module, "POLL_SECONDS"),
        (forwarder_module, "PAUSE_SECONDS"),
    ):
        monkeypatch.setattr(module, name, 0.1)
    make_hub(tmp_path / "hub", bundle.folder, Disk(), FakeClock())
    with open_hub(tmp_path / "hub", FakeClock()) as opened:
        yield opened


@contextmanager
def running(loop: Any) -> Iterator[None]:
    """A loop of the hub in its thread, which must still run at the end."""
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        yield
        assert thread.is_alive(), "the loop has ended"
    finally:
        loop.stop()
        thread.join(60)


def is_told(parked: ParkedItems, loop: str, item: str) -> ParkedItem:
    (found,) = [each for each in parked.items() if (each.loop, each.item) == (loop, item)]
    assert found.reason
    assert SECRET not in found.reason
    return found


def at_each(*sites: tuple[Any, str, Of]) -> pytest.MarkDecorator:
    """Every site, each with another kind of error."""
    pairs = [
        pytest.param((holder, name), of, KINDS[5 * (n + len(sites)) % len(KINDS)], id=name)
        for n, (holder, name, of) in enumerate(sites)
    ]
    return pytest.mark.parametrize(("act", "of", "error"), pairs)


@at_each(
    (Bundles, "graph", lambda _self, _payload, study: study),
    (Store, "add_predictions", lambda _self, batch, *_: batch[0][0].study),
)
def test_inference(
    hub: Hub, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, act: Any, of: Of, error: Callable[[], Exception]
) -> None:
    clinic, poison = join(hub), Poison(monkeypatch, act, of, error)
    studies = [keep_study(hub, clinic, bundle, image_file(n), read=False) for n in range(STUDIES)]
    poison.bad = studies[0]
    pipeline = hub.pipeline()

    def read() -> set[StudyKey]:
        return {StudyKey(each.study) for each in hub.store.studies() if each.prediction is not None}

    with running(pipeline):
        until(lambda: read() == set(studies[1:]))
        # The study is parked after the error, and released after its prediction.
        until(lambda: bool(hub.store.parked.counts()))
        is_told(hub.store.parked, INFERENCE, item_of(clinic.site, studies[0]))
        poison.bad = None
        assert hub.store.parked.retry() >= 1
        until(lambda: read() == set(studies))
        until(lambda: hub.store.parked.items() == [])


@at_each((Predictor, "read", lambda _self, _graphs: True), (Store, "take_untriaged", lambda *_: True))
def test_a_look_of_inference_that_fails_is_told_and_repeated(
    hub: Hub, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, act: Any, of: Of, error: Callable[[], Exception]
) -> None:
    clinic, poison = join(hub), Poison(monkeypatch, act, of, error)
    keep_study(hub, clinic, bundle, image_file(), read=False)
    poison.bad = True
    with running(hub.pipeline()):
        until(lambda: bool(poison.raised))
        until(lambda: bool(hub.store.parked.counts()))
        poison.bad = None
        hub.store.parked.retry()
        until(lambda: next(hub.store.studies()).prediction is not None)
        until(lambda: hub.store.parked.items() == [])


@at_each(
    (Bundles, "graph", lambda _self, _payload, study: study),
    (Store, "add_draft", lambda _self, waiting, *_: waiting.study),
)
def test_drafting(
    hub: Hub, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, act: Any, of: Of, error: Callable[[], Exception]
) -> None:
    clinic, poison = join(hub), Poison(monkeypatch, act, of, error)
    studies = [keep_study(hub, clinic, bundle, image_file(n)) for n in range(STUDIES)]
    poison.bad = studies[0]
    pipeline = hub.pipeline()
    pipeline.idle.set()
    drafting = hub.drafting(pipeline.idle)

    def drafted() -> set[StudyKey]:
        return {study for study in studies if hub.store.draft(clinic.site, study) is not None}

    with running(drafting):
        until(lambda: drafted() == set(studies[1:]))
        until(lambda: bool(hub.store.parked.counts()))
        is_told(hub.store.parked, DRAFTING, item_of(clinic.site, studies[0]))
        poison.bad = None
        hub.store.parked.retry()
        until(lambda: drafted() == set(studies))


@at_each(
    (DeliveryContent, "items", lambda _self, _target, key: key[1]),
    (DeliveryContent, "make", lambda _self, key, _: key[1]),
    (Queue, "may_send", lambda self, _target, _instance, version: version),
)
def test_forwarding(
    hub: Hub, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, act: Any, of: Of, error: Callable[[], Exception]
) -> None:
    clinic, poison = join(hub), Poison(monkeypatch, act, of, error)
    files = [image_file(n, SOPInstanceUID=f"1.2.826.0.1.{n}") for n in range(STUDIES)]
    studies = [keep_study(hub, clinic, bundle, each, read=False) for each in files]
    poison.bad = digest(files[0]) if act[1] == "may_send" else studies[0]
    queue, peer = queue_of(hub), ScriptedPeer()
    queue.enter([PACS.name])
    forwarder = Forwarder(PACS, peer, queue, DeliveryContent(hub.study_images(), hub.bundles), hub.clock)

    def sent() -> set[StudyKey]:
        return {each.study for each in queue.all((DeliveryState.UNCONFIRMED,))}

    with running(forwarder):
        until(lambda: sent() == set(studies[1:]))
        until(lambda: bool(poison.raised))
        if act[1] == "items":
            until(lambda: bool(hub.store.parked.counts()))
            is_told(hub.store.parked, f"forward {PACS.name}", item_of(clinic.site, studies[0]))
        else:
            until(lambda: any(each.reason for each in queue.all((DeliveryState.WAITING, DeliveryState.REFUSED))))
        poison.bad = None
        hub.store.parked.retry()
        queue.retry(study=(clinic.site, studies[0]))
        until(lambda: sent() == set(studies))
    assert len(peer.given) == STUDIES


@at_each(
    (HubPipeline, "put", lambda _self, _site, _object, header, *_: header.study),
    (Store, "put", lambda _self, part, *_: part.header.study),
    (Store, "admit", lambda _self, _site, name, *_: name),
    (FolderInbox, "open", lambda _self, _site, name, *_: name),
    (FilePartial, "append", lambda self, _: digest_of(self)),
    (FilePartial, "sync", lambda self: digest_of(self)),
)
def test_receiving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Any, of: Of, error: Callable[[], Exception]
) -> None:
    ends, poison = TwoEnds(tmp_path), Poison(monkeypatch, act, of, error)
    studies = samples(STUDIES)
    for each in studies:
        ends.accept(each)
    ends.make_parts()
    bad = studies[0].study
    originals = max((due for due in ends.outbox.due() if due.study == bad), key=lambda due: due.size)
    poison.bad = bad if act[1] == "put" else originals.object
    uplink, ingest = ends.uplink(), ends.ingest()
    ends.carry_on(uplink, ingest)
    assert poison.raised
    assert {due.study for due in ends.outbox.due()} == {bad}
    parked = any(each.loop == RECEIVING for each in ends.store.parked.items())
    assert parked is not isinstance(error(), DiskFull)  # which all objects meet
    assert SECRET not in " ".join(pause.reason for pause in uplink.pauses.values())
    poison.bad = None
    ends.clock.advance(61)
    ends.carry_on(uplink, ingest, greet=False)
    ends.assert_arrived(studies)
    assert ends.store.parked.items() == []


def digest_of(partial: FilePartial) -> bytes:
    return bytes.fromhex(partial.path.name)


@at_each(
    (Outbox, "may_offer", lambda _self, due: None if due.kind is None else due.study),
    (Outbox, "record_receipt", lambda self, signed: self.verified(signed).study),
)
def test_sending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Any, of: Of, error: Callable[[], Exception]
) -> None:
    ends, poison = TwoEnds(tmp_path), Poison(monkeypatch, act, of, error)
    studies = samples(STUDIES)
    for each in studies:
        ends.accept(each)
    ends.make_parts()
    poison.bad = studies[0].study
    uplink, ingest = ends.uplink(), ends.ingest()
    ends.carry_on(uplink, ingest)
    assert poison.raised
    assert {due.study for due in ends.outbox.due()} == {studies[0].study}
    assert any(each.loop == SENDING for each in ends.outbox.parked.items())
    assert all(SECRET not in each.reason for each in ends.outbox.parked.items())
    poison.bad = None
    ends.clock.advance(61)
    ends.carry_on(uplink, ingest, greet=False)
    ends.assert_arrived(studies)
    assert ends.outbox.parked.items() == []


def test_a_clinic_that_confirms_no_receipt_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = TwoEnds(tmp_path)
    studies = samples(STUDIES)
    for each in studies:
        ends.accept(each)
    ends.make_parts()
    monkeypatch.setattr(Store, "record_delivered", lambda *_: None)
    uplink, ingest = ends.uplink(), ends.ingest()
    ends.carry_on(uplink, ingest)
    waiting = ends.store.undelivered_receipts(ingest.site)
    assert len(waiting) == 3 * STUDIES
    read = 0
    after = Store.receipts_after

    def counted(*given: Any) -> list[tuple[int, bytes]]:
        nonlocal read
        found = after(*given)
        read += len(found)
        return found

    monkeypatch.setattr(Store, "receipts_after", counted)
    for _ in range(100):
        assert ingest.new_messages() == []
    assert read == 0
    assert not ingest._sent_receipts
    again = ends.ingest()
    ends.carry_on(ends.uplink(), again)
    assert read == len(waiting)
