"""A FHIR R4 server: one transaction a study (https://hl7.org/fhir/R4/http.html#transaction)."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import httpx

from thinwire.receiver.forward.delivery import DeliveryEvent
from thinwire.receiver.forward.peer import DeliveryOutcome, Outgoing
from thinwire.receiver.forward.web import Answer, ask, client, failure, unreachable
from thinwire.receiver.targets import FhirTarget
from thinwire.shared.errors import BadConfiguration

_JSON = "application/fhir+json"


@dataclass(frozen=True)
class FhirPeer:
    target: FhirTarget

    def send(self, objects: Sequence[Outgoing]) -> Iterator[DeliveryOutcome]:
        for each in objects:
            try:
                with client(self.target) as http:
                    event, why = _post(http, self.target.base, each.data)
            except BadConfiguration as error:
                event, why = DeliveryEvent.FAILED, str(error)
            except httpx.HTTPError as error:
                event, why = DeliveryEvent.FAILED, unreachable(error)
            yield DeliveryOutcome(each.number, event, why)


def _post(http: httpx.Client, base: str, bundle: bytes) -> tuple[DeliveryEvent, str]:
    """Confirmed only if the answer has a 2xx status for every entry; the status of the whole answer is not enough."""
    answer = ask(http, "POST", base, content=bundle, headers={"Content-Type": _JSON, "Accept": _JSON})
    if not answer.is_success:
        return failure(answer)
    statuses = _statuses(answer)
    if len(statuses) != len(json.loads(bundle)["entry"]):
        return DeliveryEvent.FAILED, "the server answered with success and without a status for each resource"
    if all(status.startswith("2") for status in statuses):
        return DeliveryEvent.FOUND_AT_TARGET, ""
    return DeliveryEvent.FAILED, "the server did not store every resource"


def _statuses(answer: Answer) -> list[str]:
    try:
        return [str(entry["response"]["status"]) for entry in answer.json()["entry"]]
    except (KeyError, TypeError):
        return []
