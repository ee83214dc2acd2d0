"""The worklist: studies in reading order: by urgency, then the oldest first, with a cap on the waiting time.

Sorting by urgency alone makes the longest wait longer (Baltruschat et al., Eur Radiol 31:3837, 2021: a pneumothorax
that the model missed waited for up to 1293 minutes, and for 890 first come first served). A study that has
waited for the cap is therefore listed before all but the immediate ones, the oldest first.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from thinwire.receiver.inference.triage import ORDER
from thinwire.receiver.store.records import StoredFinding, StoredPrediction, StoredStudy
from thinwire.receiver.store.reports import ReportState
from thinwire.shared.identifiers import TextSource, Tier, Urgency

CAP = timedelta(hours=4)
"""The waiting cap: the waiting time after which only immediate studies come before an unread study."""


@dataclass(frozen=True)
class WorklistEntry:
    study: StoredStudy
    overdue: bool = False
    """Unread for at least the waiting cap."""

    @property
    def urgency(self) -> Urgency | None:
        """None until the study is triaged."""
        return None if self.study.prediction is None else self.study.prediction.urgency

    @property
    def place(self) -> Urgency:
        """The urgency of its place in the list; before triage, the clinic's."""
        return self.urgency or (Urgency.URGENT if self.study.urgent_asked else Urgency.ROUTINE)

    @property
    def text_given(self) -> bool | None:
        source = self.study.text_source
        return None if source is None else source != TextSource.GENERATED

    @property
    def done(self) -> bool:
        """The study has a signed report."""
        return self.study.report is ReportState.FINAL


def worklist(studies: Iterable[StoredStudy], now: datetime | None = None, cap: timedelta = CAP) -> list[WorklistEntry]:
    """The studies in reading order, those with a signed report last. now: UTC; None: no waiting cap.

    This is the definition of the order; the hub reads it from an index (`worklist_query`).
    """
    rows = [
        WorklistEntry(study, now is not None and unread(study) and now - study.received >= cap) for study in studies
    ]
    return sorted(rows, key=_place)


def unread(study: StoredStudy) -> bool:
    """Without a signed report."""
    return study.report is not ReportState.FINAL


def _place(row: WorklistEntry) -> tuple[bool, int, bool, datetime, str, bytes]:
    # An overdue study ranks as urgent, before the other urgent ones.
    place = row.place if row.place is Urgency.IMMEDIATE or not row.overdue else Urgency.URGENT
    return row.done, ORDER.index(place), not row.overdue, row.study.received, row.study.site, row.study.study


def as_json(row: WorklistEntry) -> dict[str, Any]:
    """One row as `--json` gives it. Sizes are bytes of the sealed tier, null where it is not here."""
    study, prediction = row.study, row.study.prediction
    return {
        "study": study.study.hex(),
        "site": study.site,
        "received": study.received.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "urgency": None if row.urgency is None else str(row.urgency),
        "reason": None if prediction is None else prediction.reason,
        "urgent_asked": study.urgent_asked,
        "overdue": row.overdue,
        "report": None if study.report is None else str(study.report),
        "triaged": None if prediction is None else prediction.at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "findings": findings_json({} if prediction is None else prediction.findings),
        "unfamiliar": None if prediction is None else prediction.unfamiliar,
        "text_source": study.text_source,
        "text_given": row.text_given,
        "patches": {"kept": study.patches_kept, "total": study.patches_total},
        "attention_kept": study.attention_kept,
        "tiers": {tier.name.lower(): study.sealed_sizes.get(tier) for tier in Tier},
        "complete": study.complete,
        "bundle": None if study.bundle is None else study.bundle.hex(),
        "predicted_by": None if prediction is None else prediction.bundle.hex(),
        "modality": study.modality,
        "view_position": study.view_position,
    }


def as_prediction_json(prediction: StoredPrediction) -> dict[str, Any]:
    """A prediction of the history, as `show --json` gives it."""
    return {
        "bundle": prediction.bundle.hex(),
        "predicted": prediction.at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "urgency": str(prediction.urgency),
        "reason": prediction.reason,
        "findings": findings_json(prediction.findings),
        "unfamiliar": prediction.unfamiliar,
    }


def findings_json(findings: Mapping[str, StoredFinding]) -> dict[str, Any]:
    return {
        name: {"probability": f.probability, "low": f.low, "high": f.high, "outcome": str(f.outcome)}
        for name, f in findings.items()
    }
