"""A batch in this process."""

from collections.abc import Sequence
from pathlib import Path

from thinwire.receiver.batch.engine import Engine, Make, Results


class Loop:
    """The plain loop: an engine without workers."""

    room = 1

    def __init__(self, make: Make, folder: Path, names: Sequence[str]) -> None:
        assert all((folder / name).is_dir() for name in names)
        self._worker = make(folder)
        self._ready: list[tuple[object, Results | None]] = []

    def submit(self, payloads: Sequence[bytes]) -> object:
        ticket = object()
        self._ready.append((ticket, self._worker(payloads)))
        return ticket

    def done(self) -> list[tuple[object, Results | None]]:
        ready, self._ready = self._ready, []
        return ready

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        pass
