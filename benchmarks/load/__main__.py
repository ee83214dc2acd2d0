"""The load laboratory: N clinics on real TLS streams, on a hub of this version and, beside it, of the version before.

    python -m benchmarks.load [--before FOLDER] [--parts sqlite,postgresql,deaths,orthanc] [--clinics 100,500,2000]
        [--clinics-before 100,500] [--times 5] [--kept FOLDER] [--quick] [--out FILE]

--before: a checkout of the version before, with the same generator, which speaks the protocol of both; measured with
fewer clinics, since each took a thread of it. --kept: a folder of finished measurements, so that the command goes on
where it was stopped; another commit measures anew. Generator, hub and database share the machine's cores: processor
times are the hub's own, from /proc; times of transfers and connections hold the generator's share. Each number of
clinics has a hub of its own. Parts:

- sqlite: the scenarios on one `serve`, both versions.
- postgresql: the same on one `serve` with PostgreSQL, this version.
- deaths: kills in a cluster of three replicas with PostgreSQL and an S3 server (moto's).
- orthanc: the same studies at Orthanc and here, both with PostgreSQL. Debian: orthanc, orthanc-postgresql, dcmtk.
"""

import argparse
import asyncio
import contextlib
import json
import shutil
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.load.cluster import DURABLE, Cluster
from benchmarks.load.fleet import STUDIES_A_DAY, allow_descriptors
from benchmarks.load.hub import ROOT, LoadHub
from benchmarks.load.kills import deaths
from benchmarks.load.orthanc import beside, installed
from benchmarks.load.processes import commit
from benchmarks.load.scenarios import QUICK, WHOLE, Extent, Row, Scenarios, slope
from benchmarks.load.studies import StudyMaker
from benchmarks.machine import machine
from benchmarks.provenance import bundle_facts
from tests.support.postgresql import PostgresServer
from thinwire.shared.formats.bundle import default_bundle_folder, load_bundle

PARTS = ("sqlite", "postgresql", "deaths", "orthanc")
CLINICS, QUICK_CLINICS = "100,500,2000", "50,100"
CLINICS_BEFORE = "100,500"
OUT = Path(__file__).parents[1] / "results" / "load.json"
WANTED = 5000
"""Clinics of one replica, to which the slopes are extended."""


def slopes(rows: list[Row]) -> Row:
    """What one more clinic takes, by the straight line through the measured numbers, and the line's value at WANTED."""
    if len(rows) < 2:
        return {}
    measures: dict[str, Any] = {
        "memory_mb": lambda row: row["rest"]["memory_mb"],
        "idle_core_percent": lambda row: row["rest"]["core_percent"],
        "threads": lambda row: row["rest"]["threads"],
        "seconds_to_connect": lambda row: row["connect"]["seconds"]["most"],
    }
    found = {}
    for name, of in measures.items():
        a_clinic, none = slope([(row["clinics"], of(row)) for row in rows])
        at = round(none + a_clinic * WANTED, 2)
        found[name] = {"a_clinic": round(a_clinic, 6), f"at_{WANTED}_extrapolated": at}
    return found


def ratios(before: list[Row], after: list[Row]) -> list[Row]:
    """Before divided by after, of the same number of clinics."""
    found = []
    later = {row["clinics"]: row for row in after}
    for old in before:
        if (new := later.get(old["clinics"])) is None:
            continue
        pairs = {
            "idle_core_percent": (old["rest"]["core_percent"], new["rest"]["core_percent"]),
            "threads": (old["rest"]["threads"], new["rest"]["threads"]),
            "memory_mb": (old["rest"]["memory_mb"], new["rest"]["memory_mb"]),
            "processor_ms_a_graph": (_usual(old), _usual(new)),
            "seconds_to_triaged_median": tuple(each["peak"]["seconds_to_triaged"]["median"] for each in (old, new)),
        }
        found.append({"clinics": new["clinics"]} | {name: round(a / b, 2) for name, (a, b) in pairs.items() if b})
    return found


def _usual(row: Row) -> float:
    return float(statistics.median(row["burst"]["processor_ms_a_graph"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--clinics")
    parser.add_argument("--clinics-before")
    parser.add_argument("--kept", type=Path, default=ROOT / "build" / "load")
    parser.add_argument("--times", type=int, default=5, help="Deaths of each kind.")
    parser.add_argument("--quick", action="store_true", help="Minutes, and too few for figures.")
    parser.add_argument("--out", type=Path, help=f"By default {OUT.name} of the results; --quick writes none.")
    given = parser.parse_args()
    # So that no server outlives a bench that is stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    allow_descriptors()
    extent = QUICK if given.quick else WHOLE
    numbers = _numbers(given.clinics or (QUICK_CLINICS if given.quick else CLINICS))
    numbers_before = _numbers(given.clinics_before or (QUICK_CLINICS if given.quick else CLINICS_BEFORE))
    bundle = load_bundle(default_bundle_folder())
    maker = StudyMaker(bundle)
    parts = given.parts.split(",")
    checkouts = {"before": given.before, "after": ROOT} if given.before else {"after": ROOT}
    result: dict[str, Any] = {
        "command": f"python -m benchmarks.load --parts {given.parts} --clinics {','.join(map(str, numbers))}"
        + (f" --before FOLDER --clinics-before {','.join(map(str, numbers_before))}" if given.before else "")
        + (f" --times {given.times}" if "deaths" in parts else "")
        + (" --quick" if given.quick else ""),
        "machine": machine(),
        "bundle": bundle_facts(bundle),
        "synthetic": True,
        "assumed_studies_a_day": STUDIES_A_DAY,
        "versions": {name: commit(checkout) for name, checkout in checkouts.items()},
        "runs": {},
    }
    kept = Kept(given.kept, given.quick, result["versions"])
    runs = result["runs"]
    if "sqlite" in parts:
        for name, checkout in checkouts.items():
            runs[f"{name}, SQLite"] = [
                kept.row(f"{name}-sqlite-{clinics}", partial(_alone, checkout, clinics, maker, extent))
                for clinics in (numbers_before if name == "before" else numbers)
            ]
    if "postgresql" in parts:
        runs["after, PostgreSQL"] = [
            kept.row(f"after-postgresql-{clinics}", partial(_on_postgresql, clinics, maker, extent))
            for clinics in numbers
        ]
    result["slopes"] = {name: slopes(rows) for name, rows in runs.items()}
    if given.before and "sqlite" in parts:
        result["ratios"] = ratios(runs["before, SQLite"], runs["after, SQLite"])
    if "deaths" in parts:
        result["deaths"] = kept.row(
            "deaths", partial(_deaths, maker, *((20, 1) if given.quick else (200, given.times)))
        )
    if "orthanc" in parts and installed():
        result["beside"] = kept.row("orthanc", partial(_beside, maker, *((200, 20) if given.quick else (3000, 100))))
    out = given.out or (None if given.quick else OUT)
    if out is not None:
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    else:
        told = {name: result.get(name) for name in ("slopes", "ratios")}
        told |= {name: each for name, each in result.get("deaths", {}).items() if name in ("hub", "account", "ended")}
        print(json.dumps(told, indent=1))


class Kept:
    """Measurements that are finished, each a file of its own with the versions that it is of."""

    def __init__(self, folder: Path, quick: bool, versions: dict[str, str]) -> None:
        self._folder = folder / ("quick" if quick else "whole")
        self._versions = versions

    def row(self, name: str, measure: Callable[[], Any]) -> Any:
        path = self._folder / f"{name}.json"
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["version"] == self._version(name):
                print(f"{name}: kept from before", flush=True)
                return found["row"]
        row = measure()
        self._folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"version": self._version(name), "row": row}), encoding="utf-8")
        return row

    def _version(self, name: str) -> list[str]:
        """Of the generator, and of the hub where that is another one's."""
        return [self._versions[each] for each in ("after", "before") if each == "after" or name.startswith(each)]


def _numbers(told: str) -> list[int]:
    return [int(each) for each in told.split(",")]


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="thinwire-load-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _alone(checkout: Path, clinics: int, maker: StudyMaker, extent: Extent, database: str | None = None) -> Row:
    with _folder() as folder:
        environment = {} if database is None else {"THINWIRE_RECEIVER_DATABASE": database}
        hub = LoadHub(folder / "lab", checkout, environment)
        began = time.monotonic()
        joined = hub.make(clinics)
        print(f"{checkout.name}: {clinics} clinics joined in {time.monotonic() - began:.0f} s", flush=True)
        return asyncio.run(Scenarios(hub, joined, maker, extent).run())


def _on_postgresql(clinics: int, maker: StudyMaker, extent: Extent) -> Row:
    postgres = PostgresServer(settings=DURABLE)
    try:
        postgres.start()
        return _alone(ROOT, clinics, maker, extent, postgres.url())
    finally:
        postgres.remove()


def _beside(maker: StudyMaker, studies: int, warm: int) -> list[Row]:
    with _folder() as folder:
        return beside(folder, maker, studies, warm)


def _deaths(maker: StudyMaker, clinics: int, times: int) -> Row:
    postgres = PostgresServer(settings=DURABLE)
    try:
        postgres.start()
        with _folder() as folder:
            return asyncio.run(
                deaths(Cluster(folder / "cluster", postgres, work={"predict": 2}), maker, clinics, times)
            )
    finally:
        postgres.remove()


if __name__ == "__main__":
    main()
