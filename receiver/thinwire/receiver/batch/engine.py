"""A batch of payloads through workers: in processes of this machine, or on a Ray cluster (`ray_cluster`).

Workers get bytes and give results; they have no database, no key and no name of a study. Only the process that reads
the batch writes: a worker that dies has then changed nothing, and whoever holds a cluster's machines can read what is
in a graph, and nothing else of the hub.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol, TypeVar

from thinwire.shared.errors import ThinwireError, told

NICENESS = 15
"""Of the processes, as Ray has it too: a `serve` beside the batch goes first."""
CHUNK = 64
"""Payloads that a worker gets at a time; a batch of the network."""
Results = list[Any]
"""One for each payload, in order; `Refused` for one that cannot be used."""
Worker = Callable[[Sequence[bytes]], Results]
Make = Callable[[Path], Worker]
"""Makes a worker in its process from a folder of bundles, whose files it loads at once: on another machine the folder
is gone afterwards. Pickled."""
Key = TypeVar("Key")


@dataclass(frozen=True)
class Refused:
    """Why one payload has no result, and what a person can do."""

    reason: str
    remedy: str = "Report it, with the version of thinwire; its graph is in `export`."

    @classmethod
    def of(cls, error: Exception) -> "Refused":
        if isinstance(error, ThinwireError):
            return cls(str(error), error.remedy)
        return cls(told(error))


class Engine(Protocol):
    """Workers that take chunks of payloads. For one thread. A context manager: its end stops the workers."""

    def __init__(self, make: Make, folder: Path, names: Sequence[str]) -> None:
        """names: the folders in `folder` that a worker needs."""

    @property
    def room(self) -> int:
        """Chunks that may be under way at once, so that no worker waits and memory is bounded."""

    def submit(self, payloads: Sequence[bytes]) -> object:
        """Begin a chunk; returns its ticket."""

    def done(self) -> list[tuple[object, Results | None]]:
        """Wait for at least one chunk: (ticket, results), None where the process that had it died."""

    def __enter__(self) -> "Engine": ...

    def __exit__(self, *_: object) -> None: ...


Start = Callable[[Make, Path, Sequence[str]], Engine]
"""Starts the workers, as `Engine`."""
Count = Callable[[int, int], None]
"""Draws progress: (done, total)."""


def outcomes(engine: Engine, payloads: Iterable[tuple[Key, bytes]], chunk: int = CHUNK) -> Iterator[tuple[Key, Any]]:
    """(key, result) of every payload, in the order in which they are ready.

    The payloads of a chunk whose worker died come again one by one. One that kills its worker again is refused, so that
    it is named and stops nothing else. Memory: `room` chunks.
    """
    source = iter(payloads)
    again: deque[list[tuple[Key, bytes]]] = deque()
    under_way: dict[object, list[tuple[Key, bytes]]] = {}
    while True:
        while len(under_way) < engine.room:
            part = again.popleft() if again else list(islice(source, chunk))
            if not part:
                break
            under_way[engine.submit([payload for _, payload in part])] = part
        if not under_way:
            return
        for ticket, results in engine.done():
            part = under_way.pop(ticket)
            if results is not None:
                yield from zip((key for key, _ in part), results, strict=True)
            elif len(part) > 1:
                again.extend([each] for each in part)
            else:
                yield part[0][0], Refused("the process that read it died")


class Processes:
    """Processes of this machine, one core each."""

    def __init__(self, make: Make, folder: Path, names: Sequence[str] = (), workers: int | None = None) -> None:
        """workers: None is one for each core that this process may use."""
        del names  # the folder itself is here
        self._make, self._folder = make, folder
        self._pools = [self._pool() for _ in range(workers or cores())]
        self._free = deque(self._pools)
        self._under_way: dict[Future[Results], ProcessPoolExecutor] = {}

    @property
    def room(self) -> int:
        return len(self._pools)

    def submit(self, payloads: Sequence[bytes]) -> object:
        pool = self._free.popleft()
        future = pool.submit(_run, payloads)
        self._under_way[future] = pool
        return future

    def done(self) -> list[tuple[object, Results | None]]:
        ready, _ = wait(self._under_way, return_when=FIRST_COMPLETED)
        found: list[tuple[object, Results | None]] = []
        for future in ready:
            pool = self._under_way.pop(future)
            try:
                found.append((future, future.result()))
            except BrokenProcessPool:
                # A pool of one process each: the death of one says which chunk it had.
                pool.shutdown()
                self._pools.remove(pool)
                pool = self._pool()
                self._pools.append(pool)
                found.append((future, None))
            self._free.append(pool)
        return found

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        for pool in self._pools:
            pool.shutdown(cancel_futures=True)

    def _pool(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, get_context("spawn"), initializer=_begin, initargs=(self._make, self._folder))


def cores() -> int:
    return len(os.sched_getaffinity(0))


_given: list[tuple[Make, Path]] = []
"""In a process of a pool: the one way to make its worker."""


def _begin(make: Make, folder: Path) -> None:
    os.nice(NICENESS)
    _given.append((make, folder))


@cache
def _worker() -> Worker:
    """Made with the first chunk, so that a bundle that cannot be loaded is that chunk's error and no dead process."""
    make, folder = _given[0]
    return make(folder)


def _run(payloads: Sequence[bytes]) -> Results:
    return _worker()(payloads)
