"""A PACS that counts the instances that it is given."""

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator

from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt

from tests.support.peers import free_port

SUCCESS = 0x0000


class CountingPacs:
    """Its title is PACS. received: how often each SOP Instance UID came."""

    def __init__(self) -> None:
        self.port = free_port()
        self._lock = threading.Lock()
        self.received: Counter[tuple[str, str]] = Counter()

    @contextlib.contextmanager
    def running(self) -> Iterator["CountingPacs"]:
        title = AE("PACS")
        for context in AllStoragePresentationContexts:
            title.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
        handlers = [(evt.EVT_C_STORE, self._take)]
        server = title.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        try:
            yield self
        finally:
            server.shutdown()

    def of(self, prefix: str) -> dict[str, int]:
        """How often each instance came whose SOP Class UID begins so."""
        with self._lock:
            return {uid: count for (kind, uid), count in self.received.items() if kind.startswith(prefix)}

    def _take(self, event: evt.Event) -> int:
        asked = event.request
        with self._lock:
            self.received[str(asked.AffectedSOPClassUID), str(asked.AffectedSOPInstanceUID)] += 1
        return SUCCESS
