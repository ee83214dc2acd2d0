"""`export --cohort`: the newest graph of every study as a data set for researchers, without identity.

A plan in the hub's own data folder lists the graphs under their random keys and says which shards are written, so that
a run that was killed goes on to the same cohort. It alone knows which study a key stands for, and is removed when the
cohort is whole: then nobody can go back from a key, not even the hub. Format: docs/researcher.md, Cohorts.
"""

import hashlib
import hmac
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Column, Integer, LargeBinary, MetaData, String, Table, delete, func, insert, select, tuple_
from sqlalchemy import literal as value

from thinwire.receiver.batch.engine import Count, Engine, Refused, Results, Start, Worker, outcomes
from thinwire.receiver.export.cohort_files import (
    FORMAT,
    MANIFEST,
    MODALITIES,
    NOBODY,
    NONE,
    SOURCES,
    VERSION,
    VIEWS,
    shard_bytes,
)
from thinwire.receiver.hub import Hub
from thinwire.receiver.inference.bundles import Bundles
from thinwire.receiver.store.newest_graphs import newest_graphs
from thinwire.shared.errors import BadBundle, BadConfiguration, BadFormat, UnknownBundle
from thinwire.shared.formats.payload import decode
from thinwire.shared.identifiers import BundleId, Digest
from thinwire.shared.storage.database import Database, engine_of
from thinwire.shared.storage.durable import Disk
from thinwire.shared.storage.object_store import object_store

log = logging.getLogger(__name__)

SHARD = 1000
"""Graphs in one file, which is in memory while it is made."""
KEY_BYTES = 16
NO_PATIENT = bytes(KEY_BYTES)

_PLAN = MetaData()
_facts = Table("facts", _PLAN, Column("name", String, primary_key=True), Column("value", LargeBinary, nullable=False))
_graphs = Table(
    "graphs",
    _PLAN,
    Column("bundle", LargeBinary(16), primary_key=True),
    Column("key", LargeBinary(KEY_BYTES), primary_key=True),
    Column("site", String(32), nullable=False),
    Column("blob", LargeBinary(32), nullable=False),
    Column("patient", LargeBinary(KEY_BYTES), nullable=False),
)
_shards = Table(
    "shards",
    _PLAN,
    Column("number", Integer, primary_key=True),
    Column("bundle", LargeBinary(16), nullable=False),
    Column("last", LargeBinary(KEY_BYTES), nullable=False),
    Column("entry", String, nullable=False),
    Column("left_out", Integer, nullable=False),
)


class Target(Protocol):
    """Where a cohort goes."""

    def put(self, name: str, data: bytes, step: str) -> None:
        """Durable when this returns."""

    def is_empty(self) -> bool: ...


class Folder:
    def __init__(self, path: Path, disk: Disk) -> None:
        self._path, self._disk = path, disk
        disk.make_folder(path)

    def put(self, name: str, data: bytes, step: str) -> None:
        self._disk.write(self._path / name, data, step)

    def is_empty(self) -> bool:
        return not any(self._path.iterdir())


class Bucket:
    def __init__(self, url: str, disk: Disk) -> None:
        self._store = object_store(url, disk)

    def put(self, name: str, data: bytes, step: str) -> None:
        self._store.put(name, data, step)

    def is_empty(self) -> bool:
        return not any(self._store.pages(""))


@dataclass
class Cohort:
    """What was written."""

    graphs: int = 0
    left_out: int = 0
    """Graphs that cannot be read."""
    shards: int = 0


def make_decoder(sources: Sequence[BundleId], folder: Path) -> Worker:
    """The worker that decodes payloads of these bundles. folder: as of `Bundles`."""
    bundles = Bundles(folder)
    for each in sources:
        bundles.coder(each)

    def read(payloads: Sequence[bytes]) -> Results:
        found: Results = []
        for payload in payloads:
            try:
                found.append(decode(payload, NOBODY, bundles.coder))
            except Exception as error:  # noqa: BLE001 - whatever one graph does, the others go on
                found.append(Refused.of(error))
        return found

    return read


def export_cohort(hub: Hub, to: str, name_sites: bool, start: Start, count: Count) -> Cohort:
    """Write the cohort; see above. to: a folder, or the URL of a place in an object store; empty before the first run.

    Raises BadConfiguration for a place that holds something else, DiskFull, StorageFailed, ObjectStoreBusy: the next
    run with the same place goes on.
    """
    url = "://" in to
    target: Target = Bucket(to, hub.disk) if url else Folder(Path(to), hub.disk)
    plans = hub.data / "cohorts"
    path = plans / f"{hashlib.sha256((to if url else str(Path(to).absolute())).encode()).hexdigest()[:16]}.db"
    if target.is_empty():
        _remove(hub.disk, path)  # of an earlier place of this name
    elif not path.exists():
        raise BadConfiguration(
            "the place is not empty, and holds no cohort that this hub has begun", "Choose an empty folder or prefix."
        )
    hub.disk.make_folder(plans)
    plan = Database(path, engine_of(path))
    try:
        _PLAN.create_all(plan.engine)
        _lay_out(plan, hub)
        done = _write(plan, hub, target, name_sites, start, count)
    finally:
        plan.close()
    _remove(hub.disk, path)
    return done


def _remove(disk: Disk, plan: Path) -> None:
    for each in plan.parent.glob(f"{plan.name}*"):
        disk.remove(each, "cohort.plan")


def _lay_out(plan: Database, hub: Hub) -> None:
    """List every graph under a key that follows from a secret, which no one keeps. One that was cut begins anew."""
    secret = os.urandom(32)

    def key(*parts: bytes) -> bytes:
        return hmac.digest(secret, b"\0".join(parts), "sha256")[:KEY_BYTES]

    with plan.write() as connection:
        if connection.scalar(select(func.count()).select_from(_facts)):
            return
        connection.execute(delete(_graphs))
    for page in newest_graphs(hub.database):
        rows = [
            {
                "bundle": each.bundle,
                "key": key(b"study", each.site.encode(), each.study),
                "site": each.site,
                "blob": each.blob,
                "patient": NO_PATIENT if each.patient is None else key(b"patient", each.site.encode(), each.patient),
            }
            for each in page
        ]
        if rows:
            with plan.write() as connection:
                connection.execute(insert(_graphs), rows)
    with plan.write() as connection:
        connection.execute(insert(_facts).values(name="cohort", value=os.urandom(KEY_BYTES)))


def _write(plan: Database, hub: Hub, target: Target, name_sites: bool, start: Start, count: Count) -> Cohort:
    with plan.read() as connection:
        cohort = connection.scalar(select(_facts.c.value))
        total = connection.scalar(select(func.count()).select_from(_graphs)) or 0
        sources = [
            BundleId(each) for each in connection.scalars(select(_graphs.c.bundle).distinct().order_by("bundle"))
        ]
        named = list(connection.scalars(select(_graphs.c.site).distinct().order_by("site"))) if name_sites else []
    readable = [each for each in sources if _can_read(hub.bundles, each)]
    sites = {site: number for number, site in enumerate(named)}
    with start(partial(make_decoder, readable), hub.data / "bundles", [each.hex() for each in readable]) as engine:
        passed = 0
        for rows in _open_shards(plan):
            _write_shard(plan, hub, target, engine, readable, sites, rows)
            passed += len(rows)
            count(passed, total)
    with plan.read() as connection:
        shards = connection.execute(select(_shards).order_by(_shards.c.number)).all()
    entries = [entry for row in shards if (entry := json.loads(row.entry)) is not None]
    done = Cohort(sum(each["graphs"] for each in entries), sum(row.left_out for row in shards), len(entries))
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "cohort": cohort.hex() if cohort else "",
        "graphs": done.graphs,
        "left_out": done.left_out,
        "bundles": [_bundle_facts(hub.bundles, each) for each in readable],
        "text_sources": SOURCES,
        "modalities": MODALITIES,
        "views": VIEWS,
        "sites": named,
        "shards": entries,
    }
    # Last: a place without it is no cohort.
    target.put(MANIFEST, (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode(), "cohort.manifest")
    return done


def _open_shards(plan: Database) -> Iterator[list[Any]]:
    """The rows of each shard that is still to be written, in the order of bundle and key."""
    while True:
        with plan.read() as connection:
            last = connection.execute(select(_shards).order_by(_shards.c.number.desc()).limit(1)).one_or_none()
            query = select(_graphs).order_by(_graphs.c.bundle, _graphs.c.key).limit(SHARD)
            if last is not None:
                place = tuple_(value(last.bundle, LargeBinary), value(last.last, LargeBinary))
                query = query.where(tuple_(_graphs.c.bundle, _graphs.c.key) > place)
            rows = connection.execute(query).all()
        if not rows:
            return
        yield [row for row in rows if row.bundle == rows[0].bundle]


def _write_shard(
    plan: Database,
    hub: Hub,
    target: Target,
    engine: Engine,
    readable: Sequence[BundleId],
    sites: Mapping[str, int],
    rows: Sequence[Any],
) -> None:
    """rows: of one bundle, ascending by key."""
    bundle = BundleId(rows[0].bundle)
    payloads = [(row, payload) for row in rows for payload in _payload(hub, row)] if bundle in readable else []
    found = {}
    for row, graph in outcomes(engine, payloads):
        if isinstance(graph, Refused):
            log.error("a graph is left out of the cohort: %s", graph.reason)
        else:
            found[row.key] = graph
    kept = [row for row in rows if row.key in found]
    entry = None
    with plan.read() as connection:
        number = (connection.scalar(select(func.max(_shards.c.number))) or 0) + 1
    if kept:
        data = shard_bytes(
            [found[row.key] for row in kept],
            [row.key for row in kept],
            [row.patient for row in kept],
            [sites.get(row.site, NONE) for row in kept],
        )
        entry = {
            "name": f"shard-{number:06}.safetensors",
            "bundle": readable.index(bundle),
            "graphs": len(kept),
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        target.put(str(entry["name"]), data, "cohort.shard")
    with plan.write() as connection:
        done = {"number": number, "bundle": bundle, "last": rows[-1].key, "entry": json.dumps(entry)}
        connection.execute(insert(_shards).values(**done, left_out=len(rows) - len(kept)))


def _payload(hub: Hub, row: Any) -> list[bytes]:
    try:
        return [hub.store.blob(Digest(row.blob))]
    except BadFormat as error:
        log.error("a graph is left out of the cohort: %s", error)
        return []


def _can_read(bundles: Bundles, bundle: BundleId) -> bool:
    try:
        bundles.coder(bundle)
    except (UnknownBundle, BadBundle) as error:
        log.error("the graphs of a bundle are left out of the cohort: %s", error)
        return False
    return True


def _bundle_facts(bundles: Bundles, bundle: BundleId) -> dict[str, Any]:
    spec = bundles.bundle(bundle).spec
    return {
        "id": bundle.hex(),
        "name": spec.name,
        "working_size": spec.working_size,
        "feature_size": spec.feature_size,
        "concepts": [[each.name, each.kind] for each in spec.concepts],
    }
