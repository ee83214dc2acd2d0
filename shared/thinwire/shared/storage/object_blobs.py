"""Blobs in an object store: <under>/ab/<SHA-256 hex>."""

import hashlib
from collections.abc import Iterator

from thinwire.shared.errors import BadFormat, StorageFailed
from thinwire.shared.identifiers import Digest, digest
from thinwire.shared.storage.blobs import Blobs, name_of
from thinwire.shared.storage.object_store import NOT_STORED, ObjectStore


class ObjectBlobs(Blobs):
    """under: the first part of their names, such as `blobs`."""

    def __init__(self, store: ObjectStore, under: str) -> None:
        self._store = store
        self._under = under

    def _at(self, name: Digest) -> str:
        return f"{self._under}/{name.hex()[:2]}/{name.hex()}"

    def write(self, data: bytes) -> Digest:
        name = digest(data)
        self._store.put(self._at(name), data, "store.blob")
        return name

    def copy_from(self, other: Blobs, name: Digest, step: str) -> int | None:
        try:
            data = other.read(name)
        except BadFormat:
            return None
        self._store.put(self._at(name), data, step)
        return len(data)

    def stream(self, name: Digest) -> Iterator[bytes]:
        return self._store.stream(self._at(name))

    def read(self, name: Digest) -> bytes:
        data = self._store.get(self._at(name))
        if data is None or digest(data) != name:
            raise BadFormat(
                "a stored part is damaged in the object store, or missing there", "Restore the bucket from its backup."
            )
        return data

    def size(self, name: Digest) -> int | None:
        return self._store.size(self._at(name))

    def is_whole(self, name: Digest, size: int | None = None) -> bool:
        if size is not None and self.size(name) != size:
            return False
        return _content(self.stream(name)) == name

    def remove(self, name: Digest, step: str) -> None:
        del step  # of the disk: a store removes at once
        self._store.remove([self._at(name)])

    def move(self, name: Digest, target: Blobs, step: str) -> None:
        assert isinstance(target, ObjectBlobs)
        del step
        self._store.copy(self._at(name), target._at(name))
        # A damaged one has another content than its name says.
        if _content(self.stream(name)) != _content(target.stream(name)):
            raise StorageFailed("an object and its copy in the object store differ", NOT_STORED)
        self._store.remove([self._at(name)])

    def pages(self) -> Iterator[list[Digest]]:
        for page in self._store.pages(self._under):
            yield [name for each in page if (name := name_of(each.name)) is not None]

    def remove_unfinished(self) -> int:
        """Nothing is half-written: an object is there whole, or not at all."""
        return 0


def _content(pieces: Iterator[bytes]) -> bytes | None:
    """SHA-256; None of an object that is missing."""
    found = None
    for piece in pieces:
        found = found or hashlib.sha256()
        found.update(piece)
    return None if found is None else found.digest()
