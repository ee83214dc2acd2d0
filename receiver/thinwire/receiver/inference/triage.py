"""Triage: from the prediction sets of the findings to an urgency.

A finding whose set is `yes` is suspected, one whose set is `either` is uncertain (`calibration.py`). A study is
`uncertain` if its image is unfamiliar, or if an uncertain finding would make it more urgent than the suspected ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from thinwire.receiver.inference.calibration import PredictionSet
from thinwire.shared.identifiers import Urgency

URGENCY_OF = {
    "pneumothorax": Urgency.IMMEDIATE,
    "consolidation": Urgency.URGENT,
    "effusion": Urgency.URGENT,
    "nodule": Urgency.URGENT,
    "cardiomegaly": Urgency.ROUTINE,
}
"""Urgency of a suspected finding; `urgent` for any other finding."""

ORDER = (Urgency.IMMEDIATE, Urgency.URGENT, Urgency.UNCERTAIN, Urgency.ROUTINE)
"""Most urgent first. Uncertain is before routine: a person must decide it."""


class Found(Protocol):
    @property
    def outcome(self) -> PredictionSet: ...


class Predicted(Protocol):
    """A prediction, as it is made or as it is stored."""

    @property
    def findings(self) -> Mapping[str, Found]: ...

    @property
    def unfamiliar(self) -> bool: ...


@dataclass(frozen=True)
class Triage:
    urgency: Urgency
    reason: str
    """One line for the worklist."""


def triage(prediction: Predicted, asked_urgent: bool) -> Triage:
    """Urgency of a study from its prediction; a study that the clinic sent as urgent is at least urgent."""
    suspected = [name for name, p in prediction.findings.items() if p.outcome is PredictionSet.YES]
    doubtful = [name for name, p in prediction.findings.items() if p.outcome is PredictionSet.EITHER]
    firm = _highest(suspected)
    named = [name for name in suspected if _urgency(name) is firm]
    # Only an uncertain finding above the suspected ones can change the urgency.
    undecided = [name for name in doubtful if ORDER.index(_urgency(name)) < ORDER.index(firm)]
    said = [f"{', '.join(named)} suspected"] if named else []
    said += [f"{', '.join(undecided)} neither suspected nor excluded"] if undecided else []
    if prediction.unfamiliar:
        outcome = Triage(Urgency.UNCERTAIN, "image unlike the training images: do not rely on the probabilities")
    else:
        # An uncertain finding can raise the urgency, never lower it.
        urgency = min(firm, Urgency.UNCERTAIN if undecided else firm, key=ORDER.index)
        outcome = Triage(urgency, "; ".join(said) or "none of the findings suspected")
    if asked_urgent and ORDER.index(outcome.urgency) > ORDER.index(Urgency.URGENT):
        return Triage(Urgency.URGENT, f"sent as urgent by the clinic; {outcome.reason}")
    return outcome


def _urgency(finding: str) -> Urgency:
    return URGENCY_OF.get(finding, Urgency.URGENT)


def _highest(findings: list[str]) -> Urgency:
    return min((_urgency(name) for name in findings), key=ORDER.index, default=Urgency.ROUTINE)
