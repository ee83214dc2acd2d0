"""thinwire beside the tools that clinics use today, on the same emulated links, on one machine in one run.

    make bench-link ARGS="--quick"
    python -m benchmarks.link [--profiles gprs,vsat] [--peers ...] [--studies ...] [--scenarios ...] [--repeats 3]

A run that was stopped goes on with the same command: every row is a file under --cache. Needs root for the packet
emulator; --relay takes the TCP-level fallback instead, and every row says so.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.link import namespaces
from benchmarks.link.lab import PACKETS, RELAY, ROOT
from benchmarks.link.peers import PEERS
from benchmarks.link.peers.thinwire import Thinwire, ThinwirePixels, enrolled_pair
from benchmarks.link.profiles import PROFILES
from benchmarks.link.rows import Rows
from benchmarks.link.scenarios import LARGE, SCENARIOS, SMALL, Case, Setting, run
from benchmarks.link.studies import STUDIES
from benchmarks.link.tables import document, plots
from benchmarks.machine import machine

SENT = tuple(name for name in STUDIES if name != SMALL)
STEADY = tuple(name for name, profile in PROFILES.items() if profile.schedule is None)
FAULTED = "vsat"
"""The link on which outages, kills and urgent studies are shown, unless --fault-profiles says otherwise."""
URGENT_PEERS = ("thinwire", "storescu", "storescu-tls")
BARRAGE_PEERS = ("thinwire", "storescu-tls-jpegls", "orthanc-peer-jpegls", "https", "rsync")
RAW_ON_SLOW = 20 * 60.0
"""Seconds: a study whose raw bytes take longer is not sent on that link; a clinic would not either."""
PACKAGES = ("dcmtk", "orthanc", "orthanc-dicomweb", "rsync", "curl", "iproute2")


def listed(text: str, known: Iterable[str], what: str) -> tuple[str, ...]:
    names = tuple(name for name in text.split(",") if name)
    if unknown := [name for name in names if name not in set(known)]:
        raise argparse.ArgumentTypeError(f"no {what} {', '.join(unknown)}; there are {', '.join(known)}")
    return names


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """Every run that was asked for; repeats of one thing lie apart in time, and peers of one thing side by side."""
    for repeat in range(options.repeats):
        for scenario in options.scenarios:
            for profile in _profiles(scenario, options):
                for study in _studies(scenario, profile, options):
                    for peer in _peers(scenario, options):
                        yield Case(scenario, profile, peer, study, repeat)


def _profiles(scenario: str, options: argparse.Namespace) -> Sequence[str]:
    if scenario == "transfer":
        return tuple(options.profiles)
    if scenario == "fresh":
        return tuple(name for name in options.profiles if name in STEADY)
    return tuple(options.fault_profiles)


def _studies(scenario: str, profile: str, options: argparse.Namespace) -> Sequence[str]:
    if scenario in ("urgent-idle", "urgent-bulk"):
        return (LARGE,)  # the bulk; the urgent ones are small
    if scenario == "fresh":
        return (SMALL,)
    if scenario in ("barrage", "no-barrage", "outage", "kill-clinic", "kill-hub"):
        return tuple(options.studies)[:1]
    fits = []
    for name in options.studies:
        size = STUDIES[name]
        raw = size.height * size.width * (1 if size.bits <= 8 else 2)
        if raw * 8 / PROFILES[profile].up.rate <= RAW_ON_SLOW:
            fits.append(name)
    return fits


def _peers(scenario: str, options: argparse.Namespace) -> Sequence[str]:
    only = {
        "urgent-idle": URGENT_PEERS,
        "urgent-bulk": URGENT_PEERS,
        "fresh": ("thinwire",),
        "barrage": BARRAGE_PEERS,
        "no-barrage": BARRAGE_PEERS,
        "transfer": tuple(PEERS),
    }.get(scenario, tuple(name for name in PEERS if name != ThinwirePixels.name))
    return tuple(name for name in options.peers if name in only)


def versions() -> dict[str, str]:
    """Of the measurements."""
    found = {"kernel": platform.release(), "thinwire commit": _said(["git", "rev-parse", "--short", "HEAD"])}
    for package in PACKAGES:
        found[package] = _said(["dpkg-query", "-W", "-f", "${Version}", package]) or "not from a Debian package"
    return found


def _said(words: Sequence[str]) -> str:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    def several(flag: str, known: Iterable[str], default: Iterable[str], what: str) -> None:
        names = list(known)
        parser.add_argument(
            flag, type=lambda text: listed(text, names, what), default=tuple(default), help=f"of {', '.join(names)}"
        )

    several("--profiles", PROFILES, PROFILES, "link profile")
    several("--fault-profiles", PROFILES, (FAULTED,), "link profile")
    several("--peers", PEERS, PEERS, "peer")
    several("--studies", SENT, SENT, "study")
    several("--scenarios", SCENARIOS, SCENARIOS, "scenario")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--congestion", default="cubic", help="TCP's algorithm at both ends; cubic is Debian's default")
    parser.add_argument("--quick", action="store_true", help="one small pass that shows that everything works: minutes")
    parser.add_argument("--report", action="store_true", help="run nothing: write what was taken, and what was not")
    parser.add_argument("--relay", action="store_true", help="the TCP-level fallback; needs no root")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "link", help="rows, studies, a hub to copy")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "link.json")
    parser.add_argument("--pages", type=Path, default=ROOT / "docs" / "link", help="tables and plots")
    options = parser.parse_args(arguments)
    if options.quick:
        options.profiles, options.studies, options.repeats = ("edge",), SENT[:1], 1
        options.scenarios, options.peers = ("transfer",), ("thinwire", "storescu", "storescu-jpegls")
    return options


def main() -> int:
    options = parse(sys.argv[1:])
    lacking = namespaces.missing()
    if lacking and not options.relay and not options.report:
        print(f"The packet emulator cannot run here: {lacking}.", file=sys.stderr)
        print("With --relay a TCP-level fallback shapes streams instead, and says so in every row.", file=sys.stderr)
        return 2
    emulation = RELAY if options.relay else PACKETS
    print(f"link: {emulation}", file=sys.stderr)
    skipped = {name: why for name in options.peers if (why := PEERS[name].missing())}
    for name, why in skipped.items():
        print(f"skipped: {name}: {why}", file=sys.stderr)
    options.peers = tuple(name for name in options.peers if name not in skipped)
    if not options.report and any(issubclass(PEERS[name], Thinwire) for name in options.peers):
        Thinwire.pair = enrolled_pair(options.cache / "pair")
    setting = Setting(options.cache / "studies", options.congestion, options.relay)
    # Rows of the fallback, or of another TCP, never stand for those of the emulator.
    rows = Rows(options.cache / ("relay" if options.relay else f"packets-{options.congestion}"))
    wanted = list(cases(options))
    about: dict[str, Any] = {"emulation": emulation, "versions": versions()}
    for number, case in enumerate(wanted, 1):
        if rows.find(case) is None and not options.report:
            began = time.monotonic()
            row = {**run(case, setting), **about}
            rows.keep(case, row)
            told = ", ".join(f"{k} {v:.1f}" for k, v in row["journeys"][0]["moments"].items())
            print(f"[{number}/{len(wanted)}] {case.name}: {told} ({time.monotonic() - began:.0f} s)", file=sys.stderr)
    taken = {replace(case, repeat=0) for case in wanted if rows.find(case) is not None}
    about["not_taken"] = [case.name for case in wanted if case.repeat == 0 and case not in taken]
    _write(options, rows.of(wanted), skipped, about)
    return 0


def _write(options: argparse.Namespace, rows: list[dict[str, Any]], skipped: dict[str, str], about: Any) -> None:
    command = f"python -m benchmarks.link {shlex.join(sys.argv[1:])}".strip()
    told = {"command": command, "machine": machine(), "nice": os.nice(0), **about, "skipped": skipped}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({**told, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    options.pages.mkdir(parents=True, exist_ok=True)
    page = options.pages / "measured.md"
    page.write_text(document(rows, {**told, "file": options.out.name}), encoding="utf-8")
    pictures = plots(rows, options.pages)
    print(f"written: {options.out}, {page}, {', '.join(map(str, pictures))}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
