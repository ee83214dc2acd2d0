"""Check of the emulator against its profile. Real traffic through it, beside the profile's figures.

    python -m benchmarks.link.check [PROFILE ...] [--seconds 10] [--json FILE]

Exit code 1 where a measure is off by more than its tolerance. Rates, round trips and the queue are measured without
loss: TCP's reaction to loss is no property of the link. Loss is measured with UDP at half the line's rate.
"""

import argparse
import itertools
import json
import math
import re
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.link import namespaces
from benchmarks.link.lab import Lab, open_lab
from benchmarks.link.profiles import MTU, PROFILES, Profile

PORT = 9000
PING_BYTES = 84
TCP_HEADERS, UDP_HEADERS = 52, 28
"""Bytes of IPv4 with TCP (and its timestamps) or UDP in each packet."""
ROUND_TRIP_SHARE, ROUND_TRIP_SECONDS = 0.01, 0.005
"""Tolerance of a median round trip: so much of it, and so much for the two kernels."""
GOODPUT_SHARE = 0.03
QUEUE_PACKETS = 3
SIGMAS = 3.5
"""Of the binomial distribution: a true emulator fails about once in two thousand checks."""
OUTAGE_SECONDS, OUTAGE_TOLERANCE = 2.0, 0.2
UDP_BYTES = 500
BURST_BYTES = 1400
"""Of the queue's measure: few and large, so that they come faster than any line takes them."""
SMALL_UDP_BYTES = 100
"""Of the loss's measure: many packets in little time."""


@dataclass(frozen=True)
class Check:
    profile: str
    what: str
    unit: str
    expected: float
    measured: float
    tolerance: float
    """Absolute, in the same unit."""

    @property
    def holds(self) -> bool:
        return abs(self.measured - self.expected) <= self.tolerance


def ping(lab: Lab, profile: Profile, count: int) -> Check:
    """Median round trip of the smallest usual ping."""
    log = lab.folder / "ping.log"
    # Apart so far that no two are on the line together.
    pause = max(0.2, 4 * PING_BYTES * 8 / min(profile.up.rate, profile.down.rate))
    words = ["ping", "-c", str(count), "-i", f"{pause:.2f}", namespaces.HUB_ADDRESS]
    lab.clinic(words, log).wait()
    times = sorted(float(found) / 1000 for found in re.findall(r"time=([\d.]+)", log.read_text(encoding="utf-8")))
    expected = profile.round_trip + PING_BYTES * 8 / profile.up.rate + PING_BYTES * 8 / profile.down.rate
    measured = times[len(times) // 2] if times else math.inf
    tolerance = expected * ROUND_TRIP_SHARE + ROUND_TRIP_SECONDS
    return Check(profile.name, "round trip (ping, median)", "ms", expected * 1000, measured * 1000, tolerance * 1000)


def goodput(lab: Lab, profile: Profile, upward: bool, seconds: float) -> Check:
    """A TCP stream's bytes a second, once it has filled the line.

    Its window is more than the line holds and less than the queue does: without a drop, the bytes read in a time
    are those that crossed in it.
    """
    way = profile.up if upward else profile.down
    window = int(way.rate / 8 * profile.round_trip) + way.queue // 3
    source, sink = (lab.at_clinic, lab.at_hub) if upward else (lab.at_hub, lab.at_clinic)
    address = namespaces.HUB_ADDRESS if upward else namespaces.CLINIC_ADDRESS
    with sink():
        server = socket.create_server((address, PORT))
    # Before the connection is there, so that its very first window is within it.
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    with source():
        client = socket.socket()
    stop = threading.Event()

    def send() -> None:
        with client:
            client.connect((address, PORT))
            client.settimeout(0.2)
            data = bytes(1 << 16)
            while not stop.is_set():
                try:
                    client.send(data)
                except TimeoutError:
                    continue
                except ConnectionError:
                    return

    sender = threading.Thread(target=send)
    sender.start()
    with server, server.accept()[0] as taken:
        _receive(taken, until=time.monotonic() + 2 + 8 * profile.round_trip)
        began = time.monotonic()
        count, last = _receive(taken, until=began + seconds)
        stop.set()
        measured = count * 8 / (last - began)
    sender.join()
    expected = way.rate * (MTU - TCP_HEADERS) / MTU
    name = f"TCP goodput, {'up' if upward else 'down'}"
    return Check(profile.name, name, "kbit/s", expected / 1000, measured / 1000, expected * GOODPUT_SHARE / 1000)


def _receive(stream: socket.socket, until: float) -> tuple[int, float]:
    """(bytes, when the last of them came)."""
    count, last = 0, time.monotonic()
    while last < until:
        data = stream.recv(1 << 16)
        if not data:
            break
        count, last = count + len(data), time.monotonic()
    return count, last


def loss(lab: Lab, profile: Profile, upward: bool, packets: int) -> Check:
    """Share of UDP packets that do not come, at half the line's rate."""
    way = profile.up if upward else profile.down
    gap = 2 * (SMALL_UDP_BYTES + UDP_HEADERS) * 8 / way.rate
    got = _flow(lab, upward, (number * gap for number in range(packets)), profile, size=SMALL_UDP_BYTES)
    expected = way.loss_share
    tolerance = SIGMAS * math.sqrt(expected * (1 - expected) / packets) + 0.5 / packets
    name = f"UDP loss, {'up' if upward else 'down'}, {packets} packets"
    return Check(profile.name, name, "%", expected * 100, (1 - got / packets) * 100, tolerance * 100)


def queue(lab: Lab, profile: Profile) -> Check:
    """Packets of a burst that arrive: the queue's capacity, and the packets that cross during the burst."""
    size = BURST_BYTES + UDP_HEADERS
    holds = 1 + profile.up.queue // size
    sent: list[float] = []
    got = _flow(lab, True, _at_once(3 * holds, sent), profile, size=BURST_BYTES)
    expected = holds + (sent[-1] - sent[0]) * profile.up.rate / 8 / size
    return Check(
        profile.name, "packets of a burst that get through", "", expected, got, QUEUE_PACKETS + 0.05 * expected
    )


def _at_once(count: int, sent: list[float]) -> Iterator[float]:
    """No pause between packets; notes when each was asked for."""
    for _ in range(count):
        sent.append(time.monotonic())
        yield 0.0


def outage(lab: Lab, profile: Profile) -> Check:
    """Seconds for which nothing comes, when the link is cut for so long."""
    gap = max(0.02, 4 * UDP_BYTES * 8 / profile.up.rate)
    arrivals: list[float] = []
    times = [number * gap for number in range(int((OUTAGE_SECONDS + 2) / gap))]
    cut = threading.Timer(1.0, lambda: lab.board.switch(True))
    back = threading.Timer(1.0 + OUTAGE_SECONDS, lambda: lab.board.switch(False))
    cut.start()
    back.start()
    _flow(lab, True, times, profile, arrivals.append)
    silent = max((b - a for a, b in itertools.pairwise(arrivals)), default=0.0)
    tolerance = OUTAGE_TOLERANCE + 2 * gap
    return Check(profile.name, "silence at an outage", "s", OUTAGE_SECONDS, silent, tolerance)


def _flow(
    lab: Lab,
    upward: bool,
    times: Iterable[float],
    profile: Profile,
    at: Callable[[float], object] = lambda _: None,
    size: int = UDP_BYTES,
) -> int:
    """Send a UDP packet at each of these seconds from now; how many come. at: told of each one's arrival."""
    source, sink = (lab.at_clinic, lab.at_hub) if upward else (lab.at_hub, lab.at_clinic)
    address = (namespaces.HUB_ADDRESS if upward else namespaces.CLINIC_ADDRESS, PORT)
    way = profile.up if upward else profile.down
    with sink():
        taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with source():
        given = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with taken, given:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        taken.bind(address)
        taken.settimeout(way.delay + way.queue * 8 / way.rate + 1.5)
        got = [0]

        def receive() -> None:
            try:
                while True:
                    taken.recv(2048)
                    at(time.monotonic())
                    got[0] += 1
            except TimeoutError:
                return

        receiver = threading.Thread(target=receive)
        receiver.start()
        began = time.monotonic()
        for when in times:
            time.sleep(max(0.0, began + when - time.monotonic()))
            given.sendto(bytes(size), address)
        receiver.join()
    return got[0]


def check(profile: Profile, seconds: float, seed: int, say: Callable[[Check], None]) -> None:
    """All measures of one profile, told one by one."""
    with open_lab(profile, seed, lossless=True) as lab:
        if shutil.which("ping"):
            say(ping(lab, lab.profile, 9))
        say(goodput(lab, lab.profile, True, seconds))
        say(goodput(lab, lab.profile, False, seconds))
    with open_lab(profile, seed, lossless=True) as lab:
        say(queue(lab, lab.profile))
        say(outage(lab, lab.profile))
    for upward in (True, False):
        way = profile.up if upward else profile.down
        packets = int(min(20_000, max(300, 2 * seconds * way.rate / 16 / (SMALL_UDP_BYTES + UDP_HEADERS))))
        with open_lab(profile, seed, steady=True) as lab:
            say(loss(lab, lab.profile, upward, packets))


def table(checks: Sequence[Check]) -> Table:
    shown = Table(title="The emulator against its profiles", header_style="bold")
    for name in ("profile", "measure", "expected", "measured", "tolerance", ""):
        shown.add_column(name, no_wrap=True)
    for each in checks:
        mark = "holds" if each.holds else "[bold red]OFF[/]"
        figures = (f"{value:,.2f} {each.unit}" for value in (each.expected, each.measured, each.tolerance))
        shown.add_row(each.profile, each.what, *figures, mark)
    return shown


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profiles", nargs="*", metavar="PROFILE", help=f"of {', '.join(PROFILES)}; all if not given")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each measure of a rate or a share")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write what was measured")
    options = parser.parse_args()
    if unknown := set(options.profiles) - set(PROFILES):
        parser.error(f"no profile {', '.join(sorted(unknown))}; there are {', '.join(PROFILES)}")
    if lacking := namespaces.missing():
        print(f"The packet emulator cannot be checked here: {lacking}.", file=sys.stderr)
        return 2
    if not shutil.which("ping"):
        print("No ping here (apt-get install iputils-ping): round trips are not checked.", file=sys.stderr)
    checks: list[Check] = []
    console = Console(width=None if sys.stdout.isatty() else 130)

    def say(done: Check) -> None:
        checks.append(done)
        print(f"{done.profile}: {done.what}: {'holds' if done.holds else 'OFF'}", file=sys.stderr)

    for name in options.profiles or PROFILES:
        check(PROFILES[name], options.seconds, options.seed, say)
    console.print(table(checks))
    if options.json:
        rows = [{**asdict(each), "holds": each.holds} for each in checks]
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return int(not all(each.holds for each in checks))


if __name__ == "__main__":
    sys.exit(main())
