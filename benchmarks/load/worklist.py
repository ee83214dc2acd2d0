"""Processor time of the worklist at 10 thousand, 100 thousand and 1 million studies: pages, search, live pages.

    python -m benchmarks.load.worklist [--studies 10000,100000,1000000] [--repeats 20] [--folder build/load]

Synthetic studies, a million a year. Typical: the newest thousand are unread; worst: nine of ten are. Requests run
through the reading room's whole application, each with its session and audit message; processor time is that of the
process, the test client's included. Beside it, in the same run, the way before: every study is read, then sorted and
counted; at more than 100 thousand studies it is extrapolated from there.
"""

import argparse
import asyncio
import json
import re
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from benchmarks.load.filled_hub import SITES, fill
from benchmarks.machine import machine
from thinwire.receiver.access.accounts import Role
from thinwire.receiver.hub import DATABASE, Hub, make_hub, open_hub
from thinwire.receiver.inference.triage import ORDER
from thinwire.receiver.store.tables import worklist
from thinwire.receiver.store.worklist import worklist as sorted_list
from thinwire.receiver.store.worklist_order import ListState, Position, Selection
from thinwire.receiver.web.app import make_app
from thinwire.receiver.web.context import WebContext
from thinwire.receiver.web.guard import cookie
from thinwire.receiver.web.live import Watcher
from thinwire.shared.clock import SystemClock
from thinwire.shared.formats.bundle import default_bundle_folder
from thinwire.shared.identifiers import SiteName, StudyKey
from thinwire.shared.storage.durable import Disk

PAGES = 50
TYPICAL, WORST = "typical", "worst"
NEWEST = 1000
"""Unread studies of the typical case."""
MOST_BEFORE = 100_000
"""Studies up to which the way before is measured."""
ORIGIN = "https://reading.example.org"

Row = dict[str, Any]


def spent(act: Callable[[], object], repeats: int, prepare: Callable[[], object] = lambda: None) -> Row:
    """Processor time of the act in milliseconds."""
    took = []
    for _ in range(repeats + 1):
        prepare()
        began = time.process_time()
        act()
        took.append(1000 * (time.process_time() - began))
    # The first one fills caches: of templates, statements and the database.
    return {"ms_median": round(statistics.median(took[1:]), 1), "ms_max": round(max(took[1:]), 1), "repeats": repeats}


def measures(hub: Hub, repeats: int) -> dict[str, Row]:
    room = WebContext(hub, hub.pipeline(), secure=True)
    secret = hub.accounts.add("anna", "Dr. Anna Lund", Role.READER, lambda _: None)
    hub.accounts.accept(secret, "correct horse battery", "anna", "", lambda _: None)
    session = hub.accounts.start("anna", lambda _: None)
    app = make_app(room)
    client = TestClient(app, base_url=ORIGIN, headers={"Origin": ORIGIN})
    client.cookies.set(cookie(room), session)

    def get(path: str) -> str:
        answer = client.get(path)
        assert answer.status_code == 200, answer.status_code
        return str(answer.text)

    form_key = (re.findall(r'name="form_key" value="([0-9a-f]+)"', get("/")) or [""])[0]

    def search(query: str) -> None:
        answer = client.post("/search", data={"form_key": form_key, "query": query})
        assert answer.status_code == 200
        assert "data-key" in answer.text, query

    deep, some = _middle(hub)
    unread = _unread(hub)
    with closing(Watcher(room)) as watcher:

        def change() -> None:
            hub.store.record_opened(*next(unread))

        def refresh(pages: int) -> None:
            asyncio.run(_look(watcher, session, pages))
            for _ in range(pages):
                get("/rows")

        asyncio.run(_look(watcher, session, 1))
        return {
            "first page": spent(lambda: get("/"), repeats),
            "page in the middle": spent(lambda: get(f"/?after={deep}"), repeats),
            "page of one state, urgency and site": spent(
                lambda: get(f"/?state=opened&urgency=urgent&site={SITES[7]}"), repeats
            ),
            "page of signed studies": spent(lambda: get("/?state=read"), repeats),
            "search, two words": spent(lambda: search(f"{SITES[7]} effusion"), repeats),
            "search, a word of nearly half of all": spent(lambda: search("routine"), repeats),
            "search, digits of a key": spent(lambda: search(some[1].hex()[:8]), repeats),
            "search, a patient's number": spent(lambda: search("PHANTOM-7"), repeats),
            "neighbours of a study": spent(lambda: hub.worklist.beside(*some, hub.clock.now()), repeats),
            "live refresh after a change": spent(lambda: refresh(1), repeats, change),
            f"{PAGES} open pages, one change": spent(lambda: refresh(PAGES), max(3, repeats // 4), change),
            f"{PAGES} open pages, a second without a change": spent(
                lambda: asyncio.run(_look(watcher, session, PAGES)), repeats
            ),
            "a change: a study is opened": spent(change, repeats),
        }


async def _look(watcher: Watcher, session: str, pages: int) -> None:
    opened = [watcher.open(session) for _ in range(pages)]
    for each in opened:
        each.__enter__()
    await watcher.look()
    for each in opened:
        each.__exit__(None, None, None)


def _middle(hub: Hub) -> tuple[Position, tuple[SiteName, StudyKey]]:
    """A position in the middle of the unread studies, and its study."""
    with hub.database.read() as connection:
        waits = worklist.c.done == 0
        count = connection.scalar(select(func.count()).where(waits)) or 0
        query = select(worklist).where(waits).order_by(worklist.c.received_at).offset(count // 2).limit(1)
        row = connection.execute(query).one()
    cutoff = int((hub.clock.now() - hub.settings.cap).timestamp() * 1e6)
    key = SiteName(row.site), StudyKey(row.study)
    return Position(cutoff, 1, row.received_at, *key), key


def _unread(hub: Hub) -> Any:
    """Studies that nobody has opened."""
    with hub.database.read() as connection:
        query = select(worklist.c.site, worklist.c.study).where(worklist.c.state == 0).limit(2000)
        rows = connection.execute(query).all()
    return iter([(SiteName(site), StudyKey(study)) for site, study in rows])


def before(hub: Hub) -> Row:
    """As pages were made before: every study is read, sorted, filtered and counted."""
    began, now = time.process_time(), hub.clock.now()
    rows = sorted_list(hub.store.studies(), now, hub.settings.cap)
    waiting = [row for row in rows if not row.done]
    shown, late = waiting[:40], sum(row.overdue for row in waiting)
    counts = {each: sum(row.urgency is each for row in waiting) for each in ORDER}
    assert len(shown) <= 40
    assert late <= len(waiting)
    assert sum(counts.values()) <= len(waiting)
    return {"seconds": round(time.process_time() - began, 2), "extrapolated": False}


def command_line(data: Path, *words: str) -> Row:
    """Processor time of a whole command, the start of Python included."""
    start = resource.getrusage(resource.RUSAGE_CHILDREN)
    program = Path(sys.executable).parent / "thinwire-receiver"
    done = subprocess.run([program, *words, "--data", data], capture_output=True, check=True)
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = (end.ru_utime - start.ru_utime) + (end.ru_stime - start.ru_stime)
    return {"ms_median": round(1000 * took), "ms_max": round(1000 * took), "repeats": 1, "bytes": len(done.stdout)}


def unread_of(case: str, studies: int) -> Sequence[bool]:
    if case == TYPICAL:
        return [number >= studies - NEWEST for number in range(studies)]
    return list(np.random.default_rng(1).random(studies) < 0.9)


def measured(folder: Path, studies: int, case: str, repeats: int, earlier: Sequence[Row]) -> Row:
    data = folder / f"{case}-{studies}"
    shutil.rmtree(data, ignore_errors=True)
    clock = SystemClock()
    make_hub(data, default_bundle_folder(), Disk(), clock)
    unread = unread_of(case, studies)
    began = time.monotonic()
    fill(data, studies, unread, clock.now())
    print(f"{studies} studies, {case}: filled in {time.monotonic() - began:.0f} s", flush=True)
    with open_hub(data, clock) as hub:
        found = measures(hub, repeats)
        counts = hub.worklist.counts(clock.now())
        assert hub.worklist.page(Selection(ListState.ALL), clock.now(), 1).selected == studies
        was = next((row["before"] for row in earlier if row["studies"] == MOST_BEFORE and row["case"] == case), None)
        if studies <= MOST_BEFORE or was is None:
            old = before(hub)
        else:
            old = {"seconds": round(was["seconds"] * studies / MOST_BEFORE, 1), "extrapolated": True}
    found["command line: worklist"] = command_line(data, "worklist")
    found["command line: worklist --json"] = command_line(data, "worklist", "--json")
    size = (data / DATABASE).stat().st_size
    shutil.rmtree(data)
    return {
        "studies": studies,
        "case": case,
        "unread": counts.waiting,
        "overdue": str(counts.overdue),
        "database_bytes": size,
        "measures": found,
        "before": old,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", default="10000,100000,1000000")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--folder", type=Path, default=Path("build") / "load")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for studies in map(int, options.studies.split(",")):
        for case in (TYPICAL, WORST):
            rows.append(measured(options.folder, studies, case, options.repeats, rows))
            print(json.dumps(rows[-1], indent=1), flush=True)
    result = {
        "command": f"python -m benchmarks.load.worklist --studies {options.studies} --repeats {options.repeats}",
        "machine": machine(),
        "synthetic": True,
        "rows": rows,
    }
    path = Path(__file__).parent.parent / "results" / "worklist.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
