"""`move`: a hub with SQLite and a folder goes to PostgreSQL and an object store. Use: docs/administration.md.

The hub stays as it is until every blob and every row is at the new place and compared; then its settings name the new
place. A move that was stopped is repeated and goes on.
"""

from collections.abc import Callable
from pathlib import Path

from pydantic import SecretStr
from sqlalchemy import Connection

from thinwire.receiver.config import FILE, load_settings, with_state
from thinwire.receiver.hub import (
    blobs_of,
    bring_forward,
    objects_of,
    offline_lock,
    place_of,
    serving_lock,
)
from thinwire.receiver.operations.backup import COPY, Copied, copy_blobs, set_aside
from thinwire.receiver.operations.database_copy import is_copied, read_file, reading
from thinwire.receiver.sites.keyring import load_keyring
from thinwire.receiver.store.bucket_owner import claim
from thinwire.shared.clock import Clock
from thinwire.shared.errors import BadConfiguration
from thinwire.shared.storage.blobs import FolderBlobs
from thinwire.shared.storage.durable import Disk
from thinwire.shared.storage.migrations import alone_in
from thinwire.shared.storage.rows import Progress


def move(
    data: Path,
    database: str,
    blobs: str,
    disk: Disk,
    clock: Clock,
    also: Callable[[Connection], object],
    progress: Progress,
) -> Copied:
    """Move the hub in `data`; `serve` is stopped. database, blobs: URLs. also: called in the transaction after which
    the new place holds the hub.

    The SQLite file is kept in DATA/replaced, and DATA/blobs stays. Objects in transfer start again. Raises
    BadConfiguration for a hub that is not in its folder, for a database that is not empty, and for a URL that cannot be
    used; BadFormat if the rows differ; DiskFull, DatabaseBusy, ObjectStoreBusy: what is copied stays.
    """
    bring_forward(data, disk)
    with serving_lock(data), offline_lock(data), alone_in(database, COPY):
        settings = load_settings(data)
        path = place_of(data, settings)
        if not isinstance(path, Path) or settings.blobs is not None:
            raise BadConfiguration(
                "the hub is not in its data folder",
                "It has been moved: start `serve`. If the environment names the new place, unset it for the move.",
            )
        text = with_state((data / FILE).read_text(encoding="utf-8"), database=database, blobs=blobs)
        new = settings.model_copy(update={"database": SecretStr(database), "blobs": blobs})
        objects = objects_of(new, disk)
        assert objects is not None
        claim(objects, load_keyring(data / "keys").signing)
        done, target = Copied(), blobs_of(objects, data, disk)
        source = FolderBlobs(data / "blobs", disk)
        with reading(path, immutable=False) as rows:
            copy_blobs(rows, source, target, done, progress)
        # Blobs without a row may be the last copies of parts that a restored database does not name.
        for page in source.pages():
            for name in page:
                if target.size(name) is None:
                    target.copy_from(source, name, "move.blob")
        for each in sorted((data / "quarantine").rglob("*")):
            if each.is_file() and not each.name.startswith("."):
                objects.put(each.relative_to(data).as_posix(), each.read_bytes(), "move.quarantine")
        # A move that was stopped after its last row and before the settings has nothing more to copy.
        if not is_copied(path, database):
            read_file(path, database, also, progress)
        disk.step("move.copied")
        disk.write(data / FILE, text.encode(), "move.settings")
        set_aside(data, disk, clock)
    return done
