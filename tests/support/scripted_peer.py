"""A peer that does what a script says, and remembers what it was given."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from thinwire.receiver.forward.delivery import Event
from thinwire.receiver.forward.peer import Outcome, Outgoing


@dataclass
class ScriptedPeer:
    """script: one event a try, in turn; then all is sent. `SENT_AND_ASKED` goes under transaction "t1", "t2", ..."""

    script: list[Event] = field(default_factory=list)
    given: list[bytes] = field(default_factory=list)
    asked: int = 0

    def send(self, objects: Sequence[Outgoing]) -> Iterator[Outcome]:
        for each in objects:
            self.given.append(each.data)
            event = self.script.pop(0) if self.script else Event.SENT
            self.asked += event is Event.SENT_AND_ASKED
            transaction = f"t{self.asked}" if event is Event.SENT_AND_ASKED else None
            yield Outcome(each.number, event, "" if event is Event.SENT else f"scripted: {event}", transaction)
