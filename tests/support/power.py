"""Power cuts at named steps, and a disk that then loses bytes that were not made durable."""

from collections.abc import Callable
from pathlib import Path

from thinwire.shared.storage.durable import Disk


class PowerCut(BaseException):
    """The power is gone: nothing may catch this but the test."""


class Fuse:
    """Counts the steps that pass and cuts the power at one of them.

    at: (name of the step, its n-th pass from 1), None for never. Once cut, every step cuts.
    """

    def __init__(self, at: tuple[str, int] | None = None) -> None:
        self.at = at
        self.passed: list[str] = []
        self.blown = False

    def __call__(self, name: str) -> None:
        self.passed.append(name)
        if self.blown or (self.at and self.at[0] == name and self.passed.count(name) == self.at[1]):
            self.blown = True
            raise PowerCut(name)


class Cutoff(Fuse):
    """Cuts the power after so many steps, whatever they are."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def __call__(self, name: str) -> None:
        self.blown = self.blown or len(self.passed) >= self.steps
        super().__call__(name)


class LossyDisk(Disk):
    """Loses at a power cut what the file system may lose: the bytes of a file before fsync, a rename before the
    folder's fsync. lossy=False keeps it all, as a killed process does."""

    def __init__(self, step: Callable[[str], None], lossy: bool = True, reserve: int = 0) -> None:
        super().__init__(step, reserve)
        self.lossy = lossy

    def write(self, path: Path, data: bytes, name: str, mode: int = 0o600) -> None:
        before = path.read_bytes() if path.exists() else None
        try:
            super().write(path, data, name, mode)
        except PowerCut as cut:
            if self.lossy and str(cut).endswith(".before_fsync"):
                for half in path.parent.glob(f".{path.name}.*.tmp"):
                    half.write_bytes(b"\0" * (len(data) // 2))
            if self.lossy and str(cut).endswith(".before_folder_fsync"):
                path.unlink() if before is None else path.write_bytes(before)
            raise

    def move(self, source: Path, target: Path, name: str) -> None:
        try:
            super().move(source, target, name)
        except PowerCut as cut:
            if self.lossy and str(cut).endswith(".before_folder_fsync"):
                target.replace(source)
            raise
