"""The scenarios: each takes a case and gives a row."""

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.link.faults import Barrage, Faults, NoFaults, PowerCuts, kill, outage
from benchmarks.link.lab import Lab, open_lab
from benchmarks.link.peers import PEERS
from benchmarks.link.peers.peer import Peer
from benchmarks.link.peers.thinwire import Thinwire
from benchmarks.link.profiles import PROFILES, Profile
from benchmarks.link.studies import SEED, STUDIES, study_file
from benchmarks.link.transfer import TICK, TransferRun

MID_TRANSFER = 0.12
"""Share of the study's own bytes after which a fault comes: in the middle for whoever compresses, early for others."""
OUTAGE_SECONDS = 60.0
MOST_URGENT = 20
URGENT_PAUSE = (1.0, 4.0)
"""Seconds between two urgent studies, drawn."""
BARRAGE_STUDIES = 6
SETTLE_SECONDS = 1.0
"""A link is quiet for so long before the clock starts."""
SMALL, LARGE = "small-8bit", "10MB-12bit"


@dataclass(frozen=True)
class Case:
    """One run; its name is the name of its row's file."""

    scenario: str
    profile: str
    peer: str
    study: str
    repeat: int = 0

    @property
    def name(self) -> str:
        return f"{self.scenario}.{self.profile}.{self.peer}.{self.study}.{self.repeat}"

    @property
    def seed(self) -> int:
        """The same for every peer of a profile, a study and a repeat: all meet the same line."""
        told = f"{self.scenario} {self.profile} {self.study} {self.repeat}"
        return int.from_bytes(hashlib.sha256(told.encode()).digest()[:4], "big")

    @property
    def phase(self) -> float:
        """How far into its first good time a link with outages is when the clock starts, seconds; drawn."""
        schedule = PROFILES[self.profile].schedule
        return 0.0 if schedule is None else Random(f"phase {self.seed}").uniform(0, schedule.up)


@dataclass(frozen=True)
class Setting:
    """The common part of all cases of a bench."""

    studies: Path
    """Folder of the study files."""
    congestion: str
    relay: bool
    """Take the fallback instead of the emulator."""


@contextlib.contextmanager
def running(case: Case, setting: Setting, *, steady: bool) -> Iterator[tuple[Lab, Peer]]:
    """A lab with the case's peer started in it. thinwire's stream is open and its models are loaded, as on any
    morning; the others keep nothing open between two studies."""
    kind = PEERS[case.peer]
    profile = PROFILES[case.profile]
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(
            open_lab(profile, case.seed, setting.congestion, steady=steady, relay=setting.relay, relay_ports=kind.ports)
        )
        peer = kind(lab, lab.folder / "peer")
        stack.callback(peer.close)
        peer.start()
        if isinstance(peer, Thinwire):
            peer.warm_up(study_file(STUDIES[SMALL], setting.studies, SEED + 1))
        # Packets of the warm-up that are still on their way belong to no run.
        time.sleep(SETTLE_SECONDS + profile.round_trip)
        yield lab, peer


def limit(profile: Profile, size: int) -> float:
    """Seconds after which a run is given up: six times the time of the raw bytes, outages included."""
    share = 1.0
    if profile.schedule is not None:
        share = profile.schedule.up / (profile.schedule.up + profile.schedule.down)
    return 180 + 6 * size * 8 / profile.up.rate / share


def transfer(case: Case, setting: Setting) -> dict[str, Any]:
    """One study from command to stored. On a profile with outages a script gives it again where it failed."""
    profile = PROFILES[case.profile]
    study = study_file(STUDIES[case.study], setting.studies)
    with running(case, setting, steady=False) as (lab, peer):
        faults: Faults = PowerCuts(lab.board.is_down) if profile.power else NoFaults()
        carrier = TransferRun(lab, peer, faults, persist=profile.schedule is not None, phase=case.phase)
        journey = carrier.give(study)
        carrier.until([journey], limit(profile, study.stat().st_size))
        carrier.verify()
        told = carrier.told()
        if isinstance(peer, Thinwire):
            told["sealed"] = peer.sealed_bytes(journey.sending)
        return told


def interrupted(case: Case, setting: Setting, faults: Callable[[int], Faults]) -> dict[str, Any]:
    """One study with a fault in its middle; a script gives it again where it failed."""
    study = study_file(STUDIES[case.study], setting.studies)
    size = study.stat().st_size
    with running(case, setting, steady=True) as (lab, peer):
        carrier = TransferRun(lab, peer, faults(int(MID_TRANSFER * size)), persist=True)
        journey = carrier.give(study)
        carrier.until([journey], limit(PROFILES[case.profile], size) + 2 * OUTAGE_SECONDS)
        carrier.verify()
        return carrier.told()


def with_outage(case: Case, setting: Setting) -> dict[str, Any]:
    return interrupted(case, setting, lambda crossed: outage(crossed, OUTAGE_SECONDS))


def kill_clinic(case: Case, setting: Setting) -> dict[str, Any]:
    return interrupted(case, setting, lambda crossed: kill(crossed, clinic=True))


def kill_hub(case: Case, setting: Setting) -> dict[str, Any]:
    return interrupted(case, setting, lambda crossed: kill(crossed, clinic=False))


def urgent_idle(case: Case, setting: Setting) -> dict[str, Any]:
    return _urgent(case, setting, bulk=False)


def urgent_bulk(case: Case, setting: Setting) -> dict[str, Any]:
    return _urgent(case, setting, bulk=True)


def _urgent(case: Case, setting: Setting, bulk: bool) -> dict[str, Any]:
    """Small urgent studies, one after another, on an idle link or behind a bulk transfer."""
    profile = PROFILES[case.profile]
    random = Random(case.seed)
    small = [study_file(STUDIES[SMALL], setting.studies, SEED + 10 + number) for number in range(MOST_URGENT)]
    large = study_file(STUDIES[LARGE], setting.studies)
    with running(case, setting, steady=True) as (lab, peer):
        carrier = TransferRun(lab, peer, NoFaults(), persist=True)
        most = limit(profile, large.stat().st_size)
        transfer = None
        if bulk:
            transfer = carrier.give(large)
            # Not before the bulk fills the line: thinwire makes its tiers first.
            while carrier.crossed < MID_TRANSFER / 2 * large.stat().st_size and carrier.now < most:
                carrier.look()
                time.sleep(TICK)
        began, crossed = carrier.now, carrier.crossed
        done = []
        for study in small:
            if transfer is not None and transfer.stored:
                break
            journey = carrier.give(study, urgent=True)
            while not {"tier0", "stored"} & journey.moments.keys() and carrier.now < most:
                carrier.look()
                time.sleep(TICK)
            if transfer is None or not transfer.stored:
                done.append(journey)
            pause = carrier.now + random.uniform(*URGENT_PAUSE)
            while carrier.now < pause:
                carrier.look()
                time.sleep(TICK)
        share = (carrier.crossed - crossed) * 8 / profile.up.rate / (carrier.now - began)
        # An urgent study's own end is no matter here; its graph, or the file itself, has arrived.
        return {**carrier.told(), "urgent": [each.told() for each in done], "line_share": round(share, 4)}


def fresh(case: Case, setting: Setting) -> dict[str, Any]:
    """thinwire alone: a graph waits, the process starts, and the clock runs from the first packet of its first dial."""
    study = study_file(STUDIES[case.study], setting.studies)
    with running(case, setting, steady=True) as (lab, peer):
        carrier = TransferRun(lab, peer, NoFaults(), persist=False)
        peer.kill_hub()
        journey = carrier.give(study)
        most = limit(PROFILES[case.profile], study.stat().st_size)
        while "pixels_made" not in journey.moments and carrier.now < most:
            carrier.look()
            time.sleep(TICK)
        peer.kill_clinic()
        peer.start_hub()
        peer.until_ready(hub=True)
        # Packets of the killed process that are still on their way belong to no dial.
        time.sleep(SETTLE_SECONDS + PROFILES[case.profile].round_trip)
        before = lab.board.up
        down_before = lab.board.down
        peer.start_clinic()
        while lab.board.up.offered == before.offered and carrier.now < most:
            time.sleep(TICK / 10)
        first_packet = carrier.now
        while "tier0" not in journey.moments and carrier.now < most:
            carrier.look()
            time.sleep(TICK / 10)
        up, down = lab.board.up, lab.board.down
        journey.moments["first_packet"] = first_packet
        return {
            **carrier.told(),
            "up_bytes_until_tier0": up.offered_bytes - before.offered_bytes,
            "down_bytes_until_tier0": down.offered_bytes - down_before.offered_bytes,
        }


def barrage(case: Case, setting: Setting) -> dict[str, Any]:
    """Several studies through ten minutes of outages and kills."""
    return _many(case, setting, lambda seed: Barrage(Random(seed)))


def no_barrage(case: Case, setting: Setting) -> dict[str, Any]:
    """The same studies without faults: the bytes that they need."""
    return _many(case, setting, lambda _: NoFaults())


def _many(case: Case, setting: Setting, faults: Callable[[int], Faults]) -> dict[str, Any]:
    profile = PROFILES[case.profile]
    size = STUDIES[case.study]
    files = [study_file(size, setting.studies, SEED + 100 + number) for number in range(BARRAGE_STUDIES)]
    with running(case, setting, steady=False) as (lab, peer):
        carrier = TransferRun(lab, peer, faults(case.seed), persist=True, phase=case.phase)
        journeys = [carrier.give(each) for each in files]
        carrier.until(journeys, limit(profile, sum(each.stat().st_size for each in files)))
        carrier.verify()
        return carrier.told()


SCENARIOS: dict[str, Callable[[Case, Setting], dict[str, Any]]] = {
    "transfer": transfer,
    "outage": with_outage,
    "kill-clinic": kill_clinic,
    "kill-hub": kill_hub,
    "urgent-idle": urgent_idle,
    "urgent-bulk": urgent_bulk,
    "fresh": fresh,
    "barrage": barrage,
    "no-barrage": no_barrage,
}


def run(case: Case, setting: Setting) -> dict[str, Any]:
    """The case's row. A peer's failure is in the row; a lab that does not work raises."""
    began = time.time()
    told = SCENARIOS[case.scenario](case, setting)
    return {**asdict(case), "seed": case.seed, "congestion": setting.congestion, "taken_at": began, **told}
