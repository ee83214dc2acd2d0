"""Run a command line whose durable writes fail while a file exists; the file names the error.

    python -m tests.support.failing_disk FLAG -- thinwire-sender run --data clinic

FLAG holds the name of an error such as EIO: every step of every Disk of this process then raises that OSError.
"""

import errno
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

from tests.support.crash_at import MAINS
from thinwire.shared.storage.durable import Disk


def failer(flag: Path) -> Callable[[str], None]:
    """A step that fails while the flag is there."""

    def step(_: str) -> None:
        if flag.exists():
            number = getattr(errno, flag.read_text().strip() or "EIO")
            raise OSError(number, os.strerror(number))

    return step


def main(arguments: list[str]) -> None:
    if len(arguments) < 3 or arguments[1] != "--" or arguments[2] not in MAINS:
        raise SystemExit(__doc__)
    Disk.default_step = staticmethod(failer(Path(arguments[0])))
    sys.argv = arguments[2:]
    importlib.import_module(MAINS[arguments[2]]).main()


if __name__ == "__main__":
    main(sys.argv[1:])
