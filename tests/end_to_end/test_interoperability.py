"""PACS that do well and PACS that misbehave: Orthanc by both ways, DCMTK, and peers that a test scripts.

Each row of the table of outcomes in docs/conformance.md is played here.
"""

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pynetdicom import AE, evt
from pynetdicom.sop_class import ComprehensiveSRStorage, SecondaryCaptureImageStorage

from tests.support.dicoms import EXPLICIT, JPEG_LOSSLESS_SV1, STUDY_UID, after_meta, chest, named, with_uid
from tests.support.forwarded_hub import configure, keep_study
from tests.support.http_server import Answer, Asked, answering
from tests.support.hub_folder import join
from tests.support.machine_results import image_file
from tests.support.odd_headers import JAPANESE
from tests.support.peers import free_port, needs_dcmtk, needs_orthanc, orthanc, storescp
from tests.support.programs import until
from tests.support.tiny_bundle import tiny_bundle
from thinwire.receiver.decoding.dicom_object import same_object
from thinwire.receiver.forward import c_store
from thinwire.receiver.forward.forwarding import forwarders, forwarding
from thinwire.receiver.forward.queue import queue_of
from thinwire.receiver.hub import Hub, make_hub, open_hub
from thinwire.shared.clock import SystemClock
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.storage.durable import Disk

pytestmark = pytest.mark.timeout(180)

DX = "1.2.840.10008.5.1.4.1.1.1.1"
DERIVED = (ComprehensiveSRStorage, SecondaryCaptureImageStorage)
SENT, AGAIN, REFUSED, CONFIRMED = "unconfirmed", "waiting", "refused", "confirmed"
BROKE = "the association broke"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture
def hub_with(tmp_path: Path, bundle: Bundle) -> Callable[[str], contextlib.AbstractContextManager[Hub]]:
    @contextlib.contextmanager
    def opened(toml: str) -> Iterator[Hub]:
        make_hub(tmp_path / "hub", bundle.folder, Disk(), SystemClock())
        configure(tmp_path / "hub", toml)
        with open_hub(tmp_path / "hub", SystemClock()) as hub:
            yield hub

    return opened


HubWith = Callable[[str], contextlib.AbstractContextManager[Hub]]


def pacs(port: int, called: str = "PACS", name: str = "pacs") -> str:
    where = f'host = "127.0.0.1"\nport = {port}\ncalled = "{called}"\n'
    return f'[[forward.targets]]\nname = "{name}"\nkind = "c-store"\n{where}'


def web(url: str, name: str = "web") -> str:
    return f'[[forward.targets]]\nname = "{name}"\nkind = "stow"\nurl = "{url}"\n'


def forward(hub: Hub) -> None:
    for each in forwarders(hub):
        while each.work():
            pass


def outcomes(hub: Hub, target: str = "pacs") -> dict[str, tuple[str, str]]:
    return {each.item: (str(each.state), each.reason) for each in queue_of(hub).all() if each.target == target}


@contextlib.contextmanager
def misbehaving(
    *handlers: evt.EventHandlerType,
    classes: Sequence[str] = (DX, *DERIVED),
    syntaxes: Sequence[str] = (EXPLICIT,),
    **settings: Any,
) -> Iterator[int]:
    """A C-STORE SCP with these handlers; gives its port. settings: of its application entity."""
    ae = AE("PACS")
    for word, value in settings.items():
        setattr(ae, word, value)
    for each in classes:
        ae.add_supported_context(each, list(syntaxes))
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=list(handlers) or [answers(0)])
    assert server is not None
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


def answers(status: int) -> evt.EventHandlerType:
    return evt.EVT_C_STORE, lambda _: status


@pytest.mark.parametrize(
    ("status", "state", "reason"),
    [
        (0x0000, SENT, ""),  # whether or not it is stored: without commitment no peer can show it
        (0xB000, SENT, "taken with status B000"),
        (0x0111, SENT, "taken with status 0111"),
        (0xA700, AGAIN, "the peer is out of resources (status A700)"),
        (0xA900, REFUSED, "the peer refused it: to it the data set does not match its SOP class (status A900)"),
        (0x0122, REFUSED, "the peer refused it: it does not store this SOP class (status 0122)"),
        (0x0124, REFUSED, "the peer refused it: it does not allow this hub to store (status 0124)"),
        (0xC123, REFUSED, "the peer refused it (status C123)"),
    ],
)
def test_each_status_has_its_outcome(hub_with: HubWith, bundle: Bundle, status: int, state: str, reason: str) -> None:
    with misbehaving(answers(status)) as port, hub_with(pacs(port)) as hub:
        keep_study(hub, join(hub), bundle, read=False)
        forward(hub)
        assert outcomes(hub) == {"file 0": (state, reason)}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"require_called_aet": True}, "it has another AE title than `called`"),
        (
            {"require_calling_aet": ["ANOTHER"]},
            "it does not know this hub's AE title; enter `title` of [forward] there",
        ),
    ],
)
def test_a_peer_that_turns_the_hub_away_is_tried_again_and_says_why(
    hub_with: HubWith, bundle: Bundle, settings: dict[str, Any], reason: str
) -> None:
    with misbehaving(**settings) as port, hub_with(pacs(port, "ELSEWHERE")) as hub:
        keep_study(hub, join(hub), bundle, read=False)
        forward(hub)
        assert outcomes(hub) == {"file 0": (AGAIN, f"the peer turned the association down: {reason}")}


# pynetdicom leaves a socket that could not connect to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_peer_that_is_not_there_is_tried_again(hub_with: HubWith, bundle: Bundle) -> None:
    with hub_with(pacs(free_port())) as hub:
        keep_study(hub, join(hub), bundle, read=False)
        forward(hub)
        assert outcomes(hub) == {"file 0": (AGAIN, "the peer cannot be reached")}


def test_a_class_or_syntax_that_is_not_taken_is_refused_and_the_rest_goes(hub_with: HubWith, bundle: Bundle) -> None:
    plain, packed = (
        image_file(1, SOPInstanceUID="1.2.1"),
        image_file(2, syntax=JPEG_LOSSLESS_SV1, SOPInstanceUID="1.2.2"),
    )
    with misbehaving(classes=(DX, DERIVED[1])) as port, hub_with(pacs(port)) as hub:
        keep_study(hub, join(hub), bundle, plain, packed)
        forward(hub)
        found = outcomes(hub)
    assert {item: state for item, (state, _) in found.items()} == {
        "file 0": SENT,
        "file 1": REFUSED,
        "sr": REFUSED,
        "capture": SENT,
    }
    for item, syntax in (("file 1", "JPEG Lossless"), ("sr", "Explicit VR Little Endian")):
        assert found[item][1].startswith("the peer does not accept")
        assert syntax in found[item][1]


@pytest.mark.parametrize("when", ["while it comes", "instead of an answer"])
def test_an_object_at_which_the_peer_breaks_off_holds_nothing_else_back(
    hub_with: HubWith, bundle: Bundle, when: str
) -> None:
    files = image_file(1, SOPInstanceUID="1.2.826.1.1"), image_file(2, SOPInstanceUID="1.2.2")

    def store(event: evt.Event) -> int:
        if when == "instead of an answer" and event.request.AffectedSOPInstanceUID == "1.2.826.1.1":
            event.assoc.abort()
        return 0

    def comes(event: evt.Event) -> None:
        if when == "while it comes" and b"1.2.826.1.1" in event.data:
            event.assoc.abort()

    handlers: list[evt.EventHandlerType] = [(evt.EVT_C_STORE, store), (evt.EVT_DATA_RECV, comes)]
    with misbehaving(*handlers) as port, hub_with(pacs(port)) as hub:
        keep_study(hub, join(hub), bundle, *files)
        forward(hub)
        found = outcomes(hub)
    assert found["file 0"] == (AGAIN, BROKE)
    assert {found[each] for each in ("file 1", "sr", "capture")} == {(SENT, "")}


def test_a_slow_peer_is_given_up_for_now_and_delays_no_other(
    hub_with: HubWith, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(c_store, "ANSWER_SECONDS", 2.0)
    end = threading.Event()

    def never(_: evt.Event) -> int:
        end.wait(60)
        return 0

    def settled(hub: Hub) -> bool:
        found = {name: outcomes(hub, name) for name in ("slow", "quick")}
        return all(each and all(state != AGAIN or why for state, why in each.values()) for each in found.values())

    with contextlib.ExitStack() as stack:
        slow, quick = stack.enter_context(misbehaving((evt.EVT_C_STORE, never))), stack.enter_context(misbehaving())
        hub = stack.enter_context(hub_with(pacs(slow, name="slow") + pacs(quick, name="quick")))
        keep_study(hub, join(hub), bundle)
        with forwarding(hub):
            until(lambda: settled(hub))
            end.set()
        assert set(outcomes(hub, "quick").values()) == {(SENT, "")}
        assert outcomes(hub, "slow")["file 0"] == (AGAIN, "the peer did not answer")
        assert {state for state, _ in outcomes(hub, "slow").values()} == {AGAIN}


OUT_OF_ROOM = b'{"00081198": {"Value": [{"00081197": {"vr": "US", "Value": [42752]}}]}}'
ANOTHER = image_file(5)


def _part(data: bytes) -> Answer:
    body = b"--xx\r\nContent-Type: application/dicom\r\n\r\n" + data + b"\r\n--xx--\r\n"
    return Answer(200, body, 'multipart/related; type="application/dicom"; boundary="xx"')


@pytest.mark.parametrize(
    ("post", "get", "state", "reason"),
    [
        (Answer(200), Answer(404), AGAIN, "the server accepted the object and does not have it"),
        (Answer(200), _part(ANOTHER), REFUSED, "the server has another image under the same SOP Instance UID"),
        (Answer(200), _part(image_file()), CONFIRMED, ""),
        (Answer(200), Answer(406), SENT, "the server accepted it and cannot confirm that it is stored (406)"),
        (Answer(200, OUT_OF_ROOM), Answer(404), AGAIN, "the server is out of resources (failure reason A700)"),
        (Answer(507), Answer(404), AGAIN, "the server answered 507"),
        (Answer(401), Answer(404), AGAIN, "the server answered 401"),
        (Answer(415), Answer(404), REFUSED, "the server answered 415"),
    ],
)
def test_each_answer_of_a_web_server_has_its_outcome(
    hub_with: HubWith, bundle: Bundle, post: Answer, get: Answer, state: str, reason: str
) -> None:
    def script(asked: Asked) -> Answer:
        return post if asked.method == "POST" else get

    with answering(script) as server, hub_with(web(server.url)) as hub:
        keep_study(hub, join(hub), bundle, read=False)
        forward(hub)
        assert outcomes(hub, "web") == {"file 0": (state, reason)}


@needs_dcmtk
@pytest.mark.parametrize(
    ("option", "state", "reason"),
    [
        ("--refuse", AGAIN, "the peer turned the association down"),
        ("--abort-during", AGAIN, BROKE),
        ("--ignore", SENT, ""),  # success, and nothing stored
        ("--abort-after", AGAIN, BROKE),
    ],
)
def test_dcmtk_as_it_can_be_told_to_misbehave(
    hub_with: HubWith, bundle: Bundle, tmp_path: Path, option: str, state: str, reason: str
) -> None:
    with storescp(tmp_path / "dcmtk", option) as port, hub_with(pacs(port)) as hub:
        keep_study(hub, join(hub), bundle, read=False)
        forward(hub)
        ((found, why),) = outcomes(hub).values()
        assert (found, why[: len(reason)]) == (state, reason)


def odd_studies() -> dict[str, bytes]:
    """Files as the field has them, by the UID under which they must arrive; each in a study of its own."""

    def own(number: int, **attributes: Any) -> dict[str, Any]:
        return {"SOPInstanceUID": f"1.2.77.{number}", "StudyInstanceUID": f"1.2.78.{number}", **attributes}

    samples = chest(300, 280)
    stale = image_file(**own(5))
    stale = stale[: len(stale) - len(after_meta(stale))].replace(b"1.2.77.5", b"1.2.66.5") + after_meta(stale)
    return {
        "1.2.77.1": named("\\ISO 2022 IR 87", JAPANESE, samples=samples, **own(1)),
        "1.2.77.3": image_file(preamble=False, **own(3)),
        "1.2.77.4": image_file(StudyDate="00000000", StudyTime="996199", PatientBirthDate="UNKNOWN", **own(4)),
        "1.2.77.5": stale,
        "1.2.77.6": named("ISO-8859-1", "Müller^José".encode("latin-1"), samples=samples, **own(6)),
        f"{STUDY_UID}.1.1": with_uid("StudyInstanceUID", "1.2.78.8 ", samples),  # padded by a blank
    }


@needs_orthanc
def test_odd_files_and_what_is_made_of_them_reach_orthanc_by_both_ways(
    hub_with: HubWith, bundle: Bundle, tmp_path: Path
) -> None:
    odd = odd_studies()
    with contextlib.ExitStack() as stack:
        one, other = (stack.enter_context(orthanc(tmp_path / name)) for name in ("one", "other"))
        hub = stack.enter_context(hub_with(pacs(one.dicom, "ORTHANC") + web(other.web)))
        clinic = join(hub)
        for data in odd.values():
            keep_study(hub, clinic, bundle, data)
        keep_study(hub, clinic, bundle, with_uid("SOPInstanceUID", f"1.2.{'3' * 74}", chest(300, 280)))
        forward(hub)
        queue_of(hub).retry("pacs")  # a duplicate of each
        forward(hub)
        by_target = {name: Counter(state for state, _ in outcomes_of_all(hub, name)) for name in ("pacs", "web")}
        assert by_target == {"pacs": {SENT: 3 * len(odd), REFUSED: 3}, "web": {CONFIRMED: 3 * len(odd), REFUSED: 3}}
        refused = {why for name in ("pacs", "web") for state, why in outcomes_of_all(hub, name) if state == REFUSED}
        assert refused == {"its SOP Instance UID has 78 characters, over DICOM's limit of 64, so no PACS can take it"}
        held = one.instances(), other.instances()
    for each in held:
        assert len(each) == 3 * len(odd)
        assert all(same_object(data, each[uid]) for uid, data in odd.items())
        made = [pydicom.dcmread(BytesIO(data)) for uid, data in each.items() if uid not in odd]
        names = Counter(str(found.PatientName) for found in made)
        for name in ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Müller^José"):
            assert names[name] == 2
        assert {found.SpecificCharacterSet for found in made} == {"ISO_IR 192"}


def outcomes_of_all(hub: Hub, target: str) -> list[tuple[str, str]]:
    return [(str(each.state), each.reason) for each in queue_of(hub).all() if each.target == target]
