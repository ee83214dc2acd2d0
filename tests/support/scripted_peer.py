"""A peer that follows a script and records its input."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from thinwire.receiver.forward.delivery import DeliveryEvent
from thinwire.receiver.forward.peer import DeliveryOutcome, Outgoing


@dataclass
class ScriptedPeer:
    """script: one event a try, in turn; then all is sent. `SENT_AND_ASKED` goes under transaction "t1", "t2", ..."""

    script: list[DeliveryEvent] = field(default_factory=list)
    given: list[bytes] = field(default_factory=list)
    asked: int = 0

    def send(self, objects: Sequence[Outgoing]) -> Iterator[DeliveryOutcome]:
        for each in objects:
            self.given.append(each.data)
            event = self.script.pop(0) if self.script else DeliveryEvent.SENT
            self.asked += event is DeliveryEvent.SENT_AND_ASKED
            transaction = f"t{self.asked}" if event is DeliveryEvent.SENT_AND_ASKED else None
            yield DeliveryOutcome(
                each.number, event, "" if event is DeliveryEvent.SENT else f"scripted: {event}", transaction
            )
