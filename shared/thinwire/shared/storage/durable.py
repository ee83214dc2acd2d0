"""Writing so that what was acknowledged survives a power cut: write, fsync, rename, fsync the folder.

Every act that matters passes `Disk.step(name)`, so that a test can cut the power exactly there.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from thinwire.shared.errors import DiskFull


def _no_step(name: str) -> None:
    """A step that nobody watches."""


class Disk:
    """The one way in which thinwire writes what must last.

    step: called with a name before and after each act; production does nothing there, tests end the process.
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
        """Create `folder` (0700) and its missing parents so that their names last."""
        missing = [f for f in (folder, *folder.parents) if not f.exists()]
        for each in reversed(missing):
            each.mkdir(mode=0o700, exist_ok=True)
            self.sync_folder(each.parent)

    def write(self, path: Path, data: bytes, name: str, mode: int = 0o600) -> None:
        """Replace `path` by `data`, atomically and durably. Steps: name.before_write, .before_fsync,
        .before_rename, .before_folder_fsync, .done. Raises DiskFull; then `path` is as it was."""
        with self.full_is_an_error():
            if self.free(path.parent) < len(data):
                raise DiskFull(f"no room for {len(data)} bytes")
            self.step(f"{name}.before_write")
            beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            try:
                handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
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
        """Make a file that another hand wrote durable under its own name, within one file system. Steps:
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
        """Remove a file durably; a missing one is no error, since a repeat after a power cut finds it gone."""
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
        """Turn the system's "no space" into DiskFull, which says what to do."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise DiskFull(f"the disk is full ({os.strerror(error.errno)})") from error
            raise


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A path beside `path`, with the same suffix, to write to; at the end it takes the place of `path`.

    So `path` is whole or as it was, but not durable.
    """
    beside = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        yield beside
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def sweep(folder: Path) -> int:
    """Remove the half-written files that a power cut left under `folder`; returns how many there were."""
    left = list(folder.rglob(".*.tmp"))
    for each in left:
        each.unlink(missing_ok=True)
    return len(left)


@contextlib.contextmanager
def flock(path: Path, how: int) -> Iterator[None]:
    """Hold a lock on a file that is made if need be. how: as for fcntl.flock. Raises BlockingIOError."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, how)
        yield
    finally:
        os.close(handle)
