"""Any error at any loop, at any kind of item, at random: all else arrives, the item is told, and it arrives later."""

import json
import threading
from pathlib import Path

import pytest

from tests.support.attack import LONG, End, Pair, pair
from tests.support.chaos import OF_LOOP, OF_STUDY, launcher, site_of
from tests.support.programs import at_hub, call, until
from thinwire.shared.formats.bundle import default_bundle_folder
from thinwire.shared.identifiers import StudyKey, digest, study_key

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not default_bundle_folder().is_dir(), reason="needs the default bundle"),
    pytest.mark.skipif(not LONG, reason="runs in make attack; the short form: tests/faults/test_one_thing.py"),
]
SECONDS = 60.0
EVERY = 3.0
SEED = 20261130


def key_of(data: bytes) -> StudyKey:
    return study_key([digest(data)])


def retry(two: Pair) -> None:
    """As a person does again and again."""
    call("thinwire-sender", "retry", "--data", two.clinic_data)
    at_hub("retry", "--data", two.hub_data)


@pytest.mark.parametrize("which", ["thinwire-sender", "thinwire-receiver"])
def test_whatever_fails_at_one_end_all_else_arrives(tmp_path: Path, which: str) -> None:
    with pair(tmp_path) as two:
        flag, tick = tmp_path / "chaos", threading.Event()
        end: End = two.clinic if which == "thinwire-sender" else two.hub
        two.hub.stop()
        end.launcher = launcher(flag, SEED)
        two.hub.start()
        two.clinic.start()
        two.give(99)
        two.settle()  # a disk that fails at a start ends the process, which a supervisor starts again
        flag.touch()
        for number in range(int(SECONDS / EVERY)):
            two.give(number)
            tick.wait(EVERY)
            assert end.alive, end.log.read_text()[-3000:]
            if number % 4 == 3:
                retry(two)
        keys = {key_of(data): site_of(SEED, which, key_of(data)) for data in two.given.values()}
        poisoned = {key for key, site in keys.items() if site is not None}
        assert poisoned, "no study is poisoned: choose another seed"

        def all_else() -> bool:
            retry(two)
            rows = json.loads(at_hub("worklist", "--data", two.hub_data, "--all", "--json"))
            triaged = {bytes.fromhex(row["study"]) for row in rows if row["complete"] and row["urgency"]}
            return keys.keys() - poisoned <= triaged

        until(all_else, 300.0, 2.0)
        assert end.alive
        errors = flag.with_suffix(".errors").read_text()
        sites = (*OF_STUDY[which], *OF_LOOP[which])
        assert sum(site in errors for site in sites) >= len(sites) - 2  # some work is at a start alone
        status = "thinwire-sender" if end is two.clinic else "thinwire-receiver"
        data = two.clinic_data if end is two.clinic else two.hub_data
        parked = json.loads(call(status, "status", "--data", data, "--json"))["parked"]
        assert parked, "what is poisoned is told"
        assert all(each["reason"] for each in parked)
        flag.unlink()
        retry(two)
        two.settle()
        two.assert_all_once()
        until(lambda: json.loads(call(status, "status", "--data", data, "--json"))["parked"] == [], 60.0, 1.0)
