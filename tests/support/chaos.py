"""Run a command line in which any loop may meet any error in any item, while a file exists.

    python -m tests.support.chaos FLAG SEED -- thinwire-sender run --data clinic

Each site is work on one item, or a query of a loop. While FLAG is there, the first call of each raises, and others at
random, errors of a random kind; and some studies are poisoned: the work on them raises at one site every time. Pauses
are short. Every error is noted beside FLAG, one line each.
"""

import errno
import importlib
import random
import sqlite3
import sys
import threading
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from sqlalchemy.exc import OperationalError

from tests.support.crash_at import MAINS
from thinwire.shared.errors import DiskFull, StorageFailed
from thinwire.shared.identifiers import StudyKey, digest, study_key

RATE, LOOP_RATE = 0.02, 0.003
"""Of work on one study, and of all else: a stream has many such calls, and each error ends it."""
POISONED = 4
"""One of so many studies."""
SECRET = "SYNTHETIC^NAME"
"""In the text of every error, as a library's may quote a value: no log may have it."""
KINDS: tuple[Callable[[], Exception], ...] = (
    lambda: OSError(errno.EIO, SECRET, SECRET),
    lambda: OSError(errno.ENOSPC, SECRET, SECRET),
    lambda: OSError(errno.EROFS, SECRET, SECRET),
    lambda: PermissionError(errno.EACCES, SECRET, SECRET),
    lambda: FileNotFoundError(errno.ENOENT, SECRET, SECRET),
    lambda: MemoryError(SECRET),
    lambda: ValueError(SECRET),
    lambda: KeyError(SECRET),
    lambda: IndexError(SECRET),
    lambda: AssertionError(SECRET),
    lambda: RecursionError(SECRET),
    lambda: UnicodeDecodeError("utf-8", SECRET.encode(), 0, 1, SECRET),
    lambda: sqlite3.OperationalError(SECRET),
    lambda: OperationalError(SECRET, (), sqlite3.OperationalError(SECRET)),
    lambda: DiskFull("the disk is full"),
    lambda: StorageFailed("the disk fails"),
)
Of = Callable[..., StudyKey]
"""The study of a call, by its arguments."""


def _file(path: Path) -> StudyKey:
    return study_key([digest(path.read_bytes())])


OF_STUDY: dict[str, dict[str, Of]] = {
    "thinwire-sender": {
        "thinwire.sender.watching:_digest": _file,
        "thinwire.sender.service:_accept_study": lambda _pipeline, _quarantine, files, *_: _file(files.paths[0]),
        "thinwire.sender.pipeline:Pipeline.make": lambda _self, study, _kind: study,
        "thinwire.sender.outbox.outbox:Outbox.check_stored": lambda _self, study: study,
        "thinwire.sender.outbox.outbox:Outbox.may_offer": lambda _self, due: (
            StudyKey(b"") if due.kind is None else due.study
        ),
        "thinwire.sender.outbox.outbox:Outbox.record_receipt": lambda self, signed: self.verified(signed).study,
    },
    "thinwire-receiver": {
        "thinwire.receiver.pipeline:HubPipeline.put": lambda _self, _site, _object, header, *_: header.study,
        "thinwire.receiver.pipeline:decode": lambda _payload, study, _coder: study,
        "thinwire.receiver.pipeline:HubPipeline._triage": lambda _self, pending, *_: pending.study,
    },
}
"""Work on one study."""
OF_LOOP: dict[str, tuple[str, ...]] = {
    "thinwire-sender": (
        "thinwire.sender.outbox.outbox:Outbox.next_missing",
        "thinwire.sender.outbox.outbox:Outbox.due",
        "thinwire.sender.outbox.outbox:Outbox.read",
        "thinwire.sender.outbox.watched_files:WatchedFiles.all",
        "thinwire.sender.outbox.watched_files:WatchedFiles.remember",
        "thinwire.sender.transport.session:UplinkSession.receive",
        "thinwire.sender.transport.link_status:write_status",
        "thinwire.shared.parked:ParkedItems.waits",
        "thinwire.shared.storage.database:Database.read",
        "thinwire.shared.storage.database:Database.write",
        "thinwire.shared.storage.database:Changes.seen",
    ),
    "thinwire-receiver": (
        "thinwire.receiver.inference.mpnn:Predictor.read",
        "thinwire.receiver.store.store:Store.admit",
        "thinwire.receiver.store.store:Store.blob",
        "thinwire.receiver.store.store:Store.receipts_after",
        "thinwire.receiver.store.store:Store.record_delivered",
        "thinwire.receiver.store.store:Store.stored_receipt",
        "thinwire.receiver.store.store:Store.untriaged",
        "thinwire.receiver.transport.inbox:FolderInbox.open",
        "thinwire.receiver.transport.inbox:FilePartial.sync",
        "thinwire.receiver.transport.service:HubServer.links",
        "thinwire.shared.parked:ParkedItems.waits",
        "thinwire.shared.storage.database:Database.read",
        "thinwire.shared.storage.database:Database.write",
    ),
}
"""Queries, and work of which the item is not known."""
PAUSES = {
    "thinwire.shared.parked": {"FIRST_PAUSE": 0.5, "LONGEST_PAUSE": 2.0},
    "thinwire.sender.service": {"STUCK_SECONDS": 0.5},
    "thinwire.sender.transport.connection": {"FIRST_PAUSE": 0.2, "LONGEST_PAUSE": 1.0},
    "thinwire.receiver.pipeline": {"PAUSE": 0.5, "POLL_SECONDS": 1.0},
    "thinwire.receiver.transport.service": {"DRAIN_SECONDS": 0.5},
}


def site_of(seed: int, end: str, study: StudyKey) -> str | None:
    """Where a study is poisoned; None for most."""
    sites = list(OF_STUDY[end])
    place = int.from_bytes(digest(f"{seed} {end}".encode() + study)[:4], "big") % (POISONED * len(sites))
    return sites[place] if place < len(sites) else None


def arm(flag: Path, seed: int, end: str) -> None:
    """Let the sites of one end raise in this process."""
    chance, lock, note = random.Random(seed), threading.Lock(), flag.with_suffix(".errors")

    def wrap(site: str, of: Of | None) -> None:
        module, _, name = site.partition(":")
        holder: Any = importlib.import_module(module)
        *outer, last = name.split(".")
        for each in outer:
            holder = getattr(holder, each)
        act = getattr(holder, last)
        first = [True]

        @wraps(act)
        def perhaps(*given: Any, **more: Any) -> Any:
            if flag.exists():
                with lock:
                    fails = chance.random() < (LOOP_RATE if of is None else RATE)
                    if first:
                        fails = first.pop()
                    error = chance.choice(KINDS)()
                if fails or (of is not None and site_of(seed, end, of(*given, **more)) == site):
                    with lock, note.open("a") as file:
                        file.write(f"{site} {type(error).__name__}\n")
                    raise error
            return act(*given, **more)

        setattr(holder, last, perhaps)

    for site, of in OF_STUDY[end].items():
        wrap(site, of)
    for site in OF_LOOP[end]:
        wrap(site, None)
    for module, values in PAUSES.items():
        if module.split(".")[1] in (end.removeprefix("thinwire-"), "shared"):
            for name, value in values.items():
                setattr(importlib.import_module(module), name, value)


def main(arguments: list[str]) -> None:
    if len(arguments) < 4 or arguments[2] != "--" or arguments[3] not in MAINS:
        raise SystemExit(__doc__)
    arm(Path(arguments[0]), int(arguments[1]), arguments[3])
    sys.argv = arguments[3:]
    importlib.import_module(MAINS[arguments[3]]).main()


def launcher(flag: Path, seed: int) -> tuple[str, ...]:
    """The words that start a command in this way."""
    return (sys.executable, "-m", "tests.support.chaos", str(flag), str(seed), "--")


if __name__ == "__main__":
    main(sys.argv[1:])
