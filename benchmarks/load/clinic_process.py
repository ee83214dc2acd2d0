"""One process of a clinic for `benchmarks.load.clinic`, of the version of thinwire that is on the path.

python clinic_process.py run DATA           `thinwire-sender run`; prints when it makes, has and offers a part
python clinic_process.py accept DATA        accepts the files that it reads from standard input, one a line
python clinic_process.py fill DATA COUNT    copies the one study that is at the hub, until there are COUNT entries
"""

import functools
import json
import os
import secrets
import shutil
import sqlite3
import sys
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any


def say(*words: object) -> None:
    """One line in one write: threads speak at the same time."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


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
    with sqlite3.connect(path, isolation_level=None) as database:
        database.execute("BEGIN")
        (first, at) = database.execute("SELECT study, accepted_at FROM studies WHERE at_hub LIMIT 1").fetchone()
        there = database.execute("SELECT count(*) FROM studies").fetchone()[0]
        inserts = [_insert(database, name) for name in ("studies", "parts", "receipts")]
        for number in range(there, count):
            given = {"study": secrets.token_bytes(16), "at": at - number * 60_000_000, "first": first}
            for insert in inserts:
                database.execute(insert, given)
        database.execute("COMMIT")


def _insert(database: sqlite3.Connection, name: str) -> str:
    """A statement that copies the rows of a study in a table."""
    columns = [row[1] for row in database.execute(f"PRAGMA table_info({name})")]
    changed = {"study": ":study", "accepted_at": ":at", "digest": "randomblob(32)"}
    values = ", ".join(changed.get(each, f'"{each}"') for each in columns)
    return f"INSERT INTO {name} SELECT {values} FROM {name} WHERE study = :first"


def _fill_folders(outbox: Path, count: int) -> None:
    there = {each: json.loads((each / "state.json").read_bytes()) for each in outbox.iterdir() if len(each.name) == 32}
    first, facts = next((each, facts) for each, facts in there.items() if all(_done(part) for part in facts["parts"]))
    at = datetime.fromisoformat(facts["accepted"])
    for number in range(len(there), count):
        study = secrets.token_hex(16)
        shutil.copytree(first, outbox / study)
        facts |= {"study": study, "accepted": (at - timedelta(minutes=number)).isoformat()}
        (outbox / study / "state.json").write_text(json.dumps(facts, sort_keys=True))
    os.sync()


def _done(part: Mapping[str, object]) -> bool:
    return part["state"] in ("stored", "held")


if __name__ == "__main__":
    role, *given = sys.argv[1:]
    {"run": run, "accept": accept, "fill": fill}[role](*given)  # type: ignore[operator]
