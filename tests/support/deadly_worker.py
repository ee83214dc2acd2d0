"""A worker whose process dies of one payload, as of a fault in a library. It imports next to nothing: a process that is
started again and again has to be quick."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

from thinwire.receiver.batch.engine import Refused, Results, Start, Worker, outcomes

DEADLY = b"deadly"


def make_deadly(folder: Path) -> Worker:
    (folder / "there" / "file").read_bytes()

    def work(payloads: Sequence[bytes]) -> Results:
        if DEADLY in payloads:
            os.kill(os.getpid(), signal.SIGKILL)
        return [each.decode() for each in payloads]

    return work


def refused_alone(start: Start, folder: Path) -> None:
    """The payloads beside the deadly one have their results."""
    (folder / "there").mkdir()
    (folder / "there" / "file").write_bytes(b"of a bundle")
    batch = [(n, DEADLY if n == 5 else b"%d" % n) for n in range(12)]
    with start(make_deadly, folder, ["there"]) as engine:
        found = dict(outcomes(engine, batch, chunk=4))
    assert found.pop(5) == Refused("the process that read it died")
    assert found == {n: str(n) for n in range(12) if n != 5}
