"""One process of a clinic for `benchmarks.load.clinic`. Runs with any version of thinwire since 0.1 that is on the path.

python clinic_process.py run DATA            `thinwire-sender run`, which also prints when it makes, has and offers a part
python clinic_process.py accept DATA         accepts the files that it reads from standard input, one a line
python clinic_process.py fill DATA COUNT     copies the one study that is at the hub, until there are COUNT entries
"""

import functools
import json
import os
import secrets
import shutil
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any


def say(*words: object) -> None:
    print(*words, flush=True)


def told(owner: Any, name: str, word: str, when: str) -> None:
    """Let a method print a word, a monotonic time and the kind of the part it is called with."""
    method = getattr(owner, name)

    @functools.wraps(method)
    def observed(self: Any, *given: Any, **named: Any) -> Any:
        if when == "before":
            say(word, time.monotonic(), given[1].name)
        result = method(self, *given, **named)
        if when == "after":
            say(word, time.monotonic(), given[1].name)
        elif when == "offer" and result is not None and result.WhichOneof("message") == "offer":
            say(word, time.monotonic(), "-")
        return result

    setattr(owner, name, observed)


def run(data: str) -> None:
    from thinwire.sender.cli import main
    from thinwire.sender.outbox.outbox import Outbox
    from thinwire.sender.pipeline import Pipeline
    from thinwire.sender.transport.session import UplinkSession

    told(Pipeline, "make", "make", "before")
    told(Outbox, "add", "made", "after")
    told(UplinkSession, "next", "offer", "offer")
    sys.argv = ["thinwire-sender", "run", "--data", data]
    main()


def accept(data: str) -> None:
    from thinwire.sender.clinic import open_clinic
    from thinwire.sender.outbox.entries import EntryState
    from thinwire.sender.service import Accepted, accept_files
    from thinwire.shared.formats.receipts import StudyStatus

    clinic = open_clinic(Path(data))
    say("ready")
    for line in sys.stdin:
        word, _, rest = line.strip().partition(" ")
        if word == "accept":
            (found,) = accept_files(clinic.pipeline, clinic.quarantine, [Path(rest)])
            at = time.monotonic()
            assert isinstance(found, Accepted), found
            say(at, found.study.key.hex())
        else:
            study = clinic.outbox.find(rest).study
            while True:
                entry = clinic.outbox.entry(study)
                if entry.state is EntryState.ARRIVED and entry.status not in (None, StudyStatus.STORED):
                    break
                time.sleep(0.2)
            say("arrived")


def fill(data: str, count: str) -> None:
    """Of today's outbox or of the folders of the versions before it. The copies have other keys and times; their held
    parts share one blob."""
    path = Path(data) / "clinic.db"
    if path.exists():
        _fill_tables(path, int(count))
    else:
        _fill_folders(Path(data) / "outbox", int(count))


def _fill_tables(path: Path, count: int) -> None:
    import sqlite3

    with sqlite3.connect(path, isolation_level=None) as database:
        database.execute("BEGIN")
        columns = {
            name: [row[1] for row in database.execute(f"PRAGMA table_info({name})")]
            for name in ("studies", "parts", "receipts")
        }
        (first, at) = database.execute("SELECT study, accepted_at FROM studies WHERE at_hub LIMIT 1").fetchone()
        there = database.execute("SELECT count(*) FROM studies").fetchone()[0]
        for number in range(there, count):
            study = secrets.token_bytes(16)
            changed = {"study": "?", "accepted_at": "?"}
            for name in columns:
                values = ["randomblob(32)" if each == "digest" else changed.get(each, each) for each in columns[name]]
                given = [
                    study if each == "study" else at - number * 60_000_000 for each in columns[name] if each in changed
                ]
                database.execute(
                    f"INSERT INTO {name} SELECT {', '.join(values)} FROM {name} WHERE study = ?", [*given, first]
                )
        database.execute("COMMIT")


def _fill_folders(outbox: Path, count: int) -> None:
    there = [each for each in outbox.iterdir() if len(each.name) == 32 and each.is_dir()]
    first = min(there)
    facts = json.loads((first / "state.json").read_bytes())
    at = datetime.fromisoformat(facts["accepted"])
    for number in range(len(there), count):
        study = secrets.token_hex(16)
        shutil.copytree(first, outbox / study)
        facts |= {"study": study, "accepted": (at - timedelta(minutes=number)).isoformat()}
        (outbox / study / "state.json").write_text(json.dumps(facts, sort_keys=True))
    os.sync()


if __name__ == "__main__":
    {"run": run, "accept": accept, "fill": fill}[sys.argv[1]](*sys.argv[2:])
