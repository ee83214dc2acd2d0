"""The load laboratory's scenarios on one hub with N clinics: connecting, rest, the peak of the morning, a burst, slow
and deaf clinics, and a storm of reconnections after `kill -9`."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.load.fleet import Fleet, arrivals, peak_rate
from benchmarks.load.hub import LoadHub, Server
from benchmarks.load.ledger import spread
from benchmarks.load.stream import Behaviour, LoadClinic
from benchmarks.load.studies import GRAPH_ALONE, WITH_PIXELS, Clinic, LoadStudy, StudyMaker

Row = dict[str, Any]

BULK_EVERY = 10
"""One study of so many brings its pixels too, while the others bring graphs."""
URGENT_EVERY = 20
SLOW_SHARE, DEAF_SHARE = 0.05, 0.02
DIAL_OVER = 10.0
"""Seconds over which the clinics dial first."""
SLICES = 8
"""Parts of a measurement at rest, for its interval."""
WARM = 32


@dataclass(frozen=True)
class Extent:
    """How long the scenarios are."""

    rest: float
    """Seconds."""
    peak: float
    """Seconds."""
    least: int
    """Studies in the peak, where its rate would bring fewer."""
    burst: int
    """Graphs."""
    bursts: int
    """Repetitions."""
    patience: float
    """Seconds for what must come about; a scenario that does not end tells so."""


QUICK = Extent(rest=8.0, peak=10.0, least=40, burst=200, bursts=1, patience=120.0)
WHOLE = Extent(rest=60.0, peak=60.0, least=300, burst=2000, bursts=3, patience=600.0)


class Scenarios:
    """One hub with its clinics; the scenarios follow one another on it."""

    def __init__(self, hub: LoadHub, clinics: Sequence[Clinic], maker: StudyMaker, extent: Extent) -> None:
        self._hub = hub
        self._clinics = clinics
        self._maker = maker
        self._extent = extent
        self._made = 0

    async def run(self) -> Row:
        server = self._hub.serve()
        try:
            fleet = Fleet(self._clinics, lambda: server.target)
            empty = await self._rest(server)
            row: Row = {"clinics": len(self._clinics), "without_clinics": empty}
            async with fleet.running(DIAL_OVER):
                for name, part in (
                    ("connect", self._connect),
                    ("rest", self._rest_of),
                    ("peak", self._peak),
                    ("burst", self._burst),
                    ("rough", self._rough),
                ):
                    row[name] = await part(fleet, server)
                    print(json.dumps({name: row[name]}), flush=True)
                server, row["storm"] = await self._storm(fleet, server)
                print(json.dumps({"storm": row["storm"]}), flush=True)
            row["hub"] = self._hub.stored(fleet.ledger.studies)
            row["account"] = {name: fleet.ledger.result()[name] for name in ("given", "acknowledged", "lost", "twice")}
            row["ended"] = dict(sorted(fleet.counts.items()))
            return row
        finally:
            if server.process.poll() is None:
                server.kill()

    def _studies(self, fleet: Fleet, count: int, pixels: bool) -> list[tuple[LoadClinic, LoadStudy]]:
        """New studies, one clinic after another. pixels: whether some bring all parts."""
        found = []
        for n in range(count):
            number = self._made
            self._made += 1
            clinic = fleet.clinics[number % len(fleet.clinics)]
            kinds = WITH_PIXELS if pixels and n % BULK_EVERY == 0 else GRAPH_ALONE
            study = self._maker.make(clinic.clinic, number, kinds, urgent=n % URGENT_EVERY == 0)
            found.append((clinic, study))
        return found

    async def _connect(self, fleet: Fleet, server: Server) -> Row:
        before = server.used.seconds
        whole = await fleet.all_connected(self._extent.patience)
        seconds = fleet.connect_seconds(fleet.began)
        return {
            "dialled_over_seconds": DIAL_OVER,
            "all": whole,
            "seconds": spread(seconds),
            "processor_ms_a_clinic": round(1000 * (server.used.seconds - before) / len(self._clinics), 2),
        }

    async def _rest_of(self, fleet: Fleet, server: Server) -> Row:
        """With every clinic connected. The first studies, before that, load what the later ones use."""
        for clinic, study in self._studies(fleet, WARM, pixels=True):
            clinic.give(study)
        await fleet.all_done(self._extent.patience)
        return await self._rest(server)

    async def _rest(self, server: Server) -> Row:
        shares = []
        for _ in range(SLICES):
            used, began = server.used.seconds, time.monotonic()
            await asyncio.sleep(self._extent.rest / SLICES)
            shares.append(100 * (server.used.seconds - used) / (time.monotonic() - began))
        now = server.used
        return {
            "core_percent": round(float(np.mean(shares)), 3),
            "core_percent_95": interval(shares),
            "seconds": self._extent.rest,
            "memory_mb": round(now.megabytes, 1),
            "threads": now.threads,
        }

    async def _peak(self, fleet: Fleet, server: Server) -> Row:
        """Studies come as in the peak of the morning, some with their pixels."""
        rate = peak_rate(len(self._clinics))
        count = max(self._extent.least, round(rate * self._extent.peak))
        studies = self._studies(fleet, count, pixels=True)
        rate = max(rate, count / self._extent.peak)
        times = arrivals(rate, count, seed=len(self._clinics))
        used, began = server.used.seconds, time.monotonic()
        await fleet.arrive([(at, *each) for at, each in zip(times, studies, strict=True)])
        done = await fleet.all_done(self._extent.patience)
        took = time.monotonic() - began
        share = 100 * (server.used.seconds - used) / took
        return {
            "studies_a_second": round(rate, 2),
            "done": done,
            "core_percent": round(share, 1),
        } | fleet.ledger.result(began)

    async def _burst(self, fleet: Fleet, server: Server) -> Row:
        """As after a night without a link: every clinic has graphs to send at once."""
        spent, took, result = [], [], Row()
        for _ in range(self._extent.bursts):
            studies = self._studies(fleet, self._extent.burst, pixels=False)
            used, began, own = server.used.seconds, time.monotonic(), time.process_time()
            for clinic, study in studies:
                clinic.give(study)
            done = await fleet.all_done(self._extent.patience)
            took.append(time.monotonic() - began)
            spent.append(1000 * (server.used.seconds - used) / len(studies))
            result = {"done": done, "generator_seconds": round(time.process_time() - own, 1)} | fleet.ledger.result(
                began
            )
        return {
            "graphs": self._extent.burst,
            "processor_ms_a_graph": [round(each, 2) for each in spent],
            "seconds_until_all_predicted": [round(each, 2) for each in took],
        } | result

    async def _rough(self, fleet: Fleet, server: Server) -> Row:
        """The peak once more, while some clinics' bytes trickle and others do not read: they must slow nobody."""
        slow = fleet.clinics[: max(1, round(SLOW_SHARE * len(fleet.clinics)))]
        deaf = fleet.clinics[len(slow) : len(slow) + max(1, round(DEAF_SHARE * len(fleet.clinics)))]
        fleet.behave(Behaviour.SLOW, slow)
        fleet.behave(Behaviour.DEAF, deaf)
        others = [each for each in fleet.clinics if each.behaviour is Behaviour.USUAL]
        began = time.monotonic()
        count = max(self._extent.least, 2 * len(slow))
        for n, clinic in enumerate([*slow, *deaf]):
            clinic.give(self._maker.make(clinic.clinic, self._made + n, WITH_PIXELS))
        self._made += len(slow) + len(deaf)
        awaited = []
        for n in range(count):
            clinic = others[n % len(others)]
            study = self._maker.make(clinic.clinic, self._made, GRAPH_ALONE)
            self._made += 1
            awaited.append(study.key)
            clinic.give(study)
            await asyncio.sleep(self._extent.peak / count)
        deadline = time.monotonic() + self._extent.patience
        while (times := fleet.ledger.triaged_seconds(awaited)) and None in times and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        found = {
            "slow": len(slow),
            "deaf": len(deaf),
            "others_seconds_to_triaged": spread(each for each in times if each is not None),
            "memory_mb": round(server.used.megabytes, 1),
        }
        fleet.behave(Behaviour.USUAL, fleet.clinics)
        for each in deaf:
            each.end()  # it is dialled again, as by a clinic whose program starts anew
        found["all_done"] = await fleet.all_done(self._extent.patience)
        return found | {"seconds": round(time.monotonic() - began, 1)}

    async def _storm(self, fleet: Fleet, server: Server) -> tuple[Server, Row]:
        """`kill -9` in the middle of arriving studies, and a start at once; every clinic dials again."""
        studies = self._studies(fleet, self._extent.burst, pixels=True)
        began = time.monotonic()
        for clinic, study in studies[: len(studies) // 2]:
            clinic.give(study)
        await asyncio.sleep(1.0)
        killed = time.monotonic()
        server.kill()
        for clinic, study in studies[len(studies) // 2 :]:
            clinic.give(study)
        port = int(server.target.rpartition(":")[2])
        server = await asyncio.to_thread(self._hub.serve, port)
        ready = time.monotonic()
        deadline = ready + self._extent.patience
        while len(fleet.connect_seconds(killed)) < len(fleet.clinics) and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        done = await fleet.all_done(self._extent.patience)
        result = fleet.ledger.result(began)
        return server, {
            "seconds_to_ready": round(ready - killed, 2),
            "seconds_to_connected_after_ready": spread(
                each - (ready - killed) for each in fleet.connect_seconds(killed)
            ),
            "all_connected": len(fleet.connect_seconds(killed)) == len(fleet.clinics),
            "done": done,
            "seconds_until_done": round(time.monotonic() - killed, 2),
        } | {name: result[name] for name in ("given", "acknowledged", "triaged", "lost", "twice")}


def interval(values: Sequence[float], seed: int = 1) -> tuple[float, float]:
    """95 % interval of the mean by bootstrap."""
    drawn = np.random.default_rng(seed).choice(np.asarray(values), (2000, len(values))).mean(axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return round(float(low), 3), round(float(high), 3)


def slope(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(slope, value at 0) of the straight line through points by least squares."""
    x, y = np.asarray(points, dtype=float).T
    found, start = np.polyfit(x, y, 1)
    return float(found), float(start)
