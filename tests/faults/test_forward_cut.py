"""The power is cut at every step of forwarding: after the restart everything still arrives."""

import shutil
from io import BytesIO
from pathlib import Path

import pydicom
import pytest

from tests.support.clock import FakeClock
from tests.support.forwarded_hub import keep_study
from tests.support.hub_folder import join
from tests.support.machine_results import image_file
from tests.support.power import Fuse, LossyDisk, PowerCut
from tests.support.scripted_peer import ScriptedPeer
from tests.support.tiny_bundle import tiny_bundle
from thinwire.receiver.forward.delivery import DeliveryEvent, DeliveryState
from thinwire.receiver.forward.delivery_content import DeliveryContent
from thinwire.receiver.forward.forwarder import Forwarder, committed
from thinwire.receiver.forward.queue import queue_of
from thinwire.receiver.hub import Hub, make_hub, open_hub
from thinwire.receiver.targets import DicomTarget
from thinwire.shared.storage.durable import Disk

PACS = DicomTarget(kind="c-store", name="pacs", host="pacs", port=104, called="PACS")
STEPS = [(name, nth) for name in ("forward.plan.before_commit", "forward.plan.committed") for nth in (1,)] + [
    (name, nth) for name in ("forward.apply.before_commit", "forward.apply.committed") for nth in (1, 2, 3, 4)
]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub with one study, before anything was forwarded."""
    folder = tmp_path_factory.mktemp("forward")
    bundle = tiny_bundle(folder / "tiny")
    make_hub(folder / "hub", bundle.folder, Disk(), FakeClock())
    with open_hub(folder / "hub", FakeClock()) as hub:
        files = [image_file(n, SOPInstanceUID=f"1.2.{n}") for n in range(3)]
        keep_study(hub, join(hub), bundle, *files, read=False)
    return folder / "hub"


def live(hub: Hub, peer: ScriptedPeer) -> None:
    queue = queue_of(hub)
    queue.enter(["pacs"])
    each = Forwarder(PACS, peer, queue, DeliveryContent(hub.study_images(), hub.bundles), hub.clock)
    while each.work():
        pass
    for delivery in queue.all([DeliveryState.ASKED]):
        assert delivery.transaction is not None
        assert delivery.instance is not None
        committed(queue)(delivery.transaction, frozenset([delivery.instance]), frozenset())


@pytest.mark.parametrize(("name", "nth"), STEPS)
def test_a_cut_forgets_nothing(tmp_path: Path, kept: Path, name: str, nth: int) -> None:
    data = tmp_path / "hub"
    shutil.copytree(kept, data)
    peer = ScriptedPeer([DeliveryEvent.SENT_AND_ASKED] * 12)
    fuse = Fuse((name, nth))
    with pytest.raises(PowerCut), open_hub(data, FakeClock(), LossyDisk(fuse)) as hub:
        live(hub, peer)
    clock = FakeClock()
    clock.advance(3 * 3600)
    with open_hub(data, clock) as hub:
        for _ in range(2):
            live(hub, peer)
            clock.advance(60)
        assert {each.item: str(each.state) for each in queue_of(hub).all()} == {
            f"file {n}": "confirmed" for n in range(3)
        }
    sent = {str(pydicom.dcmread(BytesIO(data)).SOPInstanceUID) for data in peer.given}
    assert len(sent) == 3
