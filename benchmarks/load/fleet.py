"""Many clinics in one process, each on a TLS stream of its own, and the studies that arrive at them."""

import asyncio
import json
import random
import resource
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.link.clinic_day import CLOSES, OPENS, PEAK_BEGINS, PEAK_ENDS, PEAK_SHARE
from benchmarks.load.ledger import Ledger
from benchmarks.load.stream import Behaviour, LoadClinic
from benchmarks.load.studies import Clinic, LoadStudy
from thinwire.sender.transport.session import STALL_SECONDS
from thinwire.shared.crypto.envelope import EpochKey
from thinwire.shared.crypto.keys import Identity
from thinwire.shared.identifiers import site_name

STUDIES_A_DAY = 20
"""Of one clinic. An assumption, as the shape of the day is (benchmarks.link.clinic_day): half of the day's studies in
the peak of the morning, the others evenly while the clinic is open."""
DESCRIPTORS = 20_000
LOOK_SECONDS = 1.0


def peak_rate(clinics: int, a_day: float = STUDIES_A_DAY) -> float:
    """Studies a second that arrive at these clinics together in the peak of the morning."""
    evenly = (1 - PEAK_SHARE) / (CLOSES - OPENS)
    return clinics * a_day * (PEAK_SHARE / (PEAK_ENDS - PEAK_BEGINS) + evenly)


def arrivals(rate: float, count: int, seed: int) -> list[float]:
    """Seconds from the start at which studies arrive: a Poisson process. rate: a second."""
    chance, at, found = random.Random(seed), 0.0, list[float]()
    for _ in range(count):
        at += chance.expovariate(rate)
        found.append(at)
    return found


def read_clinics(path: Path) -> list[Clinic]:
    """The clinics in a file of `enrol`."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        identity = Identity(row["certificate"].encode(), row["key"].encode())
        signing = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(row["signing"]))
        epoch = EpochKey.from_bytes(bytes.fromhex(row["epoch"]))
        found.append(
            Clinic(
                site_name(row["site"]),
                row["authority"].encode(),
                identity,
                signing,
                epoch,
                bytes.fromhex(row["record"]),
            )
        )
    return found


def allow_descriptors(count: int = DESCRIPTORS) -> None:
    """Let this process, and those it starts, open so many files."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if most == resource.RLIM_INFINITY else min(count, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


class Fleet:
    """target: gives HOST:PORT for each attempt to connect."""

    def __init__(
        self, clinics: Sequence[Clinic], target: Callable[[], str], seed: int = 1, stall: float = STALL_SECONDS
    ) -> None:
        self.ledger = Ledger()
        self.counts: Counter[str] = Counter()
        self.began = time.monotonic()
        self.clinics = [
            LoadClinic(each, target, self.ledger, self.counts, seed * 1_000_003 + n, stall=stall)
            for n, each in enumerate(clinics)
        ]
        self._random = random.Random(seed)

    @asynccontextmanager
    async def running(self, spread: float = 0.0) -> AsyncIterator["Fleet"]:
        """The clinics keep their streams within the block. spread: seconds over which they dial first, evenly."""
        self.began = time.monotonic()
        tasks = [asyncio.ensure_future(each.run(self._random.uniform(0, spread))) for each in self.clinics]
        tasks.append(asyncio.ensure_future(self._look()))
        try:
            yield self
        finally:
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def connected(self) -> int:
        return sum(each.welcomed for each in self.clinics)

    async def all_connected(self, patience: float) -> bool:
        """Wait until every clinic is connected; False after `patience` seconds."""
        return await _until(lambda: self.connected == len(self.clinics), patience)

    async def all_done(self, patience: float) -> bool:
        """Wait until every study is acknowledged and triaged; False after `patience` seconds."""
        return await _until(lambda: self.ledger.waiting == 0, patience)

    async def arrive(self, studies: Iterable[tuple[float, LoadClinic, LoadStudy]]) -> None:
        """Give studies to clinics at their times: seconds from now, ascending."""
        began = time.monotonic()
        for at, clinic, study in studies:
            await asyncio.sleep(max(0.0, began + at - time.monotonic()))
            clinic.give(study)

    def behave(self, behaviour: Behaviour, clinics: Iterable[LoadClinic]) -> None:
        for each in clinics:
            each.behaviour = behaviour

    def connect_seconds(self, since: float) -> list[float]:
        """Seconds from a moment until each clinic was welcomed for the first time after it; those that were."""
        first = [[welcomed for _, welcomed in each.connects if welcomed >= since] for each in self.clinics]
        return [times[0] - since for times in first if times]

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = time.monotonic()
            for each in self.clinics:
                each.look(now)


async def _until(true: Callable[[], bool], patience: float) -> bool:
    end = time.monotonic() + patience
    while not true():
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.05)
    return True
