"""Durable writes, which survive a power cut: write, fsync, rename, fsync of the folder.

Every act calls `Disk.step(name)`, so that a test can simulate a power cut exactly there.
"""

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from thinwire.shared.errors import BadConfiguration, DiskFull, reason_of


def _no_step(name: str) -> None:
    """The step function of production: no effect."""


class Disk:
    """All durable writes of thinwire.

    step: called with a name before and after each act; tests end the process in it.
    reserve: bytes that must stay free on the file system after a write; less raises DiskFull before writing.
    """

    default_step: Callable[[str], None] = staticmethod(_no_step)

    def __init__(self, step: Callable[[str], None] | None = None, reserve: int = 16 << 20) -> None:
        self.step = step or type(self).default_step
        self.reserve = reserve

    def free(self, folder: Path) -> int:
        """Bytes that may still be written under `folder` before the reserve is touched; never negative."""
        status = os.statvfs(folder)
        return max(0, status.f_bavail * status.f_frsize - self.reserve)

    def make_folder(self, folder: Path) -> None:
        """Create `folder` (0700) and its missing parents durably."""
        missing = [f for f in (folder, *folder.parents) if not f.exists()]
        for each in reversed(missing):
            each.mkdir(mode=0o700, exist_ok=True)
            self.sync_folder(each.parent)

    def write(self, path: Path, data: bytes, name: str, mode: int = 0o600) -> None:
        """Replace `path` by `data`, atomically and durably. Steps: name.before_write, .before_fsync,
        .before_rename, .before_folder_fsync, .done. Several writers may replace one path at once: the last one's data
        stays. Raises DiskFull; then `path` is as it was."""
        with self.full_is_an_error():
            if self.free(path.parent) < len(data):
                raise DiskFull(f"no space for {len(data)} bytes")
            self.step(f"{name}.before_write")
            # Another thread or process may write the same path now; `sweep` finds the name.
            beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
            try:
                handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
                try:
                    with os.fdopen(handle, "wb", closefd=False) as file:
                        file.write(data)
                    self.step(f"{name}.before_fsync")
                    os.fsync(handle)
                finally:
                    os.close(handle)
                self.step(f"{name}.before_rename")
                beside.replace(path)
            except OSError:
                beside.unlink(missing_ok=True)
                raise
            self.step(f"{name}.before_folder_fsync")
            self.sync_folder(path.parent)
        self.step(f"{name}.done")

    def move(self, source: Path, target: Path, name: str) -> None:
        """Rename durably within one file system."""
        self.step(f"{name}.before_rename")
        source.replace(target)
        self.step(f"{name}.before_folder_fsync")
        self.sync_folder(target.parent)
        if source.parent != target.parent:
            self.sync_folder(source.parent)
        self.step(f"{name}.done")

    def adopt(self, source: Path, target: Path, name: str) -> None:
        """Make a file of another writer durable under `target`, within one file system. Steps:
        name.before_fsync, and those of `move`."""
        self.step(f"{name}.before_fsync")
        with self.full_is_an_error():
            handle = os.open(source, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        self.move(source, target, name)

    def remove(self, path: Path, name: str) -> None:
        """Remove a file durably; a missing file is not an error, since a repeat after a power cut does not find it."""
        self.step(f"{name}.before_remove")
        path.unlink(missing_ok=True)
        self.sync_folder(path.parent)
        self.step(f"{name}.done")

    @staticmethod
    def sync_folder(folder: Path) -> None:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    @staticmethod
    @contextlib.contextmanager
    def full_is_an_error() -> Iterator[None]:
        """Turn the system's "no space" error into DiskFull."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise DiskFull(f"the disk is full ({reason_of(error)})") from error
            raise


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, with the same suffix, that replaces `path` at the end.

    So `path` is complete or unchanged, but not durable.
    """
    beside = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        yield beside
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def sweep(folder: Path) -> int:
    """Remove the half-written files that a power cut left under `folder`; returns their number."""
    left = list(folder.rglob(".*.tmp"))
    for each in left:
        each.unlink(missing_ok=True)
    return len(left)


@contextlib.contextmanager
def flock(path: Path, how: int) -> Iterator[None]:
    """Hold a lock on a file, which is created if missing. how: as for fcntl.flock.

    Raises BlockingIOError, DiskFull; BadConfiguration where the folder cannot be written.
    """
    try:
        with Disk.full_is_an_error():
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise BadConfiguration(
            "the data folder cannot be written", "Run the command as the user who owns the folder, on a writable disk."
        ) from error
    try:
        fcntl.flock(handle, how)
        yield
    finally:
        os.close(handle)
