"""Studies as records, from their rows in all tables."""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, Table, and_, select

from thinwire.receiver.inference.calibration import PredictionSet
from thinwire.receiver.store.additions import additions_of
from thinwire.receiver.store.records import COVERED, StoredFinding, StoredPrediction, StoredStudy
from thinwire.receiver.store.reports import ReportState
from thinwire.receiver.store.tables import listed, objects, predictions, requests, studies, worklist
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.formats.positional import moment
from thinwire.shared.identifiers import STUDY_KEY_BYTES, BundleId, SiteName, StudyKey, Tier, Urgency


def stored_studies(connection: Connection, numbers: Sequence[int]) -> list[StoredStudy]:
    """The studies of these rows of `worklist`, in this order."""
    if not numbers:
        return []

    def of_these(table: Table, *more: ColumnElement[Any]) -> Select[Any]:
        # A join from the few rows of `worklist`: SQLite would read the whole table for a list of pairs.
        joined = and_(worklist.c.site == table.c.site, worklist.c.study == table.c.study)
        return select(table, *more).join_from(worklist, table, joined).where(worklist.c.number.in_(numbers))

    stored: dict[tuple[str, bytes], dict[int, tuple[bytes, int, int]]] = {}
    known: set[tuple[str, bytes]] = set()
    for o in connection.execute(of_these(objects).order_by(objects.c.number)):
        stored.setdefault((o.site, o.study), {})[o.kind] = (o.blob, o.plain_size, o.sealed_size)
        known.add((o.site, o.object))
    lists: dict[tuple[str, bytes], list[tuple[int, bytes, int]]] = {}
    for entry in connection.execute(of_these(listed)):
        lists.setdefault((entry.site, entry.study), []).append((entry.tier, entry.object, entry.plain_size))
    predicted = {(r.site, r.study, r.blob): prediction_of(r) for r in connection.execute(of_these(predictions))}
    wanted: dict[tuple[str, bytes], set[Tier]] = {}
    of_tiers = requests.c.kind.in_([int(tier) for tier in Tier])
    for asked in connection.execute(of_these(requests).where(of_tiers)):
        wanted.setdefault((asked.site, asked.study), set()).add(Tier(asked.kind))
    found = {}
    added = additions_of(connection, numbers)
    facts = of_these(studies, worklist.c.number, worklist.c.opened, worklist.c.report)
    for row in connection.execute(facts):
        key = (row.site, row.study)
        here = stored.get(key, {})
        graph = here.get(int(Kind.GRAPH))
        complete = None
        if int(Kind.MANIFEST) in here:
            # A part that was sealed again has another digest and the same content.
            covered = COVERED if int(Kind.ORIGINALS) in here else frozenset()
            complete = all(
                (row.site, object) in known or tier in covered or (tier in here and here[tier][1] == size)
                for tier, object, size in lists.get(key, [])
            )
        found[row.number] = StoredStudy(
            site=SiteName(row.site),
            study=StudyKey(row.study),
            received=moment(row.received_at),
            urgent_asked=row.urgent_asked,
            bundle=None if row.bundle is None else BundleId(row.bundle),
            text_source=row.text_source,
            modality=row.modality,
            view_position=row.view_position,
            patches_kept=row.patches_kept,
            patches_total=row.patches_total,
            attention_kept=row.attention_kept,
            sealed_sizes={tier: here[int(tier)][2] for tier in Tier if int(tier) in here},
            complete=complete,
            prediction=None if graph is None else predicted.get((*key, graph[0])),
            opened=row.opened,
            report=None if row.report is None else ReportState(row.report),
            requested=frozenset(wanted.get(key, ())),
            listed={Tier(tier): size for tier, _, size in sorted(lists.get(key, []))},
            patient=row.patient,
            additions=added.get(key, ()),
        )
    return [found[number] for number in numbers]


def key_starts(prefix: str, key: ColumnElement[bytes] = worklist.c.study) -> ColumnElement[bool] | None:
    """The condition that a study key starts with these hex digits, as a range of the index; None for other text."""
    if not 0 < len(prefix) <= 2 * STUDY_KEY_BYTES or any(digit not in "0123456789abcdef" for digit in prefix):
        return None
    first, last = (bytes.fromhex(prefix.ljust(2 * STUDY_KEY_BYTES, digit)) for digit in "0f")
    return and_(key >= first, key <= last)


def prediction_of(row: Row[Any]) -> StoredPrediction:
    """row: of `readings`, or of the history of predictions."""
    findings = {
        name: StoredFinding(value, low, high, PredictionSet(outcome))
        for name, (value, low, high, outcome) in json.loads(row.findings).items()
    }
    return StoredPrediction(
        findings, Urgency(row.urgency), row.reason, row.unfamiliar, BundleId(row.bundle), moment(row.at)
    )
