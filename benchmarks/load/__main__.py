"""The load laboratory: N clinics on real TLS streams, on a hub of this version and, beside it, of the version before.

    python -m benchmarks.load [--before FOLDER] [--clinics 100,500,2000] [--quick] [--out FILE]

FOLDER: a checkout of the version before. The generator is this version's; it speaks the protocol that both versions
speak. Generator and hub share the machine's cores: processor times are the hub's own, from /proc; times of
transfers and connections hold the generator's share. Each number of clinics has a hub of its own.
"""

import argparse
import asyncio
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.load.fleet import STUDIES_A_DAY, allow_descriptors
from benchmarks.load.hub import ROOT, LoadHub
from benchmarks.load.processes import commit
from benchmarks.load.scenarios import QUICK, WHOLE, Row, Scenarios, slope
from benchmarks.load.studies import StudyMaker
from benchmarks.machine import machine
from benchmarks.provenance import bundle_facts
from thinwire.shared.formats.bundle import default_bundle_folder, load_bundle

CLINICS, QUICK_CLINICS = "100,500,2000", "50,100"
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
    for old, new in zip(before, after, strict=True):
        pairs = {
            "idle_core_percent": (old["rest"]["core_percent"], new["rest"]["core_percent"]),
            "threads": (old["rest"]["threads"], new["rest"]["threads"]),
            "memory_mb": (old["rest"]["memory_mb"], new["rest"]["memory_mb"]),
            "processor_ms_a_graph": (_least(old), _least(new)),
            "seconds_to_triaged_median": tuple(each["peak"]["seconds_to_triaged"]["median"] for each in (old, new)),
        }
        found.append({"clinics": new["clinics"]} | {name: round(a / b, 2) for name, (a, b) in pairs.items() if b})
    return found


def _least(row: Row) -> float:
    return float(min(row["burst"]["processor_ms_a_graph"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--clinics")
    parser.add_argument("--quick", action="store_true", help="Minutes, and too few for figures.")
    parser.add_argument("--out", type=Path, help=f"By default {OUT.name} of the results; --quick writes none.")
    given = parser.parse_args()
    allow_descriptors()
    extent = QUICK if given.quick else WHOLE
    numbers = [int(each) for each in (given.clinics or (QUICK_CLINICS if given.quick else CLINICS)).split(",")]
    bundle = load_bundle(default_bundle_folder())
    maker = StudyMaker(bundle)
    checkouts = {"before": given.before, "after": ROOT} if given.before else {"after": ROOT}
    result: dict[str, Any] = {
        "command": f"python -m benchmarks.load --clinics {','.join(map(str, numbers))}"
        + (" --before FOLDER" if given.before else "")
        + (" --quick" if given.quick else ""),
        "machine": machine(),
        "bundle": bundle_facts(bundle),
        "synthetic": True,
        "assumed_studies_a_day": STUDIES_A_DAY,
        "versions": {name: commit(checkout) for name, checkout in checkouts.items()},
        "runs": {},
    }
    for name, checkout in checkouts.items():
        rows = result["runs"][f"{name}, SQLite"] = []
        for clinics in numbers:
            rows.append(asyncio.run(_measured(checkout, clinics, maker, extent)))
            print(json.dumps({name: rows[-1]}), flush=True)
    result["slopes"] = {name: slopes(rows) for name, rows in result["runs"].items()}
    if given.before:
        result["ratios"] = ratios(result["runs"]["before, SQLite"], result["runs"]["after, SQLite"])
    out = given.out or (None if given.quick else OUT)
    if out is not None:
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    else:
        print(json.dumps({name: result.get(name) for name in ("slopes", "ratios")}, indent=1))


async def _measured(checkout: Path, clinics: int, maker: StudyMaker, extent: Any) -> Row:
    folder = Path(tempfile.mkdtemp(prefix="thinwire-load-"))
    try:
        hub = LoadHub(folder / "lab", checkout)
        began = time.monotonic()
        joined = await asyncio.to_thread(hub.make, clinics)
        print(f"{clinics} clinics joined in {time.monotonic() - began:.0f} s", flush=True)
        return await Scenarios(hub, joined, maker, extent).run()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
