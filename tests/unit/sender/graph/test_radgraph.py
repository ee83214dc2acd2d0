"""RadGraph's published JSON, in the labels of both of its versions; no model is needed here."""

import sys
from pathlib import Path
from typing import Any

import pytest

from thinwire.sender.graph.radgraph import RadGraphExtractor, from_radgraph
from thinwire.sender.graph.report_graph import Extractor
from thinwire.sender.graph.vocabulary import load_vocabulary
from thinwire.shared.errors import BadConfiguration, BadFormat
from thinwire.shared.formats.graph import Assertion, Concepts, Relation
from thinwire.shared.identifiers import TextSource

VOCABULARY = load_vocabulary()


def entity(tokens: str, label: str, first: int, last: int, *relations: tuple[str, str]) -> dict[str, Any]:
    return {
        "tokens": tokens,
        "label": label,
        "start_ix": first,
        "end_ix": last,
        "relations": [list(r) for r in relations],
    }


def annotation(text: str, *entities: dict[str, Any]) -> dict[str, Any]:
    numbered = {str(number): each for number, each in enumerate(entities, start=1)}
    return {"text": text, "entities": numbered, "data_source": None, "data_split": "inference"}


def nodes(graph: Concepts) -> list[tuple[str, Assertion]]:
    return [
        (VOCABULARY.concepts[c].name, Assertion(a))
        for c, a in zip(graph.concept.tolist(), graph.assertion.tolist(), strict=True)
    ]


def relations(graph: Concepts) -> set[tuple[str, Relation, str]]:
    named = [name for name, _ in nodes(graph)]
    return {(named[a], Relation(r), named[b]) for a, b, r in graph.relations.tolist()}


EFFUSION = annotation(
    "small left pleural effusion may represent pneumonia . no pneumothorax .",
    entity("small", "Observation::definitely present", 0, 0, ("modify", "4")),
    entity("left", "Anatomy::definitely present", 1, 1, ("modify", "3")),
    entity("pleural", "Anatomy::definitely present", 2, 2),
    entity("effusion", "Observation::definitely present", 3, 3, ("located_at", "3"), ("suggestive_of", "5")),
    entity("pneumonia", "Observation::uncertain", 6, 6),
    entity("pneumothorax", "Observation::definitely absent", 9, 9),
)


def test_an_annotation_becomes_concepts_and_relations() -> None:
    graph = from_radgraph(EFFUSION, VOCABULARY)
    assert nodes(graph) == [
        ("effusion", Assertion.PRESENT),
        ("pneumothorax", Assertion.ABSENT),
        ("pneumonia", Assertion.UNCERTAIN),
        ("small", Assertion.PRESENT),
        ("pleura", Assertion.PRESENT),
        ("left", Assertion.PRESENT),
    ]
    assert relations(graph) == {
        ("small", Relation.MODIFY, "effusion"),
        ("left", Relation.MODIFY, "pleura"),
        ("effusion", Relation.LOCATED_AT, "pleura"),
        ("effusion", Relation.SUGGESTIVE_OF, "pneumonia"),
    }


def test_the_first_version_labels_the_same() -> None:
    older = {"Observation": "OBS", "Anatomy": "ANAT"}
    ending = {"definitely present": "-DP", "definitely absent": "-DA", "uncertain": "-U"}
    entities = {}
    for key, each in EFFUSION["entities"].items():
        kind, assertion = each["label"].split("::")
        entities[key] = {**each, "label": older[kind] + ending[assertion]}
    graph, same = from_radgraph({**EFFUSION, "entities": entities}, VOCABULARY), from_radgraph(EFFUSION, VOCABULARY)
    assert nodes(graph) == nodes(same)
    assert relations(graph) == relations(same)


def test_a_concept_that_spans_entities_is_one_and_an_entity_of_several_concepts_holds_them_together() -> None:
    graph = from_radgraph(
        annotation(
            "chest tube and bibasilar atelectasis",
            entity("chest", "ANAT-DP", 0, 0),
            entity("tube", "OBS-DA", 1, 1, ("located_at", "1")),
            entity("bibasilar", "ANAT-DP", 3, 3),
            entity("atelectasis", "OBS-U", 4, 4, ("located_at", "3")),
        ),
        VOCABULARY,
    )
    assert nodes(graph) == [
        ("atelectasis", Assertion.UNCERTAIN),
        ("chest tube", Assertion.ABSENT),
        ("base", Assertion.PRESENT),
        ("bilateral", Assertion.PRESENT),
    ]
    assert relations(graph) == {
        ("bilateral", Relation.MODIFY, "base"),
        ("atelectasis", Relation.LOCATED_AT, "base"),
    }


def test_what_the_vocabulary_does_not_name_is_dropped_and_what_the_model_does_not_mark_too() -> None:
    graph = from_radgraph(
        annotation("zebra effusion", entity("zebra", "OBS-DP", 0, 0, ("modify", "2"), ("modify", "9"))), VOCABULARY
    )
    assert nodes(graph) == []


def test_an_implied_statement_is_added_as_for_the_rules() -> None:
    said = annotation(
        "heart normal", entity("heart", "ANAT-DP", 0, 0), entity("normal", "OBS-DP", 1, 1, ("located_at", "1"))
    )
    assert ("cardiomegaly", Assertion.ABSENT) in nodes(from_radgraph(said, VOCABULARY))


def test_an_indication_asks() -> None:
    assert nodes(from_radgraph(EFFUSION, VOCABULARY, TextSource.INDICATION))[0] == ("effusion", Assertion.UNCERTAIN)


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"text": "effusion"},
        {"text": "effusion", "entities": ["effusion"]},
        annotation("effusion", entity("effusion", "OBS-XX", 0, 0)),
        annotation("effusion", entity("effusion", "OBS-DP", 0, 0, ("causes", "1"))),
        annotation("effusion", {"label": "OBS-DP", "relations": []}),
        annotation("effusion", {**entity("effusion", "OBS-DP", 0, 0), "start_ix": None}),
    ],
)
def test_anything_else_is_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(BadFormat):
        from_radgraph(broken, VOCABULARY)


# Stands in for the package: prints while it loads, as the package does, and marks the word "effusion".
PACKAGE = """
class RadGraph:
    def __init__(self, model_type, model_cache_dir, cuda):
        print("Using device: cpu")
        assert model_type == "radgraph-xl"

    def __call__(self, texts):
        words = texts[0].split()
        at = words.index("effusion")
        entity = {"tokens": "effusion", "label": "OBS-DP", "start_ix": at, "end_ix": at, "relations": []}
        return {"0": {"text": texts[0], "entities": {"1": entity}}}
"""


def extractor_with(package: str, folder: Path, seconds: float = 60.0) -> RadGraphExtractor:
    (folder / "radgraph.py").write_text(package)
    (folder / "weights" / "radgraph-xl").mkdir(parents=True)
    python = ("env", f"PYTHONPATH={folder}", sys.executable)
    return RadGraphExtractor(VOCABULARY, python, folder / "weights", seconds=seconds)


def test_the_model_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    extractor: Extractor = extractor_with(PACKAGE, tmp_path)
    assert nodes(extractor.extract("small effusion")) == [("effusion", Assertion.PRESENT)]
    assert nodes(extractor.extract("small effusion", TextSource.INDICATION)) == [("effusion", Assertion.UNCERTAIN)]
    assert nodes(extractor.extract("  \n")) == []


@pytest.mark.parametrize(
    ("package", "seconds", "said"),
    [
        ("raise ImportError('effusion of Mr Public')", 60.0, "code 1"),
        (PACKAGE.replace('"OBS-DP"', '"OBS"'), 60.0, "not RadGraph's published JSON"),
        (PACKAGE.replace('{"0": {"text": texts[0], "entities": {"1": entity}}}', '{"0": []}'), 60.0, "not RadGraph's"),
        ("while True: pass", 0.5, "longer than"),
    ],
)
def test_a_model_that_fails_is_a_matter_of_configuration(
    package: str, seconds: float, said: str, tmp_path: Path
) -> None:
    with pytest.raises(BadConfiguration, match=said) as raised:
        extractor_with(package, tmp_path, seconds).extract("effusion of Mr Public")
    assert "Public" not in str(raised.value)
    assert raised.value.__cause__ is None or "Public" not in str(raised.value.__cause__)


def test_without_weights_nothing_is_started(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match="no weights"):
        RadGraphExtractor(VOCABULARY, ("/nowhere/python",), tmp_path).extract("effusion")


def test_without_a_python_the_error_says_so(tmp_path: Path) -> None:
    (tmp_path / "radgraph-xl").mkdir()
    with pytest.raises(BadConfiguration, match="could not be run"):
        RadGraphExtractor(VOCABULARY, ("/nowhere/python",), tmp_path).extract("effusion")
