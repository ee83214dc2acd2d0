"""The process that is the link: it takes IP packets from one host's TUN device and gives them to the other's.

    python -m benchmarks.link.emulator PROFILE CLINIC_DEVICE HUB_DEVICE --board FILE --seed N

Started by `benchmarks.link.lab`. All that decides a packet's fate is in `model`; here are two devices, a clock and a
wait that is exact to tens of microseconds (select, because epoll's wait counts in whole milliseconds).
"""

import argparse
import contextlib
import fcntl
import os
import select
import struct
import time
from pathlib import Path
from random import Random

from benchmarks.link.model import Direction
from benchmarks.link.namespaces import TUN
from benchmarks.link.profiles import PROFILES, Profile
from benchmarks.link.shared_counters import SharedCounters

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
LARGEST = 65_536
LOOK_SECONDS = 0.02
"""How often the switch is looked at on a silent link."""
MOST_AT_ONCE = 64
"""Packets read from one device before the other is looked at."""


def open_tun(name: str) -> int:
    """A new TUN device of this name; it is gone when the handle is closed."""
    handle = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(handle, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return handle


class Emulator:
    """clinic, hub: handles of the two TUN devices."""

    def __init__(self, profile: Profile, clinic: int, hub: int, board: SharedCounters, seed: int) -> None:
        self._schedule = profile.schedule
        self._board = board
        self._up = Direction(profile.up, Random(f"up {seed}"))
        self._down = Direction(profile.down, Random(f"down {seed}"))
        # From which device, in which direction, to which device.
        self._ways = ((clinic, self._up, hub), (hub, self._down, clinic))
        self._is_down = False
        self._began: float | None = None
        """When the schedule began, on this clock; None: not yet."""

    def run(self) -> None:
        """Until the process is ended."""
        sources = [clinic for clinic, _, _ in self._ways]
        self._board.tell_ready()
        while True:
            now = time.monotonic()
            self._deliver(now)
            self._set_down(now)
            readable, _, _ = select.select(sources, [], [], self._wait(now))
            # Packets of an outage that has begun meanwhile belong to the outage.
            self._set_down(time.monotonic())
            for source, direction, _ in self._ways:
                if source in readable:
                    self._take(source, direction)
            self._board.tell(self._up.counts, self._down.counts)

    def _wait(self, now: float) -> float:
        """Seconds until something is to be done though no packet comes."""
        due = [direction.next_at for _, direction, _ in self._ways]
        until = min((at - now for at in due if at is not None), default=LOOK_SECONDS)
        if self._schedule is not None and self._began is not None:
            until = min(until, self._schedule.next_change(now - self._began) + self._began - now)
        return min(max(until, 0.0), LOOK_SECONDS)

    def _set_down(self, now: float) -> None:
        if self._began is None and (phase := self._board.begun) is not None:
            self._began = now - phase
        down = self._board.switched_down
        if self._schedule is not None and self._began is not None:
            down = down or self._schedule.is_down(now - self._began)
        if down != self._is_down:
            self._deliver(time.monotonic())
            for _, direction, _ in self._ways:
                direction.set_down(down)
            self._is_down = down
            self._board.tell_down(down)

    def _take(self, source: int, direction: Direction) -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(MOST_AT_ONCE):
                packet = os.read(source, LARGEST)
                now = time.monotonic()
                self._deliver(now)
                direction.offer(packet, now)

    def _deliver(self, now: float) -> None:
        for _, direction, target in self._ways:
            at = direction.next_at
            if at is None or at > now:
                continue
            for arrival, packet in direction.advance(now):
                # A device whose host has gone takes nothing; the lab is being taken down.
                with contextlib.suppress(OSError):
                    os.write(target, packet)
                self._board.tell_late(time.monotonic() - arrival)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", choices=sorted(PROFILES))
    parser.add_argument("clinic", help="name of the clinic's TUN device")
    parser.add_argument("hub", help="name of the hub's TUN device")
    parser.add_argument("--board", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steady", action="store_true", help="leave out the profile's outages")
    parser.add_argument("--lossless", action="store_true", help="leave out the profile's losses and outages")
    options = parser.parse_args()
    profile = PROFILES[options.profile]
    profile = profile.lossless if options.lossless else profile.steady if options.steady else profile
    with contextlib.suppress(OSError):
        # Other processes of the machine must not slow the link; the scheduler's own limit (95 %) guards against us.
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    with SharedCounters(options.board) as board:
        clinic, hub = open_tun(options.clinic), open_tun(options.hub)
        print("devices", flush=True)  # the lab moves them into their hosts now
        with contextlib.suppress(KeyboardInterrupt):
            Emulator(profile, clinic, hub, board, options.seed).run()


if __name__ == "__main__":
    main()
