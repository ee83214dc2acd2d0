"""The worklist: every study at its place, most urgent first, oldest first among equals."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC
from typing import Any

from thinwire.receiver.kept import KeptStudy
from thinwire.receiver.reading.triage import ORDER
from thinwire.shared.identifiers import TextSource, Tier, Urgency


@dataclass(frozen=True)
class Row:
    study: KeptStudy

    @property
    def urgency(self) -> Urgency | None:
        """None until the study is triaged."""
        return None if self.study.reading is None else self.study.reading.urgency

    @property
    def place(self) -> Urgency:
        """Where it stands: until it is triaged, as the clinic asked."""
        return self.urgency or (Urgency.URGENT if self.study.urgent_asked else Urgency.ROUTINE)

    @property
    def text_given(self) -> bool | None:
        source = self.study.text_source
        return None if source is None else source != TextSource.GENERATED


def worklist(studies: Iterable[KeptStudy]) -> list[Row]:
    rows = [Row(study) for study in studies]
    return sorted(rows, key=lambda row: (ORDER.index(row.place), row.study.received, row.study.site, row.study.study))


def as_json(row: Row) -> dict[str, Any]:
    """One row as `--json` gives it. Sizes are bytes of the sealed tier, null where it is not here."""
    study, reading = row.study, row.study.reading
    findings = {} if reading is None else reading.findings
    return {
        "study": study.study.hex(),
        "site": study.site,
        "received": study.received.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "urgency": None if row.urgency is None else str(row.urgency),
        "reason": None if reading is None else reading.reason,
        "urgent_asked": study.urgent_asked,
        "triaged": None if reading is None else reading.at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "findings": {
            name: {"probability": f.probability, "low": f.low, "high": f.high, "outcome": str(f.outcome)}
            for name, f in findings.items()
        },
        "unfamiliar": None if reading is None else reading.unfamiliar,
        "text_source": study.text_source,
        "text_given": row.text_given,
        "patches": {"kept": study.patches_kept, "total": study.patches_total},
        "attention_kept": study.attention_kept,
        "tiers": {tier.name.lower(): study.sealed_sizes.get(tier) for tier in Tier},
        "complete": study.complete,
        "bundle": None if study.bundle is None else study.bundle.hex(),
        "modality": study.modality,
        "view_position": study.view_position,
    }
