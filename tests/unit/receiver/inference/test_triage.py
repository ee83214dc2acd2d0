import pytest

from thinwire.receiver.inference.calibration import PredictionSet
from thinwire.receiver.inference.mpnn import Prediction, Probability
from thinwire.receiver.inference.triage import triage
from thinwire.shared.identifiers import Urgency

LOW, HIGH = Probability(0.05, 0.02, 0.1, PredictionSet.NO), Probability(0.9, 0.8, 0.95, PredictionSet.YES)
OPEN = Probability(0.5, 0.3, 0.7, PredictionSet.EITHER)


def prediction(unfamiliar: bool = False, **findings: Probability) -> Prediction:
    names = ("consolidation", "effusion", "pneumothorax", "cardiomegaly", "nodule")
    return Prediction({n: findings.get(n, LOW) for n in names}, unfamiliar)


@pytest.mark.parametrize(
    ("found", "urgency"),
    [
        ({}, Urgency.ROUTINE),
        ({"pneumothorax": HIGH}, Urgency.IMMEDIATE),
        ({"consolidation": HIGH}, Urgency.URGENT),
        ({"cardiomegaly": HIGH}, Urgency.ROUTINE),
        ({"cardiomegaly": OPEN}, Urgency.ROUTINE),
        ({"consolidation": OPEN}, Urgency.UNCERTAIN),
        ({"consolidation": HIGH, "effusion": OPEN}, Urgency.URGENT),
        ({"consolidation": HIGH, "pneumothorax": OPEN}, Urgency.URGENT),
        ({"cardiomegaly": HIGH, "pneumothorax": OPEN}, Urgency.UNCERTAIN),
        ({"pneumothorax": HIGH, "consolidation": OPEN}, Urgency.IMMEDIATE),
    ],
)
def test_urgency_follows_what_is_sure_and_doubt_counts_where_it_could_change_it(
    found: dict[str, Probability], urgency: Urgency
) -> None:
    assert triage(prediction(False, **found), asked_urgent=False).urgency is urgency


def test_an_unfamiliar_image_is_uncertain_whatever_was_found() -> None:
    outcome = triage(prediction(unfamiliar=True, pneumothorax=HIGH), asked_urgent=False)
    assert outcome.urgency is Urgency.UNCERTAIN
    assert "unlike" in outcome.reason


def test_the_clinics_word_lifts_but_never_lowers() -> None:
    assert triage(prediction(), asked_urgent=True).urgency is Urgency.URGENT
    assert triage(prediction(pneumothorax=HIGH), asked_urgent=True).urgency is Urgency.IMMEDIATE
    assert triage(prediction(unfamiliar=True), asked_urgent=True).urgency is Urgency.URGENT


def test_the_reason_names_the_finding() -> None:
    assert "consolidation" in triage(prediction(consolidation=HIGH), asked_urgent=False).reason
    assert "consolidation neither" in triage(prediction(consolidation=OPEN), asked_urgent=False).reason
    both = triage(prediction(consolidation=HIGH, pneumothorax=OPEN, nodule=OPEN), asked_urgent=False)
    assert both.reason == "consolidation suspected; pneumothorax neither suspected nor excluded"
    assert triage(prediction(cardiomegaly=OPEN), asked_urgent=False).reason == "none of the findings suspected"
