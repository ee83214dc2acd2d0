"""A hub filled with synthetic studies in bulk: the rows that its own transactions would have written, and no blobs."""

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench_waiting_cap import SHARES
from thinwire.receiver.hub import DATABASE
from thinwire.receiver.inference.calibration import PredictionSet
from thinwire.receiver.store.content import patient_of_number
from thinwire.receiver.store.reports import ReportState
from thinwire.receiver.store.tables import TABLES
from thinwire.receiver.store.worklist_rows import place, reading_state, words_of
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.formats.positional import micros
from thinwire.shared.identifiers import SiteName, Tier, Urgency

SITES = tuple(SiteName(f"clinic-{number:02}") for number in range(20))
FINDINGS = ("pneumothorax", "consolidation", "effusion", "nodule", "cardiomegaly")
BETWEEN = timedelta(days=365) / 1_000_000
"""Between two arrivals: a million studies a year."""
KINDS = (Kind.GRAPH, Kind.MANIFEST, Kind.ORIGINALS)
RECEIPT = bytes(200)
"""As long as a receipt; nobody reads it here."""
AT_A_TIME = 20_000
UNTRIAGED = 0.001
"""Share of studies without a prediction."""
STATES = ((None, False), (None, True), (ReportState.DRAFT, True), (ReportState.PRELIMINARY, True))
STATE_SHARES = (0.7, 0.2, 0.05, 0.05)
"""Report and opening of unread studies."""


@dataclass
class _Rows:
    """Rows for each table, in the order of its columns."""

    of: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)

    def add(self, table: str, **values: Any) -> None:
        columns = TABLES.tables[table].columns
        # By the columns' names in the database, which are not always their keys.
        self.of.setdefault(table, []).append(tuple(values.get(column.name) for column in columns))


def fill(data: Path, studies: int, unread: Sequence[bool], now: datetime, seed: int = 0) -> None:
    """Fill the empty hub in `data`. unread [studies]: whether each is without a signed report, the oldest first."""
    rng = np.random.default_rng(seed)
    with closing(sqlite3.connect(data / DATABASE, isolation_level=None)) as database:
        # Without a journal, in memory, and with the indices made at the end: minutes instead of half an hour.
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -2000000", "temp_store = MEMORY"):
            database.execute(f"PRAGMA {pragma}")
        query = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
        indices = database.execute(query).fetchall()
        for name, _ in indices:
            database.execute(f"DROP INDEX {name}")
        tally: Counter[tuple[str, int, int]] = Counter()
        words: set[str] = set()
        for start, rows in _filled(rng, studies, unread, now):
            database.execute("BEGIN")
            if start == 0:
                for site in SITES:
                    rows.add("sites", name=site, enrolled_at=micros(now))
            for table in [each.name for each in TABLES.sorted_tables if each.name in rows.of]:
                marks = ", ".join("?" * len(TABLES.tables[table].columns))
                database.executemany(f"INSERT INTO {table} VALUES ({marks})", rows.of[table])
            database.execute("COMMIT")
            names = [column.name for column in TABLES.tables["worklist"].columns]
            for row in (dict(zip(names, values, strict=True)) for values in rows.of["worklist"]):
                tally[row["site"], row["state"], row["place"]] += 1
                words.update(row["words"].split())
        database.execute("BEGIN")
        database.executemany("INSERT INTO worklist_counts VALUES (?, ?, ?, ?)", [(*k, n) for k, n in tally.items()])
        database.executemany("INSERT INTO worklist_vocabulary VALUES (?)", [(word,) for word in sorted(words)])
        database.execute("INSERT INTO worklist_words (worklist_words) VALUES ('rebuild')")
        for _, sql in indices:
            database.execute(sql)
        database.execute("COMMIT")
        database.execute("PRAGMA journal_mode = WAL")


def _filled(
    rng: np.random.Generator, studies: int, unread: Sequence[bool], now: datetime
) -> Iterator[tuple[int, _Rows]]:
    urgencies, shares, receipt = list(SHARES), list(SHARES.values()), 1
    for start in range(0, studies, AT_A_TIME):
        rows, count = _Rows(), min(AT_A_TIME, studies - start)
        chosen = rng.choice(len(urgencies), count, p=shares)
        outcomes = rng.choice(3, (count, len(FINDINGS)), p=(0.2, 0.7, 0.1))
        reading = rng.choice(len(STATES), count, p=STATE_SHARES)
        untriaged = rng.random(count) < UNTRIAGED
        for n in range(count):
            number = start + n
            urgency = None if untriaged[n] else urgencies[int(chosen[n])]
            report, opened = STATES[int(reading[n])] if unread[number] else (ReportState.FINAL, True)
            at = micros(now - (studies - number) * BETWEEN)
            receipt = _study(rows, number, at, urgency, outcomes[n], report, opened, receipt)
        yield start, rows


def _study(
    rows: _Rows,
    number: int,
    at: int,
    urgency: Urgency | None,
    outcomes: Any,
    report: ReportState | None,
    opened: bool,
    receipt: int,
) -> int:
    """Add one study; returns the number of the next receipt."""
    site, key = SITES[number % len(SITES)], hashlib.sha256(b"study %d" % number).digest()
    mine = {"site": site, "study": key[:16]}
    facts = {
        "text_source": "report",
        "modality": ("DX", "CR")[number % 2],
        "view_position": ("PA", "AP")[number % 3 % 2],
    }
    asked = urgency is Urgency.URGENT and number % 7 == 0
    patient = patient_of_number(site, f"PHANTOM-{number // (3 * len(SITES))}")
    kept = {"bundle": bytes(16), "patches_kept": 6, "patches_total": 252, "attention_kept": 0.31}
    rows.add("studies", **mine, **facts, **kept, received_at=at, urgent_asked=asked, patient=patient)

    def told(status: str, event: str) -> int:
        nonlocal receipt
        own = hashlib.sha256(b"receipt %d" % receipt).digest()
        rows.add("events", **mine, number=receipt, at=at, event=event)
        rows.add("receipts", **mine, number=receipt, status=status, digest=own, signed=RECEIPT, delivered_at=at)
        receipt += 1
        return receipt - 1

    for kind in KINDS:
        blob = hashlib.sha256(key + bytes([kind])).digest()
        sizes = {"plain_size": 1000, "sealed_size": 1046, "urgent": asked, "stored_at": at}
        rows.add("objects", **mine, **sizes, object=blob, kind=int(kind), blob=blob, receipt=told("stored", "stored"))
        if kind is Kind.GRAPH:
            graph = blob
    for tier in (Tier.GRAPH, Tier.ORIGINALS):
        object_ = hashlib.sha256(key + bytes([int(tier)])).digest()
        rows.add("listed", **mine, tier=int(tier), object=object_, plain_size=1000)
    predicted: dict[str, Any] = {"urgency": None, "reason": None, "findings": None}
    if urgency is not None:
        sets = list(PredictionSet)
        found = {name: [0.5, 0.4, 0.6, str(sets[int(o)])] for name, o in zip(FINDINGS, outcomes, strict=True)}
        reason = f"{FINDINGS[number % 5]} suspected" if number % 3 else "none of the findings suspected"
        predicted = {"urgency": str(urgency), "reason": reason, "findings": json.dumps(found)}
        rows.add("readings", **mine, **predicted, blob=graph, bundle=bytes(16), unfamiliar=False, at=at)
        told("triaged", "predicted")
    if opened:
        told("opened", "opened")
    if report is not None:
        by = {"reader": "a.lund", "reader_shown": "Dr. Anna Lund", "from_draft": False}
        rows.add("reports", **mine, **by, version=1, state=str(report), text="No pneumothorax.", at=at)
    if report is ReportState.FINAL:
        told("read", "reported")
    state = reading_state(opened, report)
    rows.add(
        "worklist",
        **mine,
        number=number + 1,
        received_at=at,
        done=report is ReportState.FINAL,
        state=int(state),
        place=int(place(urgency, asked)),
        opened=opened,
        report=None if report is None else str(report),
        drafted=False,
        words=words_of({"site": site, **facts, **predicted, "opened": opened, "report": report}),
    )
    return receipt
