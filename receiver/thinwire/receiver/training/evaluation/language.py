"""How close a written report is to the true one: n-grams, longest common subsequence, and findings.

Texts are compared as the radiology report papers do: lower case, words and punctuation marks as tokens. Shares are 0 to
1. Every figure comes with `_low` and `_high`, its 95 % bootstrap interval by patient.
"""

import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.bleu import BLEU

from thinwire.receiver.training.evaluation.statistics import Floats, Groups, bootstrap, interval
from thinwire.sender.graph.radgraph import RadGraphExtractor
from thinwire.sender.graph.report_graph import Extractor
from thinwire.sender.graph.vocabulary import load_vocabulary
from thinwire.shared.formats.graph import Concepts, FloatArray
from thinwire.shared.identifiers import TextSource

ORDERS = 4
"""BLEU-1 to BLEU-4."""
_TOKEN = re.compile(r"\w+|[^\w\s]")


def tokens(text: str) -> list[str]:
    """Lower-case words and punctuation marks, each a token."""
    return _TOKEN.findall(text.lower())


def scores(
    references: Sequence[str], candidates: Sequence[str], extractor: Extractor, groups: Groups = None, seed: int = 0
) -> dict[str, Any]:
    """All figures of one set of reports: those of `bleu`, `rouge_l` and `concepts`, and how many reports there are."""
    return {
        "reports": len(references),
        **bleu(references, candidates, groups, seed),
        **rouge_l(references, candidates, groups, seed),
        **concepts(references, candidates, extractor, groups, seed),
    }


def bleu(references: Sequence[str], candidates: Sequence[str], groups: Groups = None, seed: int = 0) -> dict[str, Any]:
    """bleu_1 to bleu_4 of a whole corpus with one reference each (Papineni 2002), not smoothed, by sacrebleu.

    BLEU-n is the brevity penalty times the geometric mean of the precisions of 1 to n words. Raises ValueError
    without a pair, or with unequal counts.
    """
    _pairs(references, candidates)
    counter = BLEU(tokenize="none", smooth_method="none", effective_order=True, max_ngram_order=ORDERS)
    rows = []
    for reference, candidate in zip(references, candidates, strict=True):
        found = counter.sentence_score(" ".join(tokens(candidate)), [" ".join(tokens(reference))])
        rows.append([*found.counts, *found.totals, found.sys_len, found.ref_len])
    counts = np.array(rows, dtype=np.float64)
    whole = [int(n) for n in counts.sum(axis=0)]
    out: dict[str, Any] = {}
    drawn = bootstrap(lambda weights: corpus_bleu(weights @ counts), groups, len(rows), seed)
    for order in range(1, ORDERS + 1):
        value = BLEU.compute_bleu(
            whole[:order], whole[ORDERS : ORDERS + order], whole[-2], whole[-1], max_ngram_order=order
        )
        out |= _figure(f"bleu_{order}", value.score / 100, drawn[:, order - 1])
    return out


def corpus_bleu(counts: Floats) -> Floats:
    """BLEU-1 to 4 [b, ORDERS] of summed counts [b, 2 * ORDERS + 2]: n-grams that match, n-grams written, words
    written, words of the references. The same formula as the library's, for all resamples at once."""
    correct, total = counts[:, :ORDERS], counts[:, ORDERS : 2 * ORDERS]
    written, wanted = counts[:, -2], counts[:, -1]
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(np.where(total > 0, correct / total, 0.0))
        penalty = np.where(written > 0, np.minimum(0.0, 1 - wanted / written), -np.inf)
        means = np.cumsum(logs, axis=1) / np.arange(1, ORDERS + 1)
    return np.asarray(np.exp(means + penalty[:, None]))


def rouge_l(
    references: Sequence[str], candidates: Sequence[str], groups: Groups = None, seed: int = 0
) -> dict[str, Any]:
    """rouge_l: mean F1 of the longest common subsequence of tokens (Lin 2004), precision and recall alike."""
    _pairs(references, candidates)
    values = np.array([_rouge_l(tokens(r), tokens(c)) for r, c in zip(references, candidates, strict=True)])
    drawn = bootstrap(lambda weights: weights @ values / weights.sum(axis=1), groups, len(values), seed)
    return _figure("rouge_l", float(values.mean()), drawn)


def _rouge_l(reference: Sequence[str], candidate: Sequence[str]) -> float:
    row = [0] * (len(candidate) + 1)
    for word in reference:
        before = 0
        for n, written in enumerate(candidate, 1):
            before, row[n] = row[n], before + 1 if word == written else max(row[n], row[n - 1])
    return 2 * row[-1] / (len(reference) + len(candidate)) if row[-1] else 0.0


def concepts(
    references: Sequence[str], candidates: Sequence[str], extractor: Extractor, groups: Groups = None, seed: int = 0
) -> dict[str, Any]:
    """concept_precision, concept_recall, concept_f1 over (concept, assertion), counted over all reports (micro)."""
    _pairs(references, candidates)
    said = _extracted([*references, *candidates], extractor)
    counts = _counted(said, references, candidates, _nodes)
    drawn = bootstrap(lambda weights: _agreement(weights @ counts), groups, len(counts), seed)
    point = _agreement(counts.sum(axis=0)[None])[0]
    names = ("concept_precision", "concept_recall", "concept_f1")
    return {key: v for n, name in enumerate(names) for key, v in _figure(name, float(point[n]), drawn[:, n]).items()}


@dataclass
class CachedExtractor:
    """An extractor that reads each text once: RadGraph's model takes seconds for each."""

    extractor: Extractor
    said: dict[str, Concepts] = field(default_factory=dict)

    def extract(self, text: str, source: TextSource = TextSource.REPORT) -> Concepts:
        if text not in self.said:
            self.said[text] = self.extractor.extract(text, source)
        return self.said[text]


def radgraph(folder: Path, python: Sequence[str]) -> CachedExtractor:
    """The RadGraph model (docs/report-graph.md). folder: of its weights; python: command of one with its package.

    Raises BadConfiguration where it cannot be run, before anything is measured.
    """
    extractor = CachedExtractor(RadGraphExtractor(load_vocabulary(), tuple(python), folder))
    extractor.extract("No effusion.")
    return extractor


def radgraph_f1(
    references: Sequence[str],
    candidates: Sequence[str],
    extractor: Extractor | None,
    groups: Groups = None,
    seed: int = 0,
) -> dict[str, Any]:
    """radgraph_f1: mean of the micro F1 of entities and of relations by the RadGraph model (Yu 2023, Patterns).

    None without the model. Only concepts of the closed vocabulary count, so that the figure is not the published one
    to the digit. Raises BadConfiguration where the model cannot be run.
    """
    if extractor is None:
        return {"radgraph_f1": None, "radgraph_f1_low": None, "radgraph_f1_high": None}
    _pairs(references, candidates)
    said = _extracted([*references, *candidates], extractor)
    nodes, edges = (_counted(said, references, candidates, parts) for parts in (_nodes, _relations))

    def mean_f1(weights: Floats) -> Floats:
        return (_agreement(weights @ nodes)[:, 2] + _agreement(weights @ edges)[:, 2]) / 2

    point = float(mean_f1(np.ones((1, len(nodes))))[0])
    return _figure("radgraph_f1", point, bootstrap(mean_f1, groups, len(nodes), seed))


def most_common(reports: Sequence[str]) -> str:
    """The floor without any image: the most frequent report, the first by letters among equals."""
    return min(Counter(reports).items(), key=lambda item: (-item[1], item[0]))[0]


def nearest(train_context: FloatArray, context: FloatArray) -> NDArray[np.int64]:
    """The floor that only looks things up: for each context vector [n, d] the row of the nearest of [m, d] by cosine,
    the lowest among equals."""
    known, asked = (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in (train_context, context))
    return np.asarray((asked @ known.T).argmax(axis=1), dtype=np.int64)


def _nodes(found: Concepts) -> set[Hashable]:
    return set(zip(found.concept.tolist(), found.assertion.tolist(), strict=True))


def _relations(found: Concepts) -> set[Hashable]:
    nodes = list(zip(found.concept.tolist(), found.assertion.tolist(), strict=True))
    return {(nodes[a], nodes[b], kind) for a, b, kind in found.relations.tolist()}


def _extracted(texts: Sequence[str], extractor: Extractor) -> dict[str, Concepts]:
    return {text: extractor.extract(text) for text in dict.fromkeys(texts)}


def _counted(
    said: dict[str, Concepts],
    references: Sequence[str],
    candidates: Sequence[str],
    parts: Callable[[Concepts], set[Hashable]],
) -> Floats:
    """[n, 3]: parts in both texts of a pair, in the candidate, in the reference."""
    pairs = [(parts(said[r]), parts(said[c])) for r, c in zip(references, candidates, strict=True)]
    return np.array([[len(true & found), len(found), len(true)] for true, found in pairs], dtype=np.float64)


def _agreement(counts: Floats) -> Floats:
    """Precision, recall, F1 [b, 3] of summed counts [b, 3]; 0 where there is nothing to count."""
    both, found, true = counts.T
    return np.stack([both, both, 2 * both], axis=1) / np.maximum(np.stack([found, true, found + true], axis=1), 1)


def _figure(name: str, value: float, drawn: Floats) -> dict[str, Any]:
    low, high = interval(drawn)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _pairs(references: Sequence[str], candidates: Sequence[str]) -> None:
    if not references or len(references) != len(candidates):
        raise ValueError(f"{len(references)} references and {len(candidates)} candidates are no pairs")
