"""Beam search over made-up languages: never worse than greedy, and the likeliest text of all where it follows all."""

import itertools
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper

from tests.support.hub_folder import fused
from tests.support.tiny_bundle import tiny_bundle
from thinwire.receiver.inference.draft import Drafter, Text
from thinwire.shared.formats.bundle import DECODER, TOKENIZER, Bundle
from thinwire.shared.identifiers import StudyKey

LONGEST = 3
WORDS = 10
"""The tiny bundle's vocabulary: start, end and eight words."""
ENDS = (0, 1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


def speaking(tiny: Bundle, folder: Path, language: NDArray[np.float32]) -> Bundle:
    """The tiny bundle in `folder`; its decoder follows word i by word j with the log odds language[i, j]."""
    model = onnx.load(str(tiny.folder / DECODER))
    (table,) = (each for each in model.graph.initializer if each.name == "following")
    table.CopyFrom(numpy_helper.from_array(language, "following"))
    onnx.save(model, str(folder / DECODER))
    (folder / TOKENIZER).write_bytes((tiny.folder / TOKENIZER).read_bytes())
    return replace(tiny, folder=folder, spec=replace(tiny.spec, max_tokens=LONGEST + 1))


def likeliest(language: NDArray[np.float32]) -> float:
    """The log-probability of the likeliest text, of all there are; one that is cut off need not end."""
    said = language.astype(np.float64) - language.max(axis=1, keepdims=True)
    said -= np.log(np.exp(said).sum(axis=1, keepdims=True))
    words = range(max(ENDS) + 1, len(language))
    best = -np.inf
    for length in range(LONGEST + 1):
        for text in itertools.product(words, repeat=length):
            path = (0, *text)
            value = sum(said[a, b] for a, b in itertools.pairwise(path))
            end = int(said[path[-1]].argmax()) if length == LONGEST else None
            if end is None:
                value += max(said[path[-1], e] for e in ENDS)
            elif end in ENDS:
                value += said[path[-1], end]
            best = max(best, float(value))
    return best


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), sharp=st.sampled_from([0.5, 1.0, 2.0]))
def test_a_wider_search_never_ends_with_a_less_likely_text(tiny: Bundle, seed: int, sharp: float) -> None:
    language = np.random.default_rng(seed).normal(scale=sharp, size=(WORDS, WORDS)).astype(np.float32)
    graph = fused(tiny.id, StudyKey(bytes(16)))
    found: dict[int, Text] = {}
    with tempfile.TemporaryDirectory() as folder:
        bundle = speaking(tiny, Path(folder), language)
        for beams in (1, 2, 3, 600):
            *_, (found[beams],) = Drafter(bundle, beams).stream([graph])
    assert found[1].greedy
    assert found[2].log_probability >= found[1].log_probability - 1e-9
    assert found[3].log_probability >= found[1].log_probability - 1e-9
    assert abs(found[600].log_probability - likeliest(language)) < 1e-4


def test_a_language_in_which_two_beams_would_lose_the_greedy_text(tiny: Bundle, tmp_path: Path) -> None:
    """Two good second words push the greedy text out; what follows them is then poor."""
    odds = np.full((WORDS, WORDS), 0.1)
    odds[0] = 1e-3
    odds[0, [2, 3]] = 0.5, 0.45
    odds[2, 4] = 0.3
    odds[3] = 1e-3
    odds[3, [5, 6]] = 0.5, 0.49
    odds[4] = 1e-3
    odds[4, 1] = 0.99
    bundle = speaking(tiny, tmp_path, np.log(odds).astype(np.float32))
    graph = fused(bundle.id, StudyKey(bytes(16)))
    greedy, wider = ([*Drafter(bundle, beams).stream([graph])][-1][0] for beams in (1, 2))
    assert greedy.tokens == wider.tokens == (2, 4)
    assert wider.log_probability == pytest.approx(greedy.log_probability)
