"""Deaths in a cluster and the time to recover: `kill -9` of a replica, of a process that predicts and of PostgreSQL,
and an object store that is gone for a while, each while studies arrive."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable

from benchmarks.load.cluster import Cluster, Part
from benchmarks.load.fleet import Fleet
from benchmarks.load.ledger import spread
from benchmarks.load.scenarios import BULK_EVERY, Row
from benchmarks.load.studies import GRAPH_ALONE, WITH_PIXELS, StudyMaker
from thinwire.shared.identifiers import StudyKey

PROBES = 20
"""Studies that are given right after a death; they tell the time to recover."""
AROUND = 20
"""Studies that are under way when it comes."""
DOWN = 2.0
"""Seconds until what was killed is started again."""
PATIENCE = 300.0


class Deaths:
    """All kinds of death, some times each, in a cluster that runs."""

    def __init__(self, cluster: Cluster, fleet: Fleet, maker: StudyMaker) -> None:
        self._cluster = cluster
        self._fleet = fleet
        self._maker = maker
        self._made = 0

    async def run(self, times: int) -> list[Row]:
        deaths: dict[str, Callable[[], Awaitable[None]]] = {
            "a replica": lambda: self._part(self._cluster.serving[0]),
            "a process that predicts": lambda: self._part(self._cluster.workers[0]),
            "PostgreSQL": self._postgres,
            "the object store": self._object_store,
        }
        rows = []
        for name, death in deaths.items():
            found = [await self._one(death) for _ in range(times)]
            rows.append({"killed": name, "times": times} | {key: [each[key] for each in found] for key in found[0]})
            print(json.dumps(rows[-1]), flush=True)
        return rows

    async def _one(self, death: Callable[[], Awaitable[None]]) -> Row:
        self._give(AROUND)
        await asyncio.sleep(0.2)
        died = time.monotonic()
        back = asyncio.ensure_future(death())
        await asyncio.sleep(0)
        probes = self._give(PROBES)
        await back
        ready = time.monotonic() - died
        done = await self._fleet.all_done(PATIENCE)
        seconds = spread(each for each in self._fleet.ledger.triaged_seconds(probes) if each is not None)
        return {"done": done, "seconds_until_started_again": round(ready, 2), "seconds_to_triaged": seconds}

    def _give(self, count: int) -> list[StudyKey]:
        keys: list[StudyKey] = []
        for _ in range(count):
            clinic = self._fleet.clinics[self._made % len(self._fleet.clinics)]
            kinds = WITH_PIXELS if self._made % BULK_EVERY == 0 else GRAPH_ALONE
            study = self._maker.make(clinic.clinic, self._made, kinds)
            self._made += 1
            clinic.give(study)
            keys.append(study.key)
        return keys

    async def _part(self, part: Part) -> None:
        await part.kill()
        await asyncio.sleep(DOWN)
        await part.begin()

    async def _postgres(self) -> None:
        await asyncio.to_thread(self._cluster.postgres.kill)
        await asyncio.sleep(DOWN)
        await asyncio.to_thread(self._cluster.postgres.start)

    async def _object_store(self) -> None:
        await self._cluster.store_line.cut()
        await asyncio.sleep(DOWN)
        await self._cluster.store_line.mend()


async def deaths(cluster: Cluster, maker: StudyMaker, clinics: int, times: int) -> Row:
    """The rows of all deaths, and the account at the end."""
    async with cluster.store():
        joined = await cluster.make(clinics)
        async with cluster.running():
            fleet = Fleet(joined, lambda: cluster.balancer.target)
            async with fleet.running(5.0):
                await fleet.all_connected(PATIENCE)
                rows = await Deaths(cluster, fleet, maker).run(times)
            return {
                "clinics": clinics,
                "replicas": cluster.replicas,
                "work": cluster.work,
                "rows": rows,
                "hub": cluster.hub.stored(fleet.ledger.studies),
                "account": {
                    key: fleet.ledger.result()[key] for key in ("given", "acknowledged", "triaged", "lost", "twice")
                },
                "ended": dict(sorted(fleet.counts.items())),
            }
