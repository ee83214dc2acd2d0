"""The interface of a target's system (PACS or FHIR server): objects are sent, an outcome returns for each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from thinwire.receiver.decoding.dicom_object import DicomObject
from thinwire.receiver.forward.delivery import DeliveryEvent


class DeliveryOutcome(NamedTuple):
    """The outcome of one delivery. The caller makes each outcome durable before it takes the next."""

    number: int
    event: DeliveryEvent
    reason: str = ""
    transaction: str | None = None


@dataclass(frozen=True)
class Outgoing:
    """The content of one delivery, and its number."""

    number: int
    content: DicomObject | bytes = field(repr=False)
    """bytes: a FHIR transaction."""

    @property
    def data(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else self.content.data


class Peer(Protocol):
    def send(self, objects: Sequence[Outgoing]) -> Iterator[DeliveryOutcome]:
        """Send objects of one study in this order; one or more outcomes for each."""
        ...
