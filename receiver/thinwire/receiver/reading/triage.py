"""From probabilities with intervals to a place on the worklist.

A finding is called when its probability reaches the bundle's threshold. When its interval spans the threshold the
call could as well have gone the other way; if that would change the urgency, the study is `uncertain` and says why.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from thinwire.shared.identifiers import Urgency

if TYPE_CHECKING:
    from thinwire.receiver.reading.mpnn import Reading

URGENCY_OF = {
    "pneumothorax": Urgency.IMMEDIATE,
    "consolidation": Urgency.URGENT,
    "effusion": Urgency.URGENT,
    "nodule": Urgency.URGENT,
    "cardiomegaly": Urgency.ROUTINE,
}
"""What a called finding asks for; a finding that is not named here asks for `urgent`."""

ORDER = (Urgency.IMMEDIATE, Urgency.URGENT, Urgency.UNCERTAIN, Urgency.ROUTINE)
"""Most urgent first. Uncertain stands before routine: a person settles it, and soon."""


@dataclass(frozen=True)
class Triage:
    urgency: Urgency
    reason: str
    """One line for the worklist, in the field's words."""


def triage(reading: "Reading", asked_urgent: bool) -> Triage:
    """Urgency of a study from its reading; a study that the clinic sent as urgent is never below urgent."""
    called = [name for name, p in reading.findings.items() if p.value >= reading.thresholds[name]]
    doubtful = [name for name, p in reading.findings.items() if p.low < reading.thresholds[name] <= p.high]
    firm = _highest([name for name in called if name not in doubtful])
    possible = _highest(sorted({*called, *doubtful}))
    if reading.unfamiliar:
        outcome = Triage(Urgency.UNCERTAIN, "image unlike the training images: probabilities mean little")
    elif possible != firm:
        spans = [name for name in doubtful if ORDER.index(_urgency(name)) < ORDER.index(firm)]
        outcome = Triage(Urgency.UNCERTAIN, f"{', '.join(spans)} neither likely nor excluded")
    else:
        named = [name for name in called if _urgency(name) is firm]
        outcome = Triage(firm, f"{', '.join(named)} likely" if named else "none of the findings likely")
    if asked_urgent and ORDER.index(outcome.urgency) > ORDER.index(Urgency.URGENT):
        return Triage(Urgency.URGENT, f"sent as urgent by the clinic; {outcome.reason}")
    return outcome


def _urgency(finding: str) -> Urgency:
    return URGENCY_OF.get(finding, Urgency.URGENT)


def _highest(findings: list[str]) -> Urgency:
    return min((_urgency(name) for name in findings), key=ORDER.index, default=Urgency.ROUTINE)
