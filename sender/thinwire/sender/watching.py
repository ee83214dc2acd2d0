"""The watched folder: each file is followed by itself until it rests, and is taken once.

Changes are told by the system where it can (inotify) and found by looks at the whole folder, which take at most SHARE
of a core: a network share tells of no change by another machine. Links, devices, FIFOs and sockets are passed over.
"""

import contextlib
import hashlib
import logging
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from watchdog.events import (
    FileClosedEvent,
    FileCreatedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer

from thinwire.sender.outbox.watched_files import Stamp, Taken, WatchedFiles
from thinwire.shared.clock import Clock
from thinwire.shared.errors import StorageFailed, reason_of
from thinwire.shared.identifiers import Digest
from thinwire.shared.imaging.dicom import DEFAULT_LIMITS

log = logging.getLogger(__name__)

QUIET_SECONDS = 3.0
"""Seconds without a change after which a file rests. After each refusal in a row they double, up to LONGEST_QUIET: a
log is not copied to quarantine with each line."""
LONGEST_QUIET = 3600.0
PATIENCE_SECONDS = 30.0
"""Longest time that a file at rest waits for another one in its folder that still changes: both may be of one study."""
SHARE = 0.02
"""Most of a core that looks at the whole folder take."""
LEAST_PAUSE, LONGEST_PAUSE = 2.0, 300.0
"""Seconds between two such looks."""
MOST_TAKEN = 1000
"""Files that are handed over at a time."""
_CHUNK = 1 << 20
_EVENTS: list[type[FileSystemEvent]] = [FileCreatedEvent, FileModifiedEvent, FileMovedEvent, FileClosedEvent]


@dataclass(frozen=True)
class FileAtRest:
    path: Path
    name: bytes
    stamp: Stamp
    digest: Digest
    """SHA-256 of its content, at most as much as a study's file may have."""
    refusals: int
    """In a row, before now."""

    @property
    def item(self) -> str:
        """In the list of parked items."""
        return _item(self.name, self.stamp)


@dataclass
class _Followed:
    """A file that differs from what was taken."""

    stamp: Stamp
    changed: float
    """Monotonic seconds of its last change."""
    first: float
    """The same, since when it is followed."""
    quiet: float
    taken: Taken | None


class WatchedFolder:
    """folder: must exist. For one thread at a time, except `note`."""

    def __init__(self, folder: Path, memory: WatchedFiles, clock: Clock) -> None:
        self.folder = folder
        self._memory = memory
        self._clock = clock
        self._followed: dict[str, _Followed] = {}
        """By path below the folder."""
        self._noted: set[str] = set()
        self._lock = Lock()
        self._next_look = 0.0

    @property
    def is_due(self) -> bool:
        """Whether `look` has something to do now."""
        now = self._clock.monotonic()
        return bool(self._noted) or now >= self._next_look or any(_rests(each, now) for each in self._followed.values())

    def note(self, path: str) -> None:
        """Something happened to a file. From any thread."""
        with self._lock:
            self._noted.add(path)

    def look(self) -> list[OSError]:
        """Follow what changed: the noted files, and at times the whole folder. Returns the errors of folders in it that
        cannot be read. Raises OSError for the folder itself."""
        with self._lock:
            noted, self._noted = self._noted, set()
        for path in noted:
            with contextlib.suppress(ValueError, OSError):
                self._note(os.path.relpath(path, self.folder))
        if self._clock.monotonic() < self._next_look:
            return []
        began = self._clock.monotonic()
        errors = self._look_at_all()
        now = self._clock.monotonic()
        self._next_look = now + min(max((now - began) / SHARE, LEAST_PAUSE), LONGEST_PAUSE)
        return errors

    def at_rest(self, parked: Collection[str]) -> list[str]:
        """The paths of followed files that rest and may be taken now, at most MOST_TAKEN. parked: `item_of` of those
        that may not."""
        now = self._clock.monotonic()
        for path in [path for path, each in self._followed.items() if _rests(each, now)]:
            self._follow(path, self._stamp(path), self._followed[path].taken)
        restless = {
            _folder(path)
            for path, each in self._followed.items()
            if not _rests(each, now) and now - each.first < PATIENCE_SECONDS
        }
        ready = []
        for path, each in sorted(self._followed.items()):
            waited = _folder(path) not in restless or now - each.changed >= each.quiet + PATIENCE_SECONDS
            if _rests(each, now) and waited and self.item_of(path) not in parked:
                ready.append(path)
        return ready[:MOST_TAKEN]

    def item_of(self, path: str) -> str:
        """A file in the list of parked items: another one when its content changes."""
        return _item(self._memory.name(path), self._followed[path].stamp)

    def items(self) -> set[str]:
        """Of all files that are followed."""
        return {self.item_of(path) for path in self._followed}

    def read(self, path: str) -> FileAtRest | None:
        """A file at rest; None if it is gone, or has the content that was taken already. Raises StorageFailed."""
        followed, whole = self._followed[path], self.folder / path
        try:
            digest = _digest(whole)
        except FileNotFoundError:
            del self._followed[path]
            return None
        except OSError as error:
            raise StorageFailed(
                f"a file cannot be read ({reason_of(error)})",
                f"Find it with: find FOLDER -inum {followed.stamp.inode}; see who may read it.",
            ) from error
        taken = followed.taken
        if taken is not None and taken.digest == digest:
            self._memory.remember({self._memory.name(path): Taken(followed.stamp, digest, taken.refusals)})
            del self._followed[path]
            return None
        refusals = 0 if taken is None else taken.refusals
        return FileAtRest(whole, self._memory.name(path), followed.stamp, digest, refusals)

    def remember(self, files: Iterable[FileAtRest], refused: bool) -> None:
        """These files were taken: durable when this returns. A file that changed meanwhile is followed on."""
        files = list(files)
        rows = {each.name: Taken(each.stamp, each.digest, each.refusals + 1 if refused else 0) for each in files}
        self._memory.remember(rows)
        for each in files:
            path = os.path.relpath(each.path, self.folder)
            del self._followed[path]
            self._follow(path, self._stamp(path), rows[each.name])

    def _look_at_all(self) -> list[OSError]:
        known, errors = self._memory.all(), list[OSError]()
        back = []
        for path, stamp in _files(str(self.folder), errors):
            name = self._memory.name(path)
            taken = known.pop(name, None)
            if taken is not None and taken.gone:
                back.append(name)
            self._follow(path, stamp, taken)
        # A folder that cannot be read has its files still.
        gone = [] if errors else [name for name, taken in known.items() if not taken.gone]
        self._memory.seen(gone, back)
        return errors

    def _note(self, path: str) -> None:
        if not any(part.startswith(".") for part in Path(path).parts):  # hidden, or not below the folder
            self._follow(path, self._stamp(path), self._memory.of(self._memory.name(path)))

    def _stamp(self, path: str) -> Stamp | None:
        """None for a file that is gone, or is no file."""
        try:
            return _stamp_of((self.folder / path).lstat())
        except OSError:
            return None

    def _follow(self, path: str, stamp: Stamp | None, taken: Taken | None) -> None:
        if stamp is None or (taken is not None and taken.stamp == stamp):
            self._followed.pop(path, None)
            return
        before, now = self._followed.get(path), self._clock.monotonic()
        if before is None:
            quiet = min(QUIET_SECONDS * 2.0 ** (taken.refusals if taken else 0), LONGEST_QUIET)
            self._followed[path] = _Followed(stamp, now, now, quiet, taken)
        elif before.stamp != stamp:
            before.stamp, before.changed = stamp, now


@contextlib.contextmanager
def notifications(watched: WatchedFolder) -> Iterator[None]:
    """While the block runs, changes in the folder are noted. Where the system tells of none, as with too many folders,
    they are found by looks alone."""

    class Handler(FileSystemEventHandler):
        def on_any_event(self, event: FileSystemEvent) -> None:
            for path in (event.src_path, event.dest_path):
                if path:
                    watched.note(os.fsdecode(path))

    observer = Observer()
    observer.schedule(Handler(), str(watched.folder), recursive=True, event_filter=_EVENTS)
    try:
        observer.start()
    except OSError as error:
        log.warning("the system tells of no change in the watched folder (%s): it is looked through", reason_of(error))
        yield
        return
    try:
        yield
    finally:
        observer.stop()
        observer.join()


def _item(name: bytes, stamp: Stamp) -> str:
    return f"{name.hex()}-{hash(stamp) & 0xFFFFFFFF:08x}"


def _folder(path: str) -> str:
    return os.path.dirname(path)  # noqa: PTH120 - for each of 100,000 files


def _rests(followed: _Followed, now: float) -> bool:
    return now - followed.changed >= followed.quiet


def _files(root: str, errors: list[OSError]) -> Iterator[tuple[str, Stamp]]:
    """Every regular file below a folder, by its path there, without hidden ones. errors: of folders that cannot be
    read. Raises OSError for the folder itself."""
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(os.path.join(root, folder)) as entries:  # noqa: PTH118 - with the facts of each
                for entry in entries:
                    if entry.name.startswith(".") or entry.is_symlink():
                        continue
                    path = f"{folder}{os.sep}{entry.name}" if folder else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(path)
                        continue
                    with contextlib.suppress(FileNotFoundError):
                        stamp = _stamp_of(entry.stat(follow_symlinks=False))
                        if stamp is not None:
                            yield path, stamp
        except FileNotFoundError:
            if not folder:
                raise
        except OSError as error:
            if not folder:
                raise
            errors.append(error)


def _stamp_of(status: os.stat_result) -> Stamp | None:
    if not stat.S_ISREG(status.st_mode):
        return None
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ino & (1 << 63) - 1)


def _digest(path: Path) -> Digest:
    found, left = hashlib.sha256(), DEFAULT_LIMITS.file_bytes + 1
    # A FIFO that took the place of the file is not waited for, and a link that did is not followed.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        while left > 0 and (chunk := file.read(min(_CHUNK, left))):
            found.update(chunk)
            left -= len(chunk)
    return Digest(found.digest())
