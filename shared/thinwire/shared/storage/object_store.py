"""An object store by URL: S3 and what speaks its protocol, Google Cloud Storage, Azure, or a folder (`file://`).

A put creates and never replaces a whole object, and is confirmed by what the store then has: a store that answers with
success and stores nothing, or something else, is found out before anything is acknowledged. Credentials are those of
the environment, as each provider's own tools read them.
"""

import hashlib
import io
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

from thinwire.shared.errors import BadConfiguration, DiskFull, ObjectStoreBusy, StorageFailed, ThinwireError
from thinwire.shared.storage.durable import Disk

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Client

PATIENCE, LONG_PATIENCE = timedelta(seconds=15), timedelta(minutes=10)
"""Limits of one request for up to LARGE bytes, and for more."""
LARGE = 8 << 20
READ_BACK = 1 << 20
"""Bytes up to which a stored object is read back: that costs no more than a look at its size and checksum."""
SILENCE = 5.0
"""Seconds without a request after one that was not answered: each would hold a thread as long as the first."""
PIECE = 1 << 20
"""Bytes of an object in memory while it is read in pieces."""
PAGE = 500
"""Names of objects in memory at a time."""

_RETRIES: Any = {
    "max_retries": 2,
    "retry_timeout": timedelta(seconds=10),
    "backoff": {"max_backoff": timedelta(seconds=1)},
}
NOT_STORED = "See the state of the object store itself. Nothing was acknowledged, and the clinics keep their studies."
_BUCKET = "Create the bucket, or correct `blobs` in config.toml. Nothing was acknowledged."
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist")
_FULL = re.compile(r"\b507\b|QuotaExceeded|StorageFull|InsufficientStorage|No space left|Disk quota")
_STATUS = re.compile(r"status code: (\d{3})")
_UNANSWERED = re.compile(r"status code: (?:408|429|5(?!07)\d\d)|kind: (?:Connect|Request|Timeout),")
"""Of an error that concerns every object, as the library's errors tell it: there is no other sign of the kind."""
_CUT = re.compile(r"kind: Interrupted,")


class StoredObject(NamedTuple):
    """One entry of a listing."""

    name: str
    modified: datetime
    """UTC, by the store's clock."""


class ObjectStore:
    """Safe from any thread. client, slow: the same place, with the limits PATIENCE and LONG_PATIENCE. folder: where
    the objects lie as files, whose writes are then made durable here. monotonic: seconds.

    Every method raises ObjectStoreBusy, StorageFailed, DiskFull; names have `/` between their parts.
    """

    def __init__(
        self,
        client: "Client",
        slow: "Client",
        disk: Disk,
        folder: Path | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._slow = slow
        self._disk = disk
        self._folder = folder
        self._monotonic = monotonic
        self._silent_until = 0.0
        self._first: Callable[[], object] | None = None
        self._proving = threading.RLock()
        self._is_proving = False

    def require(self, first: Callable[[], object]) -> None:
        """first: asks this store whether it is the right one, before the first other request; it raises if not, and is
        then called again before the next one."""
        self._first = first

    def prove(self) -> None:
        """Call what `require` was given, unless it returned before."""
        if self._first is None:
            return
        with self._proving:
            if self._is_proving or self._first is None:
                return
            self._is_proving = True
            try:
                self._first()
                self._first = None
            finally:
                self._is_proving = False

    def put(self, name: str, data: bytes, step: str) -> None:
        """Store an object, confirmed when this returns; one that is here with this content stays. Steps:
        step.before_put, .before_confirm, .done."""
        from obstore.exceptions import AlreadyExistsError

        client = self._slow if len(data) > LARGE else self._client
        self._disk.step(f"{step}.before_put")
        try:
            self._ask(client.put, name, data, mode="create", use_multipart=False)
        except AlreadyExistsError:
            # By another writer, or by this one, whose first answer was lost.
            if not self._holds(name, data):
                self._ask(client.put, name, data, mode="overwrite", use_multipart=False)
        self._make_durable(name)
        self._disk.step(f"{step}.before_confirm")
        if not self._holds(name, data):
            raise StorageFailed("the object store has something else than it was given", NOT_STORED)
        self._disk.step(f"{step}.done")

    def get(self, name: str) -> bytes | None:
        """The whole object; None if it is missing."""
        whole = io.BytesIO()  # its value is not copied
        found = False
        for piece in self.stream(name):
            found = True
            whole.write(piece)
        return whole.getvalue() if found else None

    def stream(self, name: str) -> Iterator[bytes]:
        """The object in pieces, at least one; none at all if it is missing."""
        try:
            answer = self._ask(self._slow.get, name)
        except FileNotFoundError:
            return
        pieces = iter(answer.stream(PIECE))
        if answer.meta["size"] == 0:
            yield b""
        while (piece := self._ask(next, pieces, None)) is not None:
            yield bytes(piece)

    def size(self, name: str) -> int | None:
        """Bytes; None if it is missing."""
        try:
            return int(self._ask(self._client.head, name)["size"])
        except FileNotFoundError:
            # The answer to HEAD has no body, which alone tells whether the whole bucket is missing.
            next(self.stream(name), None)
            return None

    def pages(self, under: str) -> Iterator[list[StoredObject]]:
        """The objects whose names begin with `under/`, at most PAGE at a time, in no certain order."""
        pages = iter(self._ask(self._client.list, under, chunk_size=PAGE))
        while (page := self._ask(next, pages, None)) is not None:
            yield [StoredObject(str(each["path"]), each["last_modified"]) for each in page]

    def copy(self, source: str, target: str) -> None:
        """Raises StorageFailed also if the source is missing."""
        try:
            self._ask(self._slow.copy, source, target)
        except FileNotFoundError:
            raise StorageFailed("an object was removed before its copy", "Repeat the command.") from None
        self._make_durable(target)

    def remove(self, names: Sequence[str]) -> None:
        """A missing one is not an error."""
        for start in range(0, len(names), PAGE):
            try:
                self._ask(self._client.delete, list(names[start : start + PAGE]))
            except FileNotFoundError:  # of a folder
                for each in names[start : start + PAGE]:
                    self._remove_one(each)

    def _remove_one(self, name: str) -> None:
        try:
            self._ask(self._client.delete, name)
        except FileNotFoundError:
            return

    def _holds(self, name: str, data: bytes) -> bool:
        """Whether the store has exactly these bytes. Larger ones are compared by the checksum that the store made of
        what it received, if it is an MD5, else read back too."""
        if len(data) > READ_BACK:
            try:
                found = self._ask(self._client.head, name)
            except FileNotFoundError:
                return False
            if found["size"] != len(data):
                return False
            if str(found["e_tag"]).strip('"') == hashlib.md5(data, usedforsecurity=False).hexdigest():
                return True
        at = 0
        for piece in self.stream(name):
            if data[at : at + len(piece)] != piece:
                return False
            at += len(piece)
        return at == len(data)

    def _make_durable(self, name: str) -> None:
        if self._folder is not None:
            path = self._folder / name
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
            for folder in path.parents[: len(path.parents) - len(self._folder.parents)]:
                self._disk.sync_folder(folder)

    def _ask(self, act: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """A request, with the store's errors as ours; FileNotFoundError and AlreadyExistsError are answers."""
        from obstore.exceptions import AlreadyExistsError, BaseError

        self.prove()
        if (wait := self._silent_until - self._monotonic()) > 0:
            raise ObjectStoreBusy(f"the object store did not answer; it is asked again in {wait:.0f} s")
        try:
            return act(*arguments, **named)
        except AlreadyExistsError:
            raise
        except FileNotFoundError as error:
            if _NO_BUCKET.search(str(error)):
                raise StorageFailed("the object store has no such bucket", _BUCKET) from None
            raise
        except (BaseError, OSError) as error:
            if _UNANSWERED.search(str(error)):
                self._silent_until = self._monotonic() + SILENCE
            # Without the cause, whose text has the address and may have a token.
            raise _as_ours(error) from None


def _as_ours(error: Exception) -> ThinwireError:
    from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

    text = str(error)
    if _FULL.search(text):
        return DiskFull("the object store is full", "Give it more space, or raise its quota. Nothing was acknowledged.")
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return StorageFailed(
            "the object store refuses this hub",
            "Correct the credentials in the environment and their rights: read, write, list and delete.",
        )
    status = f" (status {found[1]})" if (found := _STATUS.search(text)) else ""
    if _UNANSWERED.search(text):
        return ObjectStoreBusy(f"the object store does not answer{status or ' in time'}")
    if _CUT.search(text):
        return ObjectStoreBusy("an answer of the object store was cut off")
    return StorageFailed(f"the object store refuses a request, or its answer cannot be read{status}", NOT_STORED)


def object_store(url: str, disk: Disk, patience: timedelta = PATIENCE) -> ObjectStore:
    """The store at a URL, such as s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, abfss://CONTAINER@ACCOUNT.dfs.core.windows.net
    or file:///FOLDER. Nothing is asked of it yet. Raises BadConfiguration."""
    remedy = "Correct `blobs` in config.toml, or the variables of the object store in the environment."
    try:
        from obstore.exceptions import BaseError
        from obstore.store import LocalStore, from_url
    except ImportError:
        raise BadConfiguration("this installation has no object stores", "Install thinwire[cluster].") from None
    try:
        parts = urlsplit(url)
        if parts.password is not None or parts.query:
            raise BadConfiguration("the object store's URL holds a credential", remedy)
        if parts.scheme == "file":
            folder = Path(unquote(parts.path))
            disk.make_folder(folder)
            local = LocalStore(folder)
            return ObjectStore(local, local, disk, folder)
        more: dict[str, Any] = {"checksum_algorithm": "SHA256"} if parts.scheme in ("s3", "s3a") else {}
        client, slow = (
            from_url(url, client_options=_options(limit), retry_config=_RETRIES, **more)
            for limit in (patience, LONG_PATIENCE)
        )
    except (BaseError, ValueError):
        raise BadConfiguration("the object store's URL cannot be used", remedy) from None
    return ObjectStore(client, slow, disk)


def _options(limit: timedelta) -> Any:
    return {"timeout": limit, "allow_http": os.environ.get("AWS_ALLOW_HTTP", "").lower() == "true"}
