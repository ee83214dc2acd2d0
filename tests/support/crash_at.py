"""Run a command line and kill it (SIGKILL) at a named step.

    python -m tests.support.crash_at STEP[:N] -- thinwire-sender send study.dcm --data clinic
    python -m tests.support.crash_at ingest.put.done:2 -- thinwire-receiver serve --data hub --listen 127.0.0.1:0

The command runs in this very process, which kills itself at the N-th pass (1 if not given) of the step. A STEP that
never passes lets the command end by itself. `python -m tests.support.crash_at list -- ...` writes every step that
passes to standard error instead.
"""

import importlib
import itertools
import os
import signal
import sys
from collections.abc import Callable

from thinwire.shared.storage.durable import Disk

MAINS = {"thinwire-sender": "thinwire.sender.cli", "thinwire-receiver": "thinwire.receiver.cli.main"}


def killer(name: str, nth: int = 1) -> Callable[[str], None]:
    """A step that ends the process, and nothing cleans up, at the n-th pass of `name`."""
    passes = itertools.count(1)

    def step(passed: str) -> None:
        if name == "list":
            print(passed, file=sys.stderr, flush=True)  # noqa: T201
        elif passed == name and next(passes) == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    return step


def arm(where: str) -> None:
    """Let every Disk of this process kill it at STEP[:N]."""
    name, _, nth = where.partition(":")
    Disk.default_step = staticmethod(killer(name, int(nth or 1)))


def main(arguments: list[str]) -> None:
    if len(arguments) < 3 or arguments[1] != "--" or arguments[2] not in MAINS:
        raise SystemExit(__doc__)
    arm(arguments[0])
    sys.argv = arguments[2:]
    importlib.import_module(MAINS[arguments[2]]).main()


if __name__ == "__main__":
    main(sys.argv[1:])
