"""Drafts a report from a pruned graph: the bundle's T5 attends to the kept patches only (NEURAL, "pruned").

The decoder gets the patches as decoded from the payload, at their cells; all other cells are masked, as in training
with few cells. Texts of one batch are of equal length at every step, so that only cells are masked.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from thinwire.receiver.inference.decoder import END, START, Decoder
from thinwire.shared.errors import UnknownBundle
from thinwire.shared.formats.bundle import TOKENIZER, Bundle
from thinwire.shared.formats.graph import BoolArray, FloatArray, FusedGraph
from thinwire.shared.identifiers import BundleId, TextSource

UNFINISHED = " …"
"""Mark after a sentence that was cut off at the bundle's text limit."""
_SENTENCE_END = re.compile(r"[.!?]+(?=\s|$)")


@dataclass(frozen=True)
class DraftSentence:
    text: str
    share: tuple[float, ...]
    """Each kept patch's share of the attention that the sentence paid to patches, in the graph's order; sums to 1."""
    on_image: float
    """Share of the sentence's attention on patches, 0 to 1; the rest is on the null keys."""


@dataclass(frozen=True)
class Draft:
    """A machine-written, unchecked report text."""

    sentences: tuple[DraftSentence, ...]
    """Empty for a graph without patches."""
    bundle: BundleId

    @property
    def text(self) -> str:
        return " ".join(sentence.text for sentence in self.sentences)


@dataclass(frozen=True)
class Text:
    """A text, complete or in progress."""

    tokens: tuple[int, ...] = ()
    """Without start and end tokens."""
    log_probability: float = 0.0
    """Log-probability of the tokens, with the end token; natural logarithm."""
    done: bool = False
    whole: bool = False
    """Whether the end token is written; False in progress and for a text cut at the bundle's limit."""
    greedy: bool = True
    """Whether each token was the most likely one."""


class Drafter:
    """Loads decoder and tokenizer once. Deterministic: the same graphs, bundle and beams give the same drafts."""

    def __init__(self, bundle: Bundle, beams: int = 1) -> None:
        """beams: width of the beam search; 1 is greedy."""
        self.beams = beams
        self._bundle = bundle.id
        self._size = bundle.spec.feature_size
        self._longest = bundle.spec.max_tokens - 1
        self._decoder = Decoder(bundle)
        self._tokenizer = Tokenizer.from_file(str(bundle.folder / TOKENIZER))

    def drafts(self, graphs: Sequence[FusedGraph]) -> list[Draft]:
        """One for each graph, in order. Raises UnknownBundle for a graph of another bundle."""
        *_, texts = self.stream(graphs)
        return self.attended(graphs, texts)

    def words(self, text: Text) -> str:
        written: str = self._tokenizer.decode(list(text.tokens))
        return written.strip()

    def stream(self, graphs: Sequence[FusedGraph]) -> Iterator[tuple[Text, ...]]:
        """The best text so far of every graph: first empty, then after each token; the last one is complete.

        Beam search by log-probability without length normalisation. It only decreases, so a graph's search ends when
        its best text is complete. The greedy text is never dropped: a wider beam gives no less likely text.
        """
        features, valid = self._cells(graphs)
        beams = [[Text(done=not row.any())] for row in valid]
        yield tuple(beam[0] for beam in beams)
        while under_way := [
            (row, text) for row, beam in enumerate(beams) if not beam[0].done for text in beam if not text.done
        ]:
            rows = np.array([row for row, _ in under_way])
            tokens = np.array([(START, *text.tokens) for _, text in under_way], dtype=np.int64)
            logits, _ = self._decoder.run(features[rows], valid[rows], tokens)
            following: dict[int, list[Text]] = {
                row: [text for text in beams[row] if text.done] for row in dict.fromkeys(rows.tolist())
            }
            for (row, text), likelihood in zip(under_way, _log_softmax(logits[:, -1]), strict=True):
                following[row] += self._continued(text, likelihood)
            for row, texts in following.items():
                beams[row] = self._best(texts)
            yield tuple(beam[0] for beam in beams)

    def attended(self, graphs: Sequence[FusedGraph], texts: Sequence[Text]) -> list[Draft]:
        """The drafts by sentence, with the attention of each sentence over the patches."""
        if not graphs:
            return []
        features, valid = self._cells(graphs)
        tokens = np.full((len(texts), 1 + max(len(text.tokens) for text in texts)), START, dtype=np.int64)
        for row, text in enumerate(texts):
            tokens[row, 1 : 1 + len(text.tokens)] = text.tokens
        _, attention = self._decoder.run(features, valid, tokens)
        return [
            Draft(tuple(self._sentences(text, looked[:, graph.patches.cell])), self._bundle)
            for graph, text, looked in zip(graphs, texts, attention, strict=True)
        ]

    def _cells(self, graphs: Sequence[FusedGraph]) -> tuple[FloatArray, BoolArray]:
        """(features [B, cells, d], valid [B, cells]): kept patches at their cells."""
        features = np.zeros((len(graphs), self._decoder.cells, self._size), dtype=np.float32)
        valid = np.zeros(features.shape[:2], dtype=np.bool_)
        for row, graph in enumerate(graphs):
            if graph.bundle != self._bundle:
                raise UnknownBundle("a graph of another bundle cannot be drafted with this one")
            features[row, graph.patches.cell] = graph.patches.feature
            valid[row, graph.patches.cell] = True
        return features, valid

    def _continued(self, text: Text, likelihood: NDArray[np.float64]) -> list[Text]:
        """The possible continuations, the most likely first. likelihood: log-probability, [V]."""
        if len(text.tokens) == self._longest:
            token = int(likelihood.argmax())
            ends = token in (START, END)
            added = float(likelihood[token]) if ends else 0.0
            return [replace(text, log_probability=text.log_probability + added, done=True, whole=ends)]
        texts = []
        for place, token in enumerate(np.argsort(-likelihood, kind="stable")[: self.beams].tolist()):
            ends = token in (START, END)
            texts.append(
                Text(
                    tokens=text.tokens if ends else (*text.tokens, token),
                    log_probability=text.log_probability + float(likelihood[token]),
                    done=ends,
                    whole=ends,
                    greedy=text.greedy and place == 0,
                )
            )
        return texts

    def _best(self, texts: Sequence[Text]) -> list[Text]:
        ranked = sorted(texts, key=lambda text: (-text.log_probability, text.tokens))
        kept = ranked[: self.beams]
        return kept if any(text.greedy for text in kept) else [*kept[:-1], next(t for t in ranked if t.greedy)]

    def _sentences(self, text: Text, looked: FloatArray) -> Iterator[DraftSentence]:
        """looked: float32 [1 + tokens or more, k]; row t chose token t, which is how training grounds words."""
        words: str = self._tokenizer.decode(list(text.tokens))
        ends = [len(self._tokenizer.decode(list(text.tokens[: n + 1]))) for n in range(len(text.tokens))]
        bounds = sorted({*(found.end() for found in _SENTENCE_END.finditer(words)), len(words.rstrip())})
        began = first = 0
        for bound in bounds:
            after = sum(end <= bound for end in ends)
            said = words[began:bound].strip()
            if after == first or not said:
                continue
            paid = looked[first:after].sum(axis=0, dtype=np.float64)
            total = float(paid.sum())
            share = paid / total if total > 0 else np.full(len(paid), 1 / len(paid))
            cut = UNFINISHED if bound == bounds[-1] and not text.whole else ""
            yield DraftSentence(said + cut, tuple(share.tolist()), min(1.0, total / (after - first)))
            began, first = bound, after


def _log_softmax(logits: FloatArray) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def draft_json(draft: Draft, graph: FusedGraph) -> bytes:
    """The stored form of a draft, JSON in UTF-8. Format: docs/report-decoder.md."""
    told: dict[str, Any] = {
        "text_source": str(TextSource.GENERATED),
        "bundle": draft.bundle.hex(),
        "side": graph.grid.side,
        "cells": graph.patches.cell.tolist(),
        "sentences": [
            {"text": each.text, "share": [round(s, 6) for s in each.share], "on_image": round(each.on_image, 4)}
            for each in draft.sentences
        ],
    }
    return json.dumps(told, ensure_ascii=False).encode()
