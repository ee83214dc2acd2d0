"""The store's records: a part of a study, a graph without a prediction, a prediction, a study."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from thinwire.receiver.inference.calibration import PredictionSet
from thinwire.receiver.store.additions import StoredAddition
from thinwire.receiver.store.content import Content
from thinwire.receiver.store.reports import ReportState
from thinwire.shared.crypto.envelope import EnvelopeHeader
from thinwire.shared.formats.receipts import detail
from thinwire.shared.identifiers import BundleId, Digest, SiteName, StudyKey, Tier, Urgency

COVERED = frozenset((int(Tier.PREVIEW), int(Tier.CROPS)))
"""Tiers that the originals replace: with the originals stored, a study is complete without these."""


class StoredFinding(NamedTuple):
    """One predicted finding: probability and interval, 0 to 1, and its prediction set."""

    probability: float
    low: float
    high: float
    outcome: PredictionSet


@dataclass(frozen=True)
class OpenedPart:
    """One opened and examined object, to be stored."""

    site: SiteName
    object: Digest
    header: EnvelopeHeader
    plaintext: bytes = field(repr=False)
    content: Content = field(repr=False)
    urgent: bool


@dataclass(frozen=True)
class PendingGraph:
    """A graph without a prediction."""

    site: SiteName
    study: StudyKey
    blob: Digest
    urgent_asked: bool


@dataclass(frozen=True)
class StoredPrediction:
    """The hub's prediction from a study's graph."""

    findings: Mapping[str, StoredFinding]
    urgency: Urgency
    reason: str
    unfamiliar: bool
    bundle: BundleId
    at: datetime


def prediction_detail(prediction: StoredPrediction) -> bytes:
    """The detail of the receipt `triaged` (docs/wire-protocol.md)."""
    return detail(
        {
            "urgency": str(prediction.urgency),
            "reason": prediction.reason,
            "findings": prediction.findings,
            "unfamiliar": prediction.unfamiliar,
            "bundle": prediction.bundle.hex(),
        }
    )


@dataclass(frozen=True)
class StoredStudy:
    """A study in the store. Facts of the graph are None until a graph is stored."""

    site: SiteName
    study: StudyKey
    received: datetime
    urgent_asked: bool
    bundle: BundleId | None
    text_source: str | None
    modality: str | None
    view_position: str | None
    patches_kept: int | None
    patches_total: int | None
    attention_kept: float | None
    sealed_sizes: Mapping[Tier, int]
    """Bytes of the newest sealed object of each stored tier."""
    complete: bool | None
    """Whether all tiers of the manifest are stored; None without a manifest."""
    prediction: StoredPrediction | None
    opened: bool = False
    """Whether a reader has opened it."""
    report: ReportState | None = None
    """The state of the newest version of its report."""
    requested: frozenset[Tier] = frozenset()
    """Tiers that a reader requested and that are not received yet."""
    listed: Mapping[Tier, int] = field(default_factory=dict)
    """Plain bytes of each tier in the manifest."""
    patient: bytes | None = field(default=None, repr=False)
    """16 bytes, the same for all studies of one patient of one site; None for a manifest without Patient ID."""
    additions: tuple[StoredAddition, ...] = ()
    """The files that were added to it, in the order of their arrival."""

    @property
    def taken(self) -> list[str]:
        """The additions that change what the study consists of, for the version of what is made of it."""
        return [each.study.hex() for each in self.additions if each.counts]


def item_of(site: SiteName, study: StudyKey) -> str:
    """A study in the list of parked items."""
    return f"{site}/{study.hex()}"
