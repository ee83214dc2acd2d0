"""Merging of repeated refusals in the audit log: the first is a message at once, the others are counted in one."""

import threading
from dataclasses import dataclass, replace

from thinwire.receiver.access.audit import Audit
from thinwire.receiver.access.audit_message import Act, AuditOutcome, Message
from thinwire.shared.clock import Clock

WINDOW = 600.0
"""Seconds in which the same refusal is one message with a count."""
MOST = 256
"""Different refusals in one window; further ones are counted together."""

_Key = tuple[Act, AuditOutcome, str, str, str]


@dataclass
class _Counted:
    message: Message
    until: float
    """Seconds, monotonic."""
    more: int = 0


class Refusals:
    """Safe from any thread. A count is lost where the process is killed; its first message is not."""

    def __init__(self, audit: Audit, clock: Clock) -> None:
        self._audit = audit
        self._clock = clock
        self._counted: dict[_Key, _Counted] = {}
        self._lock = threading.Lock()

    def record(self, message: Message) -> None:
        """Record a refusal, or count it. Raises as `Audit.record`."""
        key: _Key = (message.act, message.outcome, message.user, message.address, message.detail)
        with self._lock:
            self._write_ended()
            if key not in self._counted and len(self._counted) >= MOST:
                message = replace(message, user="unknown", address="", detail="from many places")
                key = (message.act, message.outcome, message.user, message.address, message.detail)
            counted = self._counted.get(key)
            if counted is not None:
                counted.more += 1
                return
            self._audit.record(message)
            self._counted[key] = _Counted(message, self._clock.monotonic() + WINDOW)

    def write(self, all: bool = False) -> None:
        """Write the counts of windows that have ended. all: of the others too, as before a stop."""
        with self._lock:
            self._write_ended(all)

    def _write_ended(self, all: bool = False) -> None:
        now = self._clock.monotonic()
        for key in [key for key, each in self._counted.items() if all or each.until <= now]:
            each = self._counted[key]
            if each.more:
                words = f"{each.more} more within {WINDOW / 60:.0f} minutes"
                detail = f"{each.message.detail}: {words}" if each.message.detail else words
                self._audit.record(replace(each.message, at=self._clock.now(), detail=detail))
            del self._counted[key]
