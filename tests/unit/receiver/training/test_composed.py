import math
import re

import numpy as np
import pytest

from thinwire.receiver.training.composed import Box, compose
from thinwire.receiver.training.corpus import FINDINGS
from thinwire.sender.graph.report_graph import RuleExtractor
from thinwire.sender.graph.vocabulary import load_vocabulary
from thinwire.shared.formats.graph import Assertion

VOCABULARY = load_vocabulary()
MEANS = {
    "consolidation": ("consolidation", "airspace disease", "infiltrate", "opacity"),
    "effusion": ("effusion",),
    "pneumothorax": ("pneumothorax",),
    "cardiomegaly": ("cardiomegaly",),
    "nodule": ("nodule",),
}
OTHERS = ("Atelectasis", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia")
UNKNOWN = math.nan


def read(text: str) -> dict[str, set[Assertion]]:
    graph = RuleExtractor(VOCABULARY).extract(text)
    found: dict[str, set[Assertion]] = {}
    for concept, assertion in zip(graph.concept.tolist(), graph.assertion.tolist(), strict=True):
        name = VOCABULARY.concepts[concept].name
        for finding, names in MEANS.items():
            if name in names:
                found.setdefault(finding, set()).add(Assertion(assertion))
    return found


def case(number: int) -> tuple[tuple[float, ...], tuple[Box, ...], tuple[str, ...]]:
    """Labels, boxes for about half of the findings, and other labels, all by chance."""
    rng = np.random.default_rng(number)
    labels = tuple(float(v) if v < 2 else UNKNOWN for v in rng.choice(3, 5, p=(0.5, 0.4, 0.1)))
    boxes: tuple[Box, ...] = tuple(
        (name, rng.uniform(0, 0.7), rng.uniform(0.1, 0.6), rng.uniform(0.03, 0.3), rng.uniform(0.03, 0.3))
        for name, label in zip(FINDINGS, labels, strict=True)
        for _ in range(int(rng.integers(0, 3)) if label == 1 else 0)
    )
    return labels, boxes, tuple(name for name in OTHERS if rng.random() < 0.1)


@pytest.mark.parametrize("paediatric", [False, True])
def test_the_extractor_reads_what_was_meant(paediatric: bool) -> None:
    for number in range(150):
        labels, boxes, others = case(number)
        sentences, _ = compose(f"key {number}", labels, boxes, others, paediatric)
        text = " ".join(sentence for sentence, _ in sentences)
        found = read(text)
        for name, label in zip(FINDINGS, labels, strict=True):
            if label == 1:
                assert found.get(name) == {Assertion.PRESENT}, (name, text)
            elif label == 0:
                assert found.get(name, {Assertion.ABSENT}) == {Assertion.ABSENT}, (name, text)
            else:
                assert name not in found, (name, text)


def test_each_sentence_carries_the_finding_that_it_asserts() -> None:
    for number in range(100):
        labels, boxes, others = case(number)
        for sentence, finding in compose(f"key {number}", labels, boxes, others)[0]:
            asserted = {name for name, said in read(sentence).items() if Assertion.PRESENT in said}
            assert asserted == ({finding} if finding else set()), sentence
            assert re.fullmatch(r"[A-Z][^{}]*[^ ]\.", sentence), sentence
            assert "  " not in sentence


def test_a_side_a_zone_and_a_size_come_from_boxes_alone() -> None:
    words = re.compile(
        r"\b(right|left|bilateral|both lung|upper|mid|lower|small|moderate|large|extensive|subtle)\b", re.I
    )
    for number in range(200):
        labels, _, others = case(number)
        for sentence, finding in compose(f"key {number}", labels, (), others)[0]:
            assert finding is None or not words.search(sentence), sentence


def test_the_left_of_the_image_is_the_patients_right() -> None:
    labels = (1.0, 0.0, 0.0, 0.0, 0.0)
    said = {"right": 0, "left": 0, "bilateral": 0}
    for number in range(60):
        right: Box = ("consolidation", 0.15, 0.6, 0.2, 0.15)
        left: Box = ("consolidation", 0.65, 0.6, 0.2, 0.15)
        for side, boxes in (("right", (right,)), ("left", (left,)), ("bilateral", (right, left))):
            text = compose(f"key {number}", labels, boxes, ())[0][0][0].lower()
            owned = next(s.lower() for s, f in compose(f"key {number}", labels, boxes, ())[0] if f)
            other = {"right": "left", "left": "right", "bilateral": "right"}[side]
            assert other not in owned, text
            said[side] += side in owned or (side == "bilateral" and "both lower zones" in owned)
            if side in owned:
                assert "upper" not in owned
                assert "mid " not in owned
    assert all(count == 60 for count in said.values()), said


def test_wording_varies_and_is_the_same_for_the_same_key() -> None:
    for index, name in enumerate(FINDINGS):
        labels = tuple(float(i == index) for i in range(5))
        texts = [compose(f"key {n}", labels, (), ()) for n in range(100)]
        assert len({s for sentences, _ in texts for s, f in sentences if f == name}) >= 5
        assert len({" ".join(s for s, _ in sentences) for sentences, _ in texts}) >= 80
        assert texts == [compose(f"key {n}", labels, (), ()) for n in range(100)]


def test_negatives_are_grouped_said_alone_and_left_unsaid() -> None:
    texts = [" ".join(s for s, _ in compose(f"key {n}", (0.0,) * 5, (), ())[0]) for n in range(200)]
    assert any(" or " in text for text in texts)
    assert any(" or " not in text for text in texts)
    assert any("pneumothorax" not in text for text in texts)


@pytest.mark.parametrize("paediatric", [False, True])
def test_the_indication_says_nothing_of_the_labels(paediatric: bool) -> None:
    seen = set()
    for number in range(100):
        labels, boxes, others = case(number)
        told = {
            compose(f"key {number}", each, boxes, others, paediatric)[1]
            for each in (labels, (0.0,) * 5, (1.0,) * 5, (UNKNOWN,) * 5)
        }
        assert len(told) == 1
        seen |= told
    assert len(seen) >= 5
