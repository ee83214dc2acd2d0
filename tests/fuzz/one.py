"""One target under the coverage-guided fuzzer: `python -m tests.fuzz.one NAME FINDINGS [libFuzzer's arguments]`.

A finding is written to the folder FINDINGS with its traceback, one for each place in the code, and the run goes on.
What ends the process or takes longer than libFuzzer's -timeout is in libFuzzer's own `crash-`, `oom-` or `timeout-`
file there.
"""

import hashlib
import logging
import resource
import sys
import time
import traceback
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["thinwire"], exclude=["thinwire.shared.wire"]):
    from tests.fuzz.all_targets import TARGETS

MOST_SECONDS = 5.0
"""Of processor time, for one input."""
MOST_BYTES = 400 << 20
"""By which one input may raise the peak of the process's memory."""


class Finder:
    """Calls a target and writes down what it must not do."""

    def __init__(self, name: str, folder: Path) -> None:
        self._target = TARGETS[name]
        self._folder = folder
        self._places: set[str] = set()

    def __call__(self, data: bytes) -> None:
        peak, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        try:
            self._target(data)
        except Exception as error:  # noqa: BLE001 - any exception is a finding
            place = traceback.extract_tb(error.__traceback__)[-1]
            self._write(
                f"{type(error).__name__}-{Path(place.filename).stem}-{place.lineno}", data, traceback.format_exc()
            )
        seconds = time.process_time() - started
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) << 10
        if seconds > MOST_SECONDS:
            self._write("slow", data, f"{seconds:.1f} s")
        if grown > MOST_BYTES:
            self._write("memory", data, f"{grown} bytes")

    def _write(self, place: str, data: bytes, why: str) -> None:
        if place in self._places:
            return
        self._places.add(place)
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"{place}-{hashlib.sha256(data).hexdigest()[:8]}"
        (self._folder / name).write_bytes(data)
        (self._folder / f"{name}.txt").write_text(why)


def main() -> None:
    name, folder, *arguments = sys.argv[1:]
    logging.disable()
    warnings.simplefilter("ignore")
    atheris.Setup([sys.argv[0], *arguments], Finder(name, Path(folder)))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
