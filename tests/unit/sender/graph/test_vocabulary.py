import hashlib
import tomllib
from importlib.resources import files
from typing import Any

import pytest

from thinwire.sender.graph.report_graph import extract
from thinwire.sender.graph.vocabulary import ConceptRole, Cue, build_vocabulary, load_vocabulary, split_words
from thinwire.shared.errors import BadBundle
from thinwire.shared.formats.bundle import Concept

VOCABULARY = load_vocabulary()


def tables() -> dict[str, Any]:
    return tomllib.loads((files("thinwire.sender.graph") / "vocabulary.toml").read_text(encoding="utf-8"))


def phrases(text: str) -> list[str]:
    """A text cut into phrases: concept names, cues in angle brackets, other words as they stand."""
    words = split_words(text)
    return [
        "+".join(VOCABULARY.concepts[c].name for c in phrase.concepts)
        or (f"<{phrase.cue}>" if phrase.cue else " ".join(words[phrase.start : phrase.end]))
        for phrase in VOCABULARY.match(words)
    ]


def test_the_findings_that_are_trained_come_first() -> None:
    first = [concept.name for concept in VOCABULARY.concepts[:5]]
    assert first == ["consolidation", "effusion", "pneumothorax", "cardiomegaly", "nodule"]
    assert all(VOCABULARY.roles[index] is ConceptRole.FINDING for index in range(5))


def test_the_order_is_append_only() -> None:
    # Bundles are trained on these numbers. A new concept goes to the end and leaves this digest as it is.
    first = "\n".join(f"{concept.name} {concept.kind}" for concept in VOCABULARY.concepts[:270])
    assert (
        hashlib.sha256(first.encode()).hexdigest() == "6aad4cb0b77870fffe4f980d06220942bd5c3671eaba04e60607d6bbb940a301"
    )


def test_names_are_unique_and_kinds_follow_roles() -> None:
    assert len({concept.name for concept in VOCABULARY.concepts}) == len(VOCABULARY.concepts)
    assert VOCABULARY.concepts[VOCABULARY.index("lower lobe")] == Concept("lower lobe", "anatomy")
    assert VOCABULARY.concepts[VOCABULARY.index("right")] == Concept("right", "anatomy")
    assert VOCABULARY.concepts[VOCABULARY.index("mild")] == Concept("mild", "observation")
    assert VOCABULARY.concepts[VOCABULARY.index("pacemaker")] == Concept("pacemaker", "observation")
    with pytest.raises(KeyError):
        VOCABULARY.index("pancreas")


def test_every_concept_is_found_by_its_name() -> None:
    for index, concept in enumerate(VOCABULARY.concepts):
        assert [phrase.concepts for phrase in VOCABULARY.match(split_words(concept.name))] == [(index,)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Pericardial effusion", ["pericardial effusion"]),
        ("no change in effusion", ["stable", "effusion"]),
        ("no effusion", ["<deny>", "effusion"]),
        ("RLL", ["right+lower lobe"]),
        ("right-sided pneumothoraces", ["right", "pneumothorax"]),
        ("L/R base", ["left", "<or>", "right", "base"]),
        ("r/o PTX w/o CHF", ["<doubt>", "pneumothorax", "<deny>", "heart failure"]),
        ("haemorrhage, œdema; dyspnœa", ["hemorrhage", "<comma>", "edema", "<stop>", "dyspnea"]),
        ("Opacités", ["opacites"]),
        ("CP angles", ["costophrenic angle"]),
        ("atelectases and calcifications", ["atelectasis", "<and>", "calcification"]),
        ("does not", ["<verb>", "<deny>"]),
        ("3.5 cm", ["3", "5", "cm"]),
        ("effusions", ["effusion"]),
        ("confusion", ["weakness"]),
        ("diffusion", ["diffusion"]),
    ],
)
def test_the_longest_term_wins_on_whole_words(text: str, expected: list[str]) -> None:
    assert phrases(text) == expected


def test_slots_fill_in_every_way() -> None:
    for text in ("is not seen", "were not clearly seen", "has been excluded", "no longer visible"):
        assert [phrase.cue for phrase in VOCABULARY.match(split_words(text))] == [Cue.DENIED]


def test_a_phrase_with_two_meanings_is_refused() -> None:
    data = tables()
    data["concepts"][0]["terms"].append("effusion")
    with pytest.raises(ValueError, match="two meanings"):
        build_vocabulary(data)


def test_an_older_bundle_sees_its_own_concepts_only() -> None:
    older = VOCABULARY.of_bundle(VOCABULARY.concepts[:5])
    assert older.concepts == VOCABULARY.concepts[:5]
    graph = extract("Small right effusion, heart size normal. RLL consolidation.", older)
    assert graph.concept.tolist() == [0, 1]
    assert VOCABULARY.of_bundle(VOCABULARY.concepts).phrases == VOCABULARY.phrases


def test_a_bundle_with_other_concepts_is_refused() -> None:
    with pytest.raises(BadBundle):
        VOCABULARY.of_bundle((Concept("effusion", "observation"),))
    with pytest.raises(BadBundle):
        VOCABULARY.of_bundle((*VOCABULARY.concepts, Concept("later", "observation")))
