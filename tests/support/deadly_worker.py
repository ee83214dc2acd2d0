"""A worker whose process dies of one payload, as of a fault in a library. It imports next to nothing: a process that is
started again and again has to be quick."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from thinwire.receiver.batch.engine import Results, Worker

DEADLY = b"deadly"


def make_deadly(folder: Path) -> Worker:
    (folder / "there" / "file").read_bytes()

    def work(payloads: Sequence[bytes]) -> Results:
        if DEADLY in payloads:
            os.kill(os.getpid(), signal.SIGKILL)
        return [each.decode() for each in payloads]

    return work
