"""Kills at random in a cluster under load; `python -m tests.support.cluster_chaos FOLDER` plays it, and ends with an
error where a study is lost, comes twice, or is predicted or forwarded twice."""

import asyncio
import faulthandler
import os
import random
import sys
import time
from pathlib import Path

from benchmarks.load.cluster import Cluster, Part
from benchmarks.load.fleet import Fleet, allow_descriptors, arrivals
from benchmarks.load.studies import GRAPH_ALONE, WITH_PIXELS, StudyMaker
from tests.support.counting_pacs import CountingPacs
from tests.support.postgresql import PostgresServer
from thinwire.shared.formats.bundle import default_bundle_folder, load_bundle

SECONDS = float(os.environ.get("THINWIRE_CLUSTER_SECONDS", "30"))
CLINICS = int(os.environ.get("THINWIRE_CLUSTER_CLINICS", "40"))
SEED = int(os.environ.get("THINWIRE_CLUSTER_SEED", "20261130"))
STUDIES_A_CLINIC = 3
WITH_PIXELS_EVERY = 5
"""One study of so many has its files, and is forwarded."""
EVERY = 3.0
"""Seconds between two kills, about."""
DOWN = 1.0
"""Seconds until a killed part is there again, without the time of its start."""
PATIENCE = 240.0
STALL = 20.0
"""Seconds after which a clinic dials again on a silent link; 120 at a real one."""
PIXELS = "1.2.840.10008.5.1.4.1.1.1"
"""The beginning of the SOP Class UIDs of radiographs."""


class Chaos:
    """Kills one part after another, and starts it again."""

    def __init__(self, cluster: Cluster, fleet: Fleet, seed: int) -> None:
        self._cluster = cluster
        self._fleet = fleet
        self._random = random.Random(seed)
        self.done: list[str] = []

    async def run(self, seconds: float) -> None:
        """Every kind of part once in a random order, then at random."""
        end = time.monotonic() + seconds
        acts = {
            "replica": lambda: self._kill(self._random.choice(self._cluster.serving)),
            "worker": lambda: self._kill(self._random.choice(self._cluster.workers)),
            "PostgreSQL": self._postgres,
            "object store": self._object_store,
            "dead links": self._dead_links,
            "storm": self._storm,
        }
        order = self._random.sample(list(acts), len(acts))
        while time.monotonic() < end:
            await asyncio.sleep(EVERY * self._random.uniform(0.5, 1.5))
            act = order.pop() if order else self._random.choice(list(acts))
            self.done.append(act)
            await acts[act]()

    async def _kill(self, part: Part) -> None:
        await part.kill()
        await asyncio.sleep(DOWN)
        await part.begin()

    async def _postgres(self) -> None:
        await asyncio.to_thread(self._cluster.postgres.kill)
        await asyncio.sleep(DOWN)
        await asyncio.to_thread(self._cluster.postgres.start)

    async def _object_store(self) -> None:
        await self._cluster.store_line.cut()
        await asyncio.sleep(2 * DOWN)
        await self._cluster.store_line.mend()

    async def _dead_links(self) -> None:
        self._cluster.balancer.freeze(max(1, len(self._fleet.clinics) // 20))

    async def _storm(self) -> None:
        for each in self._random.sample(self._fleet.clinics, len(self._fleet.clinics) // 2):
            each.end()


async def play(cluster: Cluster, pacs: CountingPacs) -> None:
    clinics = await cluster.make(CLINICS)
    async with cluster.running():
        fleet = Fleet(clinics, lambda: cluster.balancer.target, SEED, STALL)
        maker = StudyMaker(load_bundle(default_bundle_folder()))
        made = []
        for number in range(CLINICS * STUDIES_A_CLINIC):
            clinic = fleet.clinics[number % CLINICS]
            kinds = WITH_PIXELS if number % WITH_PIXELS_EVERY == 0 else GRAPH_ALONE
            made.append((clinic, maker.make(clinic.clinic, number, kinds, urgent=number % 7 == 0)))
        async with fleet.running(3.0):
            assert await fleet.all_connected(PATIENCE), fleet.counts
            chaos = Chaos(cluster, fleet, SEED)
            times = arrivals(len(made) / SECONDS, len(made), SEED)
            giving = asyncio.ensure_future(fleet.arrive([(at, *each) for at, each in zip(times, made, strict=True)]))
            await chaos.run(SECONDS)
            await giving
            done = await fleet.all_done(PATIENCE)
            told = f"{chaos.done}; {dict(fleet.counts)}; {fleet.ledger.result()}"
            assert done, told
            assert fleet.ledger.twice() == 0, told
            assert fleet.ledger.unknown == 0, told
            forwarded = len(range(0, len(made), WITH_PIXELS_EVERY))
            deadline = time.monotonic() + PATIENCE
            while len(pacs.of(PIXELS)) < forwarded and time.monotonic() < deadline:
                await asyncio.sleep(0.2)
            assert len(pacs.of(PIXELS)) == forwarded, told
    assert cluster.hub.stored(fleet.ledger.studies) == {
        "studies": len(made),
        "missing": 0,
        "in_excess": 0,
        "triaged_once": len(made),
        "triaged_twice": 0,
    }
    # An association that a kill cut is repeated, under the same SOP Instance UIDs: no other instance goes twice.
    kills = sum(each.kills for each in cluster.workers)
    assert sum(count - 1 for count in pacs.of(PIXELS).values()) <= kills, pacs.of(PIXELS)
    assert "0 findings" in await asyncio.to_thread(cluster.check)


def main() -> None:
    faulthandler.enable()
    allow_descriptors()
    postgres = PostgresServer()
    try:
        postgres.start()
        with CountingPacs().running() as pacs:
            target = f'[[forward.targets]]\nname = "pacs"\nkind = "c-store"\nhost = "127.0.0.1"\nport = {pacs.port}\n'
            cluster = Cluster(Path(sys.argv[1]) / "cluster", postgres, config=target + 'called = "PACS"\n')

            async def played() -> None:
                async with cluster.store():
                    await play(cluster, pacs)

            asyncio.run(played())
    finally:
        postgres.remove()


if __name__ == "__main__":
    main()
