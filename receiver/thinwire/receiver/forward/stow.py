"""A PACS by DICOMweb: STOW-RS (PS3.18 10.5), confirmed by WADO-RS.

A server may answer 200 and store nothing. An object counts as confirmed only when the server returns or lists it.
"""

import email
import email.policy
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from thinwire.receiver.forward.delivery import DeliveryEvent
from thinwire.receiver.forward.peer import DeliveryOutcome, DicomObject, Outgoing, dicom_object, same_object
from thinwire.receiver.forward.web import client, failure, unreachable
from thinwire.receiver.targets import StowTarget
from thinwire.shared.errors import BadConfiguration, UnreadableDicom

_FAILED_SOPS = "00081198"
_FAILURE_REASON = "00081197"
_ANY_SYNTAX = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_CONFLICT = 409  # all instances failed; the body says why (PS3.18 table 10.5.3-1)


@dataclass(frozen=True)
class StowPeer:
    target: StowTarget

    def send(self, objects: Sequence[Outgoing]) -> Iterator[DeliveryOutcome]:
        try:
            http = client(self.target)
        except BadConfiguration as error:
            yield from (DeliveryOutcome(each.number, DeliveryEvent.FAILED, str(error)) for each in objects)
            return
        with http:
            for each in objects:
                try:
                    event, why = self._store(http, dicom_object(each.data))
                except UnreadableDicom as error:
                    event, why = DeliveryEvent.TURNED_DOWN, str(error)
                except httpx.HTTPError as error:
                    event, why = DeliveryEvent.FAILED, unreachable(error)
                yield DeliveryOutcome(each.number, event, why)

    def _store(self, http: httpx.Client, each: DicomObject) -> tuple[DeliveryEvent, str]:
        boundary = uuid.uuid4().hex
        head = f"--{boundary}\r\nContent-Type: application/dicom; transfer-syntax={each.syntax}\r\n\r\n".encode()
        answer = http.post(
            f"{self.target.base}/studies",
            content=head + each.data + f"\r\n--{boundary}--\r\n".encode(),
            headers={
                "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
                "Accept": "application/dicom+json",
            },
        )
        refused = _refused(answer)
        if refused is not None:
            return DeliveryEvent.TURNED_DOWN, f"the server refused it (failure reason {refused:04X})"
        if not answer.is_success:
            return failure(answer)
        return self._retrieve(http, each)

    def _retrieve(self, http: httpx.Client, each: DicomObject) -> tuple[DeliveryEvent, str]:
        """Whether the server returns the object (WADO-RS, PS3.18 10.4)."""
        series = f"{self.target.base}/studies/{each.study}/series/{each.series}"
        answer = http.get(f"{series}/instances/{each.instance}", headers={"Accept": _ANY_SYNTAX})
        if answer.status_code == 404:
            return DeliveryEvent.FAILED, "the server accepted the object and does not have it"
        if answer.is_success:
            theirs = _first_part(answer)
            try:
                if theirs is not None and not same_object(each.data, theirs):
                    return DeliveryEvent.TURNED_DOWN, "the server has another image under the same SOP Instance UID"
            except UnreadableDicom:
                theirs = None
            if theirs is not None:
                return DeliveryEvent.FOUND_AT_TARGET, ""
        return self._search(http, series, each)

    def _search(self, http: httpx.Client, series: str, each: DicomObject) -> tuple[DeliveryEvent, str]:
        """For a server that does not return files in their transfer syntax: whether it lists the object (QIDO-RS)."""
        query = {"SOPInstanceUID": each.instance}
        answer = http.get(f"{series}/instances", params=query, headers={"Accept": "application/dicom+json"})
        if answer.status_code in (204, 404) or (answer.is_success and _json(answer) == []):
            return DeliveryEvent.FAILED, "the server accepted the object and does not list it"
        if answer.is_success and isinstance(_json(answer), list):
            return DeliveryEvent.FOUND_AT_TARGET, ""
        return DeliveryEvent.SENT, f"the server accepted it and cannot confirm that it is stored ({answer.status_code})"


def _refused(answer: httpx.Response) -> int | None:
    """Failure Reason (0008,1197) of the object; None if the answer reports no failure."""
    if not (answer.is_success or answer.status_code == _CONFLICT):
        return None
    facts = _json(answer)
    try:
        (failed,) = facts[_FAILED_SOPS]["Value"]
        return int(failed[_FAILURE_REASON]["Value"][0])
    except (KeyError, IndexError, TypeError, ValueError):
        return 0 if isinstance(facts, dict) and facts.get(_FAILED_SOPS, {}).get("Value") else None


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None


def _first_part(answer: httpx.Response) -> bytes | None:
    """The first DICOM file of a multipart answer (RFC 2046)."""
    head = f"Content-Type: {answer.headers.get('Content-Type', '')}\r\n\r\n".encode("latin-1")
    whole = email.message_from_bytes(head, policy=email.policy.HTTP)
    boundary = whole.get_boundary()
    if boundary is None:
        return None
    parts = answer.content.split(b"--" + boundary.encode("latin-1"))
    if len(parts) < 3:
        return None
    _, _, body = parts[1].partition(b"\r\n\r\n")
    return body.removesuffix(b"\r\n")
