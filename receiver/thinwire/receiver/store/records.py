"""What the store takes and gives back: a part of a study, a graph that waits, a prediction, a study."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from thinwire.receiver.inference.calibration import PredictionSet
from thinwire.receiver.store.content import Content
from thinwire.receiver.store.reports import ReportState
from thinwire.shared.crypto.envelope import EnvelopeHeader
from thinwire.shared.identifiers import BundleId, Digest, SiteName, StudyKey, Tier, Urgency


class StoredFinding(NamedTuple):
    """One finding as it was predicted: probability and interval 0 to 1, and what they leave possible."""

    probability: float
    low: float
    high: float
    outcome: PredictionSet


@dataclass(frozen=True)
class OpenedPart:
    """One opened and examined object on its way into the store."""

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


@dataclass(frozen=True)
class StoredStudy:
    """A study as the store knows it. What follows from the graph is None until a graph is here."""

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
    """Bytes of the newest sealed object of each tier that is here."""
    complete: bool | None
    """Is everything here that the manifest lists? None: no manifest yet."""
    prediction: StoredPrediction | None
    opened: bool = False
    """By a reader."""
    report: ReportState | None = None
    """Of the newest version of its report."""
    requested: frozenset[Tier] = frozenset()
    """Tiers that a reader requested and that are not received yet."""
    listed: Mapping[Tier, int] = field(default_factory=dict)
    """Bytes of each tier that the clinic has, by its manifest."""
    patient: bytes | None = field(default=None, repr=False)
    """16 bytes: the same for studies of one patient of one site; None where the manifest names none."""
