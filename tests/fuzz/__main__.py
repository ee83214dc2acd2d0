"""All targets in turn: `python -m tests.fuzz [NAME ...] --runs 100000 --seconds 60`.

Writes build/fuzz/report.json: by target the inputs of this and all earlier runs, seconds, and the findings. The exit
code is 1 with findings. --keep writes the inputs that reach different code into tests/fuzz/corpus.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.fuzz.all_targets import TARGETS, keep, kept

BUILD = Path("build/fuzz")
_LONGEST = 60
"""Seconds of one input, after which its process is ended."""
_MEMORY = 3000
"""MiB of a fuzzing process: torch and pydicom take 500."""
KEPT_BYTES = 12_000
"""Of a target's corpus, before it is packed."""


def fuzz(name: str, runs: int, seconds: int, seed: int) -> dict[str, object]:
    """One target for at most so many inputs and seconds; the facts for the report."""
    target, corpus, findings = TARGETS[name], BUILD / "corpus" / name, BUILD / "findings" / name
    corpus.mkdir(parents=True, exist_ok=True)
    findings.mkdir(parents=True, exist_ok=True)
    for data_name, data in kept(name).items():
        (corpus / data_name.replace(" ", "-")).write_bytes(data)
    started = time.monotonic()
    command = [sys.executable, "-m", "tests.fuzz.one", name, str(findings), str(corpus)]
    options = {
        "runs": max(1, int(runs * target.weight)),
        "max_total_time": seconds,
        "max_len": target.longest,
        "timeout": _LONGEST,
        "rss_limit_mb": _MEMORY,
        "seed": seed,
        "artifact_prefix": f"{findings}/",
        "print_final_stats": 1,
        "verbosity": 1,
    }
    done = subprocess.run(
        [*command, *(f"-{key}={value}" for key, value in options.items())], capture_output=True, text=True
    )
    (BUILD / f"{name}.log").write_text(done.stdout + done.stderr)
    counted = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    last = re.findall(r"^#(\d+)", done.stderr, re.MULTILINE)
    covered = re.findall(r"cov: (\d+)", done.stderr)
    return {
        "inputs": int(counted[1]) if counted else int(last[-1]) if last else 0,
        "seconds": round(time.monotonic() - started),
        "covered": int(covered[-1]) if covered else 0,
        "exit": done.returncode,
    }


def chosen(name: str) -> list[bytes]:
    """The smallest inputs that together reach all the code that the corpus reaches."""
    few = BUILD / "chosen" / name
    shutil.rmtree(few, ignore_errors=True)
    few.mkdir(parents=True)
    words = [name, str(BUILD / "findings" / name), "-merge=1", str(few), str(BUILD / "corpus" / name)]
    subprocess.run([sys.executable, "-m", "tests.fuzz.one", *words], capture_output=True, check=False)
    return [each.read_bytes() for each in few.iterdir()]


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("names", nargs="*", default=sorted(TARGETS))
    options.add_argument("--runs", type=int, default=100_000, help="inputs of a target of weight 1")
    options.add_argument("--seconds", type=int, default=60, help="most seconds of a target")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--keep", action="store_true", help="write tests/fuzz/corpus")
    given = options.parse_args()
    path = BUILD / "report.json"
    report = json.loads(path.read_text()) if path.exists() else {}
    for name in given.names:
        facts = fuzz(name, given.runs, given.seconds, given.seed)
        before = report.get(name, {})
        found = sorted(each.name for each in (BUILD / "findings" / name).iterdir() if each.suffix != ".txt")
        report[name] = {
            **facts,
            "all_inputs": before.get("all_inputs", 0) + facts["inputs"],
            "all_seconds": before.get("all_seconds", 0) + facts["seconds"],
            "findings": found,
        }
        path.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")
        print(f"{name}: {facts['inputs']:,} inputs in {facts['seconds']} s, {len(found)} findings", flush=True)
        if given.keep:
            keep(name, chosen(name), KEPT_BYTES)
    total = sum(each["all_inputs"] for each in report.values())
    print(f"{total:,} inputs in all runs", flush=True)
    return 1 if any(each["findings"] for each in report.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
