"""The layout of a clinic's data folder in earlier versions, and where its files go.

Format: docs/outbox-format.md#earlier-versions.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from sqlalchemy import Connection, select

from thinwire.sender.outbox.tables import parts, studies, unreadable
from thinwire.sender.outbox.tiers import FORMER_NAMES
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.identifiers import DIGEST_BYTES, EPOCH_ID_BYTES, STUDY_KEY_BYTES, Digest
from thinwire.shared.storage.durable import Disk

SAFE_COPY = "earlier"
"""The folder of DATA to which the old files move."""
COLLECTING, COMPLETE = "", ".judging"
"""Suffixes of a study's folder in arrivals."""
NAME_BYTES = 16
"""Of a keyed name of an object or study, and of a request."""
_DONE = ".judged"
"""Suffix of a folder in arrivals that is only to be removed."""
_NEW = ".new-"
"""Prefix of a study in the outbox that is half accepted or half removed."""


def items(data: Path) -> Iterator[Path]:
    """The files of an earlier version; for a study in the outbox, its folder."""
    outbox, arrived = data / "outbox", data / "arrivals"
    yield from named(outbox, STUDY_KEY_BYTES, "")
    yield from (path for path in entries(outbox) if path.name.startswith(_NEW) or path.name in ("usage.json", "paused"))
    yield from named(outbox / "epochs", EPOCH_ID_BYTES, ".record")
    for suffix in (COLLECTING, COMPLETE, _DONE):
        for folder in named(arrived, NAME_BYTES, suffix):
            objects = list(named(folder, NAME_BYTES, ".dcm")) if suffix != _DONE else []
            yield from objects or [folder]
    yield from named(arrived / "ledger", NAME_BYTES, ".json")
    yield from named(arrived / "commitments", NAME_BYTES, ".json")
    yield from named(data / "quarantine", DIGEST_BYTES, ".json")


class Leftovers:
    """The old files, whose content is in the database: sealed ones are removed, the others move to the safe copy."""

    def __init__(self, data: Path, connection: Connection, disk: Disk) -> None:
        self._data = data
        self._connection = connection
        self._disk = disk
        self._unread = set(connection.execute(select(unreadable.c.path)).scalars())

    def move(self) -> None:
        """Nothing here must be durable: what a power cut brings back is moved by the next start."""
        arrived = self._data / "arrivals"
        emptied = (self._data / "outbox" / "epochs", arrived / "ledger", arrived / "commitments")
        for path in items(self._data):
            if path.relative_to(self._data).as_posix() in self._unread:
                continue
            if path.name.startswith(_NEW) or path.suffix == _DONE:
                shutil.rmtree(path)
            elif path.suffix == ".dcm":
                path.unlink()
                _remove_if_empty(path.parent)
            else:
                if path.parent.name == "outbox" and path.is_dir():
                    self._remove_sealed(path)
                if path.with_suffix(".announced").exists():
                    self._set_aside(path.with_suffix(".announced"))
                self._set_aside(path)
                if path.parent in emptied:
                    _remove_if_empty(path.parent)
            self._disk.step("earlier.moved")
        for folder in emptied:
            _remove_if_empty(folder)

    def _remove_sealed(self, folder: Path) -> None:
        study = bytes.fromhex(folder.name)
        source = self._connection.execute(select(studies.c.source).where(studies.c.study == study)).scalar()
        named = {} if source is None else {folder / "source.sealed": source}
        kept = select(parts.c.kind, parts.c.object).where(parts.c.study == study, parts.c.kept)
        named |= {sealed_file(folder, Kind(row.kind)): row.object for row in self._connection.execute(kept)}
        for path, object in named.items():
            if path.exists() and _same_size(path, blob_file(self._data, object)):
                path.unlink()
                self._disk.step("earlier.sealed_removed")
        for half in folder.glob(".*.tmp"):
            half.unlink()

    def _set_aside(self, path: Path) -> None:
        target = self._data / SAFE_COPY / path.relative_to(self._data)
        self._disk.make_folder(target.parent)
        number = 1
        while target.exists():  # an earlier version was run again on the folder
            number += 1
            target = target.with_name(f"{path.name}-{number}")
        path.rename(target)


def named(folder: Path, length: int, suffix: str) -> Iterator[Path]:
    """The entries of a folder whose names are so many bytes in hex before the suffix."""
    name = re.compile(rf"[0-9a-f]{{{2 * length}}}{re.escape(suffix)}")
    return (path for path in entries(folder) if name.fullmatch(path.name))


def entries(folder: Path) -> Iterable[Path]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as found:
        for each in found:
            yield Path(each.path)


def sealed_file(folder: Path, kind: Kind) -> Path:
    """The file of a part, under its former name if version 3 made it."""
    path = folder / f"{kind.name.lower()}.sealed"
    if kind in FORMER_NAMES and not path.exists():
        former = folder / f"{FORMER_NAMES[kind]}.sealed"
        return former if former.exists() else path
    return path


def blob_file(data: Path, name: Digest) -> Path:
    return data / "blobs" / name.hex()[:2] / name.hex()


def _same_size(first: Path, second: Path) -> bool:
    return second.exists() and first.stat().st_size == second.stat().st_size


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
