"""A PACS by DICOMweb: STOW-RS (PS3.18 10.5), confirmed by WADO-RS.

A server may answer 200 and store nothing. An object counts as confirmed only when the server returns or lists it.
"""

import email
import uuid
from collections.abc import Iterator, Sequence

import httpx

from thinwire.receiver.decoding.decoder import Decoder
from thinwire.receiver.decoding.dicom_object import DicomObject
from thinwire.receiver.forward.delivery import DeliveryEvent
from thinwire.receiver.forward.peer import DeliveryOutcome, Outgoing
from thinwire.receiver.forward.web import Answer, ask, client, failure, unreachable
from thinwire.receiver.targets import StowTarget
from thinwire.shared.errors import BadConfiguration, UnreadableDicom
from thinwire.shared.imaging.dicom import DEFAULT_LIMITS

_FAILED_SOPS = "00081198"
_FAILURE_REASON = "00081197"
_OUT_OF_RESOURCES = range(0xA700, 0xA800)
_ANY_SYNTAX = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_CONFLICT = 409  # all instances failed; the body says why (PS3.18 table 10.5.3-1)
_MOST_ANSWER = DEFAULT_LIMITS.file_bytes + (64 << 10)
"""Bytes of an answer with one file: the limit of a file, and its multipart envelope."""
_ABSENT = "the server accepted the object and does not have it"


class StowPeer:
    """decoder: compares the server's copies. One for a target: it remembers the form of a part that its server reads.

    By PS3.18 8.7.3.5 a part's Content-Type states the transfer syntax. Orthanc's DICOMweb 1.7 answers 200 and drops a
    part that does; so a dropped object is sent again at once without it, as its meta information states it too.
    """

    def __init__(self, target: StowTarget, decoder: Decoder) -> None:
        self.target = target
        self._decoder = decoder
        self._states_syntax = True

    def send(self, objects: Sequence[Outgoing]) -> Iterator[DeliveryOutcome]:
        try:
            http = client(self.target)
        except BadConfiguration as error:
            yield from (DeliveryOutcome(each.number, DeliveryEvent.FAILED, str(error)) for each in objects)
            return
        with http:
            for each in objects:
                if not isinstance(each.content, DicomObject):
                    continue
                try:
                    event, why = self._store(http, each.content)
                except httpx.HTTPError as error:
                    event, why = DeliveryEvent.FAILED, unreachable(error)
                yield DeliveryOutcome(each.number, event, why)

    def _store(self, http: httpx.Client, each: DicomObject) -> tuple[DeliveryEvent, str]:
        found = self._attempt(http, each, self._states_syntax)
        if found != (DeliveryEvent.FAILED, _ABSENT):
            return found
        other = self._attempt(http, each, not self._states_syntax)
        if other[0] is DeliveryEvent.FOUND_AT_TARGET:
            self._states_syntax = not self._states_syntax
        return other

    def _attempt(self, http: httpx.Client, each: DicomObject, states_syntax: bool) -> tuple[DeliveryEvent, str]:
        boundary = uuid.uuid4().hex
        kind = "application/dicom" + (f"; transfer-syntax={each.syntax}" if states_syntax else "")
        head = f"--{boundary}\r\nContent-Type: {kind}\r\n\r\n".encode()
        answer = ask(
            http,
            "POST",
            f"{self.target.base}/studies",
            content=head + each.data + f"\r\n--{boundary}--\r\n".encode(),
            headers={
                "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
                "Accept": "application/dicom+json",
            },
        )
        refused = _refused(answer)
        if refused in _OUT_OF_RESOURCES:
            return DeliveryEvent.FAILED, f"the server is out of resources (failure reason {refused:04X})"
        if refused is not None:
            return DeliveryEvent.TURNED_DOWN, f"the server refused it (failure reason {refused:04X})"
        if not answer.is_success:
            return failure(answer)
        return self._retrieve(http, each)

    def _retrieve(self, http: httpx.Client, each: DicomObject) -> tuple[DeliveryEvent, str]:
        """Whether the server returns the object (WADO-RS, PS3.18 10.4)."""
        series = f"{self.target.base}/studies/{each.study}/series/{each.series}"
        where = f"{series}/instances/{each.instance}"
        answer = ask(http, "GET", where, _MOST_ANSWER, headers={"Accept": _ANY_SYNTAX})
        if answer.status == 404:
            return DeliveryEvent.FAILED, _ABSENT
        theirs = _first_part(answer) if answer.is_success else None
        if theirs is not None:
            try:
                if not self._decoder.same_object(each.data, theirs):
                    return DeliveryEvent.TURNED_DOWN, "the server has another image under the same SOP Instance UID"
                return DeliveryEvent.FOUND_AT_TARGET, ""
            except UnreadableDicom:
                pass
        return self._search(http, series, each)

    def _search(self, http: httpx.Client, series: str, each: DicomObject) -> tuple[DeliveryEvent, str]:
        """For a server that does not return files in their transfer syntax: whether it lists the object (QIDO-RS)."""
        query = {"SOPInstanceUID": each.instance}
        accept = {"Accept": "application/dicom+json"}
        answer = ask(http, "GET", f"{series}/instances", params=query, headers=accept)
        listed = answer.json() if answer.is_success else None
        if answer.status in (204, 404) or listed == []:
            return DeliveryEvent.FAILED, _ABSENT
        if isinstance(listed, list):
            return DeliveryEvent.FOUND_AT_TARGET, ""
        return DeliveryEvent.SENT, f"the server accepted it and cannot confirm that it is stored ({answer.status})"


def _refused(answer: Answer) -> int | None:
    """Failure Reason (0008,1197) of the object; None if the answer reports no failure."""
    if not (answer.is_success or answer.status == _CONFLICT):
        return None
    facts = answer.json()
    try:
        (failed,) = facts[_FAILED_SOPS]["Value"]
        return int(failed[_FAILURE_REASON]["Value"][0])
    except (KeyError, IndexError, TypeError, ValueError):
        failed_at_all = facts.get(_FAILED_SOPS) if isinstance(facts, dict) else None
        return 0 if isinstance(failed_at_all, dict) and failed_at_all.get("Value") else None


def _first_part(answer: Answer) -> bytes | None:
    """The first DICOM file of a multipart answer (RFC 2046)."""
    head = f"Content-Type: {answer.kind}\r\n\r\n".encode("latin-1")
    whole = email.message_from_bytes(head)  # the default policy: the newer ones fail at some headers (IndexError)
    boundary = whole.get_boundary()
    if boundary is None:
        return None
    parts = answer.body.split(b"--" + boundary.encode("latin-1"))
    if len(parts) < 3:
        return None
    _, _, body = parts[1].partition(b"\r\n\r\n")
    return body.removesuffix(b"\r\n")
