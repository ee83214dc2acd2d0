"""STOW-RS and FHIR servers that do well, badly, or only claim success: the effect of each on a delivery."""

import json
from io import BytesIO
from pathlib import Path

import pydicom
import pytest

from tests.support.http_server import Answer, Asked, Scripted, answering
from tests.support.machine_results import image_file
from thinwire.receiver.decoding.decoder import Decoder
from thinwire.receiver.decoding.dicom_object import dicom_object
from thinwire.receiver.decoding.process import EXAMINING
from thinwire.receiver.forward import web
from thinwire.receiver.forward.delivery import DeliveryEvent
from thinwire.receiver.forward.fhir_peer import FhirPeer
from thinwire.receiver.forward.peer import DeliveryOutcome, Outgoing
from thinwire.receiver.forward.stow import StowPeer
from thinwire.receiver.targets import FhirTarget, StowTarget

IMAGE = image_file()
DECODER = Decoder(EXAMINING, 1 << 30)
TAKEN = Answer(200, b'{"00081199": {"vr": "SQ", "Value": [{}]}}', "application/dicom+json")
BUNDLE = json.dumps({"resourceType": "Bundle", "entry": [{}, {}]}).encode()


def stow(server: Scripted, data: bytes = IMAGE, **settings: object) -> DeliveryOutcome:
    target = StowTarget.model_validate({"kind": "stow", "name": "pacs", "url": server.url + "/dicom-web", **settings})
    (outcome,) = StowPeer(target, DECODER).send([Outgoing(7, dicom_object(data))])
    return outcome


def fhir(server: Scripted) -> DeliveryOutcome:
    target = FhirTarget.model_validate({"kind": "fhir", "name": "records", "url": server.url + "/fhir/"})
    (outcome,) = FhirPeer(target).send([Outgoing(7, BUNDLE)])
    return outcome


def part(data: bytes) -> Answer:
    body = b"--xx\r\nContent-Type: application/dicom\r\n\r\n" + data + b"\r\n--xx--\r\n"
    return Answer(200, body, 'multipart/related; type="application/dicom"; boundary="xx"')


def failed(reason: int) -> Answer:
    """Success over all, and a failure for the one object (PS3.18 table 10.5.3-1)."""
    return Answer(200, json.dumps({"00081198": {"Value": [{"00081197": {"vr": "US", "Value": [reason]}}]}}).encode())


def altered(**attributes: object) -> bytes:
    found = pydicom.dcmread(BytesIO(IMAGE))
    for word, value in attributes.items():
        setattr(found, word, value)
    out = BytesIO()
    found.save_as(out)
    return out.getvalue()


@pytest.mark.parametrize("theirs", [IMAGE, altered(PatientID="CORRECTED", InstitutionName="Hospital")])
def test_an_object_that_the_server_gives_back_is_confirmed_and_went_bit_for_bit(theirs: bytes) -> None:
    with answering(lambda asked: TAKEN if asked.method == "POST" else part(theirs)) as server:
        assert stow(server) == DeliveryOutcome(7, DeliveryEvent.FOUND_AT_TARGET)
    post, get = server.asked
    assert post.path == "/dicom-web/studies"
    assert IMAGE in post.body
    found = pydicom.dcmread(BytesIO(IMAGE))
    where = f"/studies/{found.StudyInstanceUID}/series/{found.SeriesInstanceUID}/instances/{found.SOPInstanceUID}"
    assert get.path == "/dicom-web" + where


def test_a_server_that_answers_200_and_stores_nothing_is_found_out() -> None:
    with answering(lambda asked: TAKEN if asked.method == "POST" else Answer(404)) as server:
        outcome = stow(server)
    assert outcome.event is DeliveryEvent.FAILED
    assert outcome.reason == "the server accepted the object and does not have it"


def test_a_server_that_drops_a_part_with_its_syntax_gets_it_without_and_from_then_on_at_once() -> None:
    """As Orthanc's DICOMweb 1.7 does, with status 200."""
    stored: list[bytes] = []

    def script(asked: Asked) -> Answer:
        if asked.method == "POST":
            stored.extend([IMAGE] if b"transfer-syntax=" not in asked.body else [])
            return TAKEN
        return part(stored[-1]) if stored else Answer(404)

    with answering(script) as server:
        target = StowTarget.model_validate({"kind": "stow", "name": "pacs", "url": server.url})
        peer = StowPeer(target, DECODER)
        for _ in range(2):
            (outcome,) = peer.send([Outgoing(7, dicom_object(IMAGE))])
            assert outcome == DeliveryOutcome(7, DeliveryEvent.FOUND_AT_TARGET)
    assert [asked.method for asked in server.asked] == ["POST", "GET", "POST", "GET", "POST", "GET"]
    assert [b"transfer-syntax=" in asked.body for asked in server.asked[::2]] == [True, False, False]


def test_an_answer_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "MOST_JSON", 1000)
    with answering(lambda _: Answer(200, b"[" + b" " * 100_000)) as server:
        outcome = stow(server)
    assert (outcome.event, "AnswerTooLong" in outcome.reason) == (DeliveryEvent.FAILED, True)


def test_so_is_one_that_only_lists_and_does_not_list_it() -> None:
    def lists(found: bytes) -> DeliveryOutcome:
        def script(asked: Asked) -> Answer:
            if asked.method == "POST":
                return TAKEN
            return Answer(200, found) if "?" in asked.path else Answer(406)

        with answering(script) as server:
            return stow(server)

    assert lists(b"[]").event is DeliveryEvent.FAILED
    assert lists(b'[{"00080018": {}}]').event is DeliveryEvent.FOUND_AT_TARGET
    assert lists(b"no json").event is DeliveryEvent.SENT


def test_another_image_under_the_same_uid_is_told_and_not_overwritten() -> None:
    theirs = altered(PixelData=bytes(len(pydicom.dcmread(BytesIO(IMAGE)).PixelData)))
    with answering(lambda asked: TAKEN if asked.method == "POST" else part(theirs)) as server:
        outcome = stow(server)
    assert outcome.event is DeliveryEvent.TURNED_DOWN
    assert "another image under the same SOP Instance UID" in outcome.reason


@pytest.mark.parametrize(
    ("answer", "event"),
    [
        (Answer(500), DeliveryEvent.FAILED),
        (Answer(503), DeliveryEvent.FAILED),
        (Answer(401), DeliveryEvent.FAILED),
        (Answer(429), DeliveryEvent.FAILED),
        (Answer(400), DeliveryEvent.TURNED_DOWN),
        (Answer(415), DeliveryEvent.TURNED_DOWN),
        (Answer(409), DeliveryEvent.TURNED_DOWN),
        (failed(0xA700), DeliveryEvent.FAILED),
        (failed(0xA900), DeliveryEvent.TURNED_DOWN),
        (failed(0x0122), DeliveryEvent.TURNED_DOWN),
        (Answer(200, b'{"00081198": {"Value": [{}]}}'), DeliveryEvent.TURNED_DOWN),
    ],
)
def test_what_a_server_says_instead_of_success(answer: Answer, event: DeliveryEvent) -> None:
    with answering(lambda _: answer) as server:
        outcome = stow(server)
    assert outcome.event is event
    assert outcome.reason
    assert len(server.asked) == 1


def test_a_server_that_is_not_there_is_tried_again() -> None:
    with answering(lambda _: Answer()) as server:
        pass
    assert stow(server).event is DeliveryEvent.FAILED


def test_the_secret_comes_from_its_file_and_a_missing_file_is_said(tmp_path: Path) -> None:
    secret = tmp_path / "auth"
    secret.write_text("Bearer abc\n")
    with answering(lambda asked: TAKEN if asked.method == "POST" else part(IMAGE)) as server:
        assert stow(server, auth_file=secret).event is DeliveryEvent.FOUND_AT_TARGET
        assert {asked.headers["authorization"] for asked in server.asked} == {"Bearer abc"}
        missing = stow(server, auth_file=tmp_path / "none")
    assert missing.event is DeliveryEvent.FAILED
    assert "auth_file" in missing.reason


@pytest.mark.parametrize(
    ("answer", "event"),
    [
        (
            Answer(200, b'{"entry": [{"response": {"status": "201 Created"}}, {"response": {"status": "200"}}]}'),
            DeliveryEvent.FOUND_AT_TARGET,
        ),
        (
            Answer(200, b'{"entry": [{"response": {"status": "201"}}, {"response": {"status": "422"}}]}'),
            DeliveryEvent.FAILED,
        ),
        (Answer(200, b'{"entry": [{"response": {"status": "201"}}]}'), DeliveryEvent.FAILED),
        (Answer(200), DeliveryEvent.FAILED),
        (Answer(502), DeliveryEvent.FAILED),
        (Answer(422), DeliveryEvent.TURNED_DOWN),
    ],
)
def test_a_fhir_server_has_to_say_of_every_resource_that_it_kept_it(answer: Answer, event: DeliveryEvent) -> None:
    with answering(lambda _: answer) as server:
        assert fhir(server).event is event
    (asked,) = server.asked
    assert (asked.method, asked.path, asked.body) == ("POST", "/fhir", BUNDLE)
    assert asked.headers["content-type"] == "application/fhir+json"


def test_an_address_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="url"):
        StowTarget.model_validate({"kind": "stow", "name": "pacs", "url": "ftp://pacs"})
