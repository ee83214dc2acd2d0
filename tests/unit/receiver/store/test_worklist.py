from datetime import timedelta
from io import StringIO

from rich.console import Console

from tests.support.clock import START
from thinwire.receiver.inference.calibration import PredictionSet
from thinwire.receiver.presentation import age, findings_text, study_page, worklist_table
from thinwire.receiver.store.records import StoredFinding, StoredPrediction, StoredStudy
from thinwire.receiver.store.worklist import WorklistEntry, as_json, worklist
from thinwire.shared.identifiers import BundleId, SiteName, StudyKey, Tier, Urgency

BUNDLE = BundleId(bytes(range(16)))
FINDINGS = {
    "consolidation": StoredFinding(0.83, 0.71, 0.91, PredictionSet.YES),
    "effusion": StoredFinding(0.24, 0.1, 0.4, PredictionSet.EITHER),
    "nodule": StoredFinding(0.02, 0.0, 0.05, PredictionSet.NO),
}


def study(
    number: int, urgency: Urgency | None, minutes: int = 0, asked: bool = False, source: str = "report"
) -> StoredStudy:
    at = START + timedelta(minutes=minutes)
    prediction = (
        None if urgency is None else StoredPrediction(FINDINGS, urgency, "consolidation likely", False, BUNDLE, at)
    )
    return StoredStudy(
        site=SiteName("north-valley"),
        study=StudyKey(bytes([number]) * 16),
        received=at,
        urgent_asked=asked,
        bundle=BUNDLE,
        text_source=source,
        modality="DX",
        view_position="PA",
        patches_kept=6,
        patches_total=252,
        attention_kept=0.314,
        sealed_sizes={Tier.GRAPH: 1046, Tier.ORIGINALS: 5_000_000},
        complete=None,
        prediction=prediction,
    )


def written(renderable: object) -> str:
    out = StringIO()
    Console(file=out, width=100, highlight=False).print(renderable)
    return out.getvalue()


def test_most_urgent_first_and_oldest_first_among_equals() -> None:
    rows = worklist(
        [
            study(1, Urgency.ROUTINE),
            study(2, Urgency.UNCERTAIN),
            study(3, Urgency.URGENT, minutes=2),
            study(4, Urgency.IMMEDIATE, minutes=9),
            study(5, None, minutes=1, asked=True),
            study(6, None, minutes=-1),
            study(7, Urgency.URGENT),
        ]
    )
    assert [row.study.study[0] for row in rows] == [4, 7, 5, 3, 2, 6, 1]
    assert [row.urgency for row in rows][2] is None


def test_json_says_null_where_nothing_is_known_yet() -> None:
    shown = as_json(WorklistEntry(study(1, None)))
    assert shown["urgency"] is None
    assert shown["findings"] == {}
    assert shown["tiers"]["crops"] is None
    assert as_json(WorklistEntry(study(1, Urgency.ROUTINE, source="generated")))["text_given"] is False


def test_a_page_of_100_columns_holds_what_a_reader_needs() -> None:
    row = WorklistEntry(study(171, Urgency.IMMEDIATE, source="generated"))
    text = written(worklist_table([row], START + timedelta(minutes=3)))
    assert max(map(len, text.splitlines())) <= 100
    found = ("0.83 (0.71-0.91) yes", "0.24 (0.10-0.40) either")
    for words in ("immediate", "3 min", "north-valley", "abababab", *found, "6/252", "31 %", "generated"):
        assert words in text, words
    assert "nodule" not in text


def test_a_study_that_is_not_triaged_says_so() -> None:
    text = written(worklist_table([WorklistEntry(study(1, None, asked=True))], START))
    assert "not triaged" in text
    assert "sent as urgent" in text


def test_a_study_s_page_has_every_finding_and_the_reason() -> None:
    text = written(study_page(WorklistEntry(study(1, Urgency.URGENT)), START, {}))
    for words in ("nodule", "consolidation likely", "0.71 to 0.91", "5,000,000 bytes", "no manifest yet", "01" * 16):
        assert words in text, words
    assert "not triaged" in written(study_page(WorklistEntry(study(1, None)), START, {}))


def test_words_for_numbers() -> None:
    assert [age(s) for s in (-5, 59, 61, 7200, 200_000)] == ["0 s", "59 s", "1 min", "2 h", "2 d"]
    assert findings_text({"nodule": FINDINGS["nodule"]}) == "nodule 0.02 (0.00-0.05) no"
