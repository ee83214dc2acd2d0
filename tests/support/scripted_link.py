"""A link whose faults are a script.

    ScriptedLink("....x")      the fifth message is lost and the link with it
    ScriptedLink("..d")        the third message comes twice
    ScriptedLink("..r")        the third message comes after the fourth
    ScriptedLink("...f")       one bit of the fourth message's bytes is another
    ScriptedLink("...t")       the fourth message's bytes are cut short

Letters stand for messages in the order in which they arrive, up and down alike; after the script all is well.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from tests.support.clock import FakeClock
from tests.support.damage import turned
from thinwire.receiver.transport.ingest import IngestSession
from thinwire.sender.transport.session import UplinkSession
from thinwire.shared.errors import LinkLost
from thinwire.shared.wire.v1 import link_pb2 as wire

OFFLINE = 1.0
"""Seconds until the clinic has dialled again."""


class ScriptedLink:
    """Carries messages between the two ends, in order, `rate` bytes a second, with the messages in
    transit really in transit: they are lost when the link is."""

    def __init__(self, clock: FakeClock, script: str = "", rate: float = 16_000.0) -> None:
        self.clock = clock
        self.script = script
        self.rate = rate
        self.arrived: list[wire.Up | wire.Down] = []
        """Every message that arrived, as it arrived."""
        self.sent_up: list[wire.Up] = []
        """Every message that the clinic sent, arrived or not."""
        self.unacknowledged = 0
        """Bytes of objects that were on their way when the link was cut."""

    @property
    def object_bytes(self) -> int:
        """Bytes of objects that the clinic sent."""
        return sum(len(up.offer.head) + len(up.chunk.data) for up in self.sent_up)

    def carry(self, uplink: UplinkSession, ingest: IngestSession, greet: bool = True) -> bool:
        """Run one stream until nothing is left to say (True) or the script cuts it (False).

        Raises what ends the stream, LinkLost where both ends wait for each other.

        greet=False: go on with a stream that was left quiet.
        """
        up: deque[wire.Up] = deque()
        down: deque[wire.Down] = deque()
        self._say(up, [uplink.hello()] if greet else [])
        while True:
            while piece := uplink.next():
                self._say(up, [piece])
            if up:
                if not self._deliver(up, lambda message: down.extend(ingest.receive(message))):
                    break
            elif down:
                if not self._deliver(down, lambda message: self._say(up, uplink.receive(message))):
                    break
            else:
                down.extend([*ingest.tick(), *ingest.new_messages()])
                uplink.refresh()
                if not down and not uplink.transfers:
                    return True
                if not down:
                    ingest.close()
                    raise LinkLost(f"the link is quiet while {uplink.transfers} are under way")
        ingest.close()
        self.unacknowledged = uplink.pace.in_flight
        self.clock.advance(OFFLINE)
        return False

    def _say(self, up: deque[wire.Up], messages: list[wire.Up]) -> None:
        up.extend(messages)
        self.sent_up.extend(messages)

    def _deliver(self, line: deque[Any], take: Callable[[Any], None]) -> bool:
        fault, self.script = self.script[:1] or ".", self.script[1:]
        message = line.popleft()
        if fault == "x":
            return False
        if fault == "r" and line:
            message, line[0] = line[0], message
        if fault in "ft":
            message = altered(message, fault)
        for _ in range(2 if fault == "d" else 1):
            self.clock.advance(message.ByteSize() / self.rate)
            self.arrived.append(message)
            take(message)
        return True


def altered(message: Any, how: str) -> Any:
    """The message with one bit of its bytes turned ("f") or its last byte missing ("t"), if it has bytes."""
    copy = type(message)()
    copy.CopyFrom(message)
    for holder, field in (("chunk", "data"), ("offer", "head"), ("receipt", "signed")):
        if copy.WhichOneof("message") == holder:
            data = getattr(getattr(copy, holder), field)
            setattr(getattr(copy, holder), field, turned(data, len(data) // 2) if how == "f" else data[:-1])
    return copy
