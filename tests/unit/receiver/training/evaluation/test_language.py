"""Scores of written reports: against sacrebleu's corpus score, worked examples, and what the extractor finds."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU

from thinwire.receiver.training.evaluation.language import (
    bleu,
    concepts,
    most_common,
    nearest,
    radgraph,
    radgraph_f1,
    rouge_l,
    scores,
    tokens,
)
from thinwire.sender.graph.report_graph import RuleExtractor
from thinwire.sender.graph.vocabulary import load_vocabulary
from thinwire.shared.errors import BadConfiguration

EXTRACTOR = RuleExtractor(load_vocabulary())
REFERENCES = [
    "There is consolidation in the right lower lobe. No pleural effusion.",
    "The heart is enlarged. No pneumothorax.",
    "No acute disease. The lungs are clear.",
]
CANDIDATES = [
    "There is consolidation in the left lower lobe. No pleural effusion.",
    "The heart is enlarged. There is a small pneumothorax.",
    "No acute disease. The lungs are clear.",
]
EXAMPLES = settings(max_examples=40, deadline=None, derandomize=True, database=None)
WORDS = st.lists(st.sampled_from(["no", "effusion", "seen", ".", "the", "heart", "is", "large", ","]), max_size=12).map(
    " ".join
)


def test_tokens_are_lower_case_words_and_marks() -> None:
    assert tokens("No pleural effusion, 3.5 cm.") == ["no", "pleural", "effusion", ",", "3", ".", "5", "cm", "."]


def test_bleu_is_sacrebleus_for_the_corpus() -> None:
    found = bleu(REFERENCES, CANDIDATES)
    spoken, truth = ([" ".join(tokens(text)) for text in texts] for texts in (CANDIDATES, REFERENCES))
    for order in (1, 2, 3, 4):
        library = BLEU(tokenize="none", smooth_method="none", max_ngram_order=order)
        assert found[f"bleu_{order}"] == pytest.approx(library.corpus_score(spoken, [truth]).score / 100)
        assert found[f"bleu_{order}_low"] <= found[f"bleu_{order}"] <= found[f"bleu_{order}_high"]


def test_bleu_by_hand() -> None:
    """4 of 5 words and 2 of 4 pairs stand in the reference, which is as long."""
    found = bleu(["a b c d e"], ["a b x d e"])
    assert found["bleu_1"] == pytest.approx(0.8)
    assert found["bleu_2"] == pytest.approx((0.8 * 0.5) ** 0.5)
    assert found["bleu_3"] == 0
    assert bleu(["a b c d"], ["a b"])["bleu_1"] == pytest.approx(np.exp(-1))


@EXAMPLES
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5))
def test_resamples_follow_the_librarys_formula(pairs: list[tuple[str, str]]) -> None:
    """All reports of one patient: each resample is the whole set, so the interval is the value itself."""
    found = bleu([r for r, _ in pairs], [c for _, c in pairs], ["one"] * len(pairs))
    for order in (1, 2, 3, 4):
        value = found[f"bleu_{order}"]
        assert found[f"bleu_{order}_low"] == pytest.approx(value)
        assert found[f"bleu_{order}_high"] == pytest.approx(value)
        assert 0 <= value <= 1 + 1e-9


def test_rouge_l_by_hand() -> None:
    """Lin (2004), section 3.1: police killed the gunman; police kill the gunman; the gunman kill police."""
    reference = "police killed the gunman"
    assert rouge_l([reference], ["police kill the gunman"])["rouge_l"] == pytest.approx(0.75)
    assert rouge_l([reference], ["the gunman kill police"])["rouge_l"] == pytest.approx(0.5)
    assert rouge_l([reference], [""])["rouge_l"] == 0
    assert rouge_l(["a b"], ["a b c d"])["rouge_l"] == pytest.approx(2 * 1 * 0.5 / 1.5)


def test_what_is_said_counts_with_its_assertion() -> None:
    found = concepts(["No pleural effusion. Consolidation."], ["Pleural effusion. Consolidation."], EXTRACTOR)
    assert 0 < found["concept_f1"] < 1
    same = concepts(REFERENCES, REFERENCES, EXTRACTOR)
    assert (same["concept_precision"], same["concept_recall"], same["concept_f1"]) == (1, 1, 1)
    silent = concepts(REFERENCES, [""] * 3, EXTRACTOR)
    assert (silent["concept_precision"], silent["concept_recall"], silent["concept_f1"]) == (0, 0, 0)


def test_all_scores_together_and_by_patient() -> None:
    found = scores(REFERENCES, CANDIDATES, EXTRACTOR, ["a", "a", "b"])
    assert found["reports"] == 3
    names = {"bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "concept_precision", "concept_recall", "concept_f1"}
    assert set(found) == {"reports", *names, *(f"{n}_low" for n in names), *(f"{n}_high" for n in names)}
    assert found == scores(REFERENCES, CANDIDATES, EXTRACTOR, ["a", "a", "b"])
    with pytest.raises(ValueError, match="no pairs"):
        bleu([], [])


def test_radgraph_only_where_its_weights_are(tmp_path: Path) -> None:
    assert set(radgraph_f1(REFERENCES, CANDIDATES, None).values()) == {None}
    with pytest.raises(BadConfiguration, match="no weights"):
        radgraph(tmp_path, (sys.executable,))


def test_radgraph_f1_is_the_mean_of_nodes_and_relations(tmp_path: Path) -> None:
    """A stand-in for the package marks every `effusion` as present and every `large` as modifying it."""
    (tmp_path / "radgraph-xl").mkdir()
    (tmp_path / "radgraph.py").write_text(STAND_IN, encoding="utf-8")
    python = ("env", f"PYTHONPATH={tmp_path}", sys.executable)
    extractor = radgraph(tmp_path, python)
    found = radgraph_f1(["large effusion"], ["effusion"], extractor)
    # Nodes: 1 of 2 found, F1 2/3; relations: 0 of 1.
    assert found["radgraph_f1"] == pytest.approx((2 / 3 + 0) / 2)
    (tmp_path / "radgraph.py").unlink()
    assert radgraph_f1(["large effusion"], ["effusion"], extractor) == found, "each text is read once"


STAND_IN = """
class RadGraph:
    def __init__(self, **_): pass
    def __call__(self, texts):
        words = texts[0].split()
        last = len(words) - 1
        marked = {
            str(n): {"label": "OBS-DP", "start_ix": n, "end_ix": n,
                     "relations": [["modify", str(last)]] if n < last else []}
            for n, word in enumerate(words)
        }
        return {"0": {"text": texts[0], "entities": marked}}
"""


def test_floors() -> None:
    assert most_common(["b", "a", "b", "a", "c"]) == "a"
    train = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]], np.float32)
    assert nearest(train, np.array([[0.0, 9.0], [3.0, 2.9]], np.float32)).tolist() == [1, 2]
