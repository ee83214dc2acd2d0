"""The tables of the evaluation: rows that say all of themselves, one source of images at a time.

A row is flat: source, synthetic, text_kind, guide, choice, retention_percent, endpoint, then the figure with its
interval. Sources are never pooled: the source's name alone would tell the outcomes apart. Where a source has images of
the training roles among others, rows come twice: of "all", and of the "unseen" (column `subset`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinwire.receiver.inference.mpnn import Predictor, text_index
from thinwire.receiver.training.corpus import FINDINGS, Role
from thinwire.receiver.training.evaluation.graphs import Batches, Fusion, data_of, graphs_of, sealed_bytes
from thinwire.receiver.training.evaluation.model_outputs import Guide, ModelOutputs, source_of
from thinwire.receiver.training.evaluation.selection import ATTENTION, RANDOM, PatchSelection, choices
from thinwire.receiver.training.evaluation.statistics import (
    Floats,
    Ranked,
    bootstrap,
    interval,
    mean_auc_of,
    mean_with_interval,
)
from thinwire.receiver.training.graph_stage import by_attention
from thinwire.sender.graph.pruning import KeepPercent, prune
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.formats.coder import load_coder
from thinwire.shared.formats.graph import FusedGraph
from thinwire.shared.formats.payload import received

Row = dict[str, Any]
RETENTIONS = (0.5, 1.0, 2.3, 5.0, 10.0, 25.0, 50.0, 100.0)
"""Percent of an image's cells that are kept (NEURAL, figure 2)."""
RSNA = "RSNA opacity"
"""The radiologists' reading of the RSNA challenge, scored by the probability of consolidation."""
WHOLE = 100.0
LEARNED_FROM: tuple[Role, ...] = ("report", "graph")
"""The roles whose images teach the weights of a bundle."""
ALL, UNSEEN = "all", "unseen"
"""Subsets: every image, and those whose role taught nothing."""


@dataclass
class Source:
    """The images of one source, and who reads them."""

    name: str
    bundle: Bundle
    predictor: Predictor
    seen: ModelOutputs

    def __post_init__(self) -> None:
        self.coder = load_coder(self.bundle)
        self.percent = self.bundle.spec.keep_percent
        self.policy = KeepPercent(self.percent)
        self.patients = [s.patient or s.key for s in self.seen.samples]
        self.endpoints = dict(self._endpoints())
        unseen = np.array([s.role not in LEARNED_FROM for s in self.seen.samples], dtype=np.bool_)
        self.subsets = {ALL: np.ones(len(unseen), dtype=np.bool_)}
        if unseen.any() and not unseen.all():
            self.subsets[UNSEEN] = unseen

    @property
    def synthetic(self) -> bool:
        return all(s.seed >= 0 for s in self.seen.samples)

    @property
    def base(self) -> Row:
        """The columns with which every row begins."""
        kinds = sorted({s.text_kind for s in self.seen.samples})
        return {"source": self.name, "synthetic": self.synthetic, "text_kind": "+".join(kinds)}

    def _endpoints(self) -> Iterator[tuple[str, tuple[Floats, int]]]:
        """Name to (labels [n], column of the score), where both outcomes are there."""
        labels = np.array([s.labels for s in self.seen.samples], dtype=np.float64).reshape(-1, len(FINDINGS))
        column = {name: n for n, name in enumerate(self.bundle.spec.findings)}
        known = {name: (labels[:, f], column[name]) for f, name in enumerate(FINDINGS) if name in column}
        if "consolidation" in column:
            opacity = np.array([s.opacity for s in self.seen.samples], dtype=np.float64)
            known[RSNA] = (opacity, column["consolidation"])
        for name, (values, at) in known.items():
            if len(np.unique(values[~np.isnan(values)])) == 2:
                yield name, (values, at)

    def texts(self, guide: Guide) -> NDArray[np.int64]:
        """The text source of each image at the hub, [n] (`mpnn.text_index`): no text at all counts as generated."""
        return text_index([source_of(guide, sample) for sample in self.seen.samples])

    def probabilities(self, logits: Floats, guide: Guide) -> Floats:
        """[n, F] of member logits [members, n, F] of graphs under a guide."""
        return self.predictor.calibration.probabilities(logits, self.texts(guide))

    def first(self, count: int) -> "Source":
        """The same source of its first images alone."""
        return Source(
            self.name, self.bundle, self.predictor, self.seen.part(list(range(min(count, len(self.patients)))))
        )

    def made(self, guide: Guide, choice: PatchSelection, percent: float) -> list[FusedGraph]:
        """As the clinic makes them."""
        return graphs_of(choice.seen, guide, choice.choose, KeepPercent(percent))

    def graphs(self, guide: Guide, choice: PatchSelection, percent: float) -> list[FusedGraph]:
        """As the hub receives them."""
        return [received(graph, self.coder) for graph in self.made(guide, choice, percent)]

    def batches(self, guide: Guide, choice: PatchSelection, percent: float, fusion: Fusion = "single") -> Batches:
        return Batches.of(data_of(self.graphs(guide, choice, percent), fusion))

    def aucs(self, drawn: Sequence[Floats]) -> Iterator[tuple[str, str, Row]]:
        """(subset, endpoint, figures) wherever both outcomes are there.

        drawn: probabilities [n, F], whose figures are averaged; with several, `auc_sd_of_seeds` is the AUC's standard
        deviation between them.
        """
        for subset in self.subsets:
            for name in self.endpoints:
                labels, column = self._judged(subset, name)
                figures = mean_auc_of(labels, [p[:, column] for p in drawn], self.patients)
                if figures is None:
                    continue
                if len(drawn) > 1:
                    known = ~np.isnan(labels)
                    once = np.ones((1, int(known.sum())))
                    figures["auc_sd_of_seeds"] = float(
                        np.std([Ranked(labels[known], p[known, column]).auc(once)[0] for p in drawn])
                    )
                yield subset, name, figures

    def _judged(self, subset: str, endpoint: str) -> tuple[Floats, int]:
        """(labels [n], nan outside the subset; column of the score)"""
        labels, column = self.endpoints[endpoint]
        return np.where(self.subsets[subset], labels, np.nan), column

    def difference(self, subset: str, endpoint: str, ours: Floats, others: Sequence[Floats]) -> Row:
        """Our AUC less the mean AUC of the others on the same images, with its paired interval."""
        labels, column = self._judged(subset, endpoint)
        known = ~np.isnan(labels)
        groups = np.array(self.patients)[known]
        first, *rest = (Ranked(labels[known], p[known, column]) for p in (ours, *others))

        def statistic(weights: Floats) -> Floats:
            return np.asarray(first.auc(weights) - np.mean([other.auc(weights) for other in rest], axis=0))

        low, high = interval(bootstrap(statistic, groups, int(known.sum())))
        point = float(statistic(np.ones((1, int(known.sum()))))[0])
        return {"difference": point, "difference_low": low, "difference_high": high}


def retention_table(source: Source, guides: Sequence[Guide], percents: Sequence[float]) -> list[Row]:
    """AUC against percent pruned and bytes of the sealed tier 0, by guide; `difference` is to the unpruned graph."""
    rows = []
    choice = PatchSelection(ATTENTION, by_attention, source.seen)
    for guide in guides:
        read: dict[float, tuple[dict[str, Row], Floats]] = {}
        for percent in sorted({*percents, source.percent, WHOLE}):
            made = source.made(guide, choice, percent)
            data = data_of([received(graph, source.coder) for graph in made])
            read[percent] = _sizes(source, made), source.probabilities(Batches.of(data).logits(source.predictor), guide)
        for percent, (sizes, probability) in read.items():
            for subset, endpoint, figures in source.aucs([probability]):
                said = {**source.base, "guide": guide.value, "choice": ATTENTION, "retention_percent": percent}
                said |= {"pruned_percent": round(100 - percent, 6), **sizes[subset]}
                paired = source.difference(subset, endpoint, probability, [read[WHOLE][1]])
                rows.append({**said, "subset": subset, "endpoint": endpoint, **figures, **paired})
    return rows


def _sizes(source: Source, graphs: Sequence[FusedGraph]) -> dict[str, Row]:
    """Kept patches and their cost, by subset. graphs: as the clinic makes them."""
    cells = np.array([len(g.patches.cell) for g in graphs])
    attention = np.array([g.attention_kept for g in graphs])
    size = sealed_bytes(graphs, source.coder)
    return {
        subset: {
            "cells_kept_mean": float(cells[rows].mean()),
            "attention_kept_mean": float(attention[rows].mean()),
            "sealed_bytes_median": float(np.median(size[rows])),
            "sealed_bytes_p99": float(np.percentile(size[rows], 99)),
        }
        for subset, rows in source.subsets.items()
    }


HIDDEN = {
    "": {"context": True, "concepts": True},
    "no context node": {"context": False, "concepts": True},
    "no context node, no concepts": {"context": False, "concepts": False},
}


def choice_table(source: Source, guides: Sequence[Guide], seeds: int, full: bool = True) -> list[Row]:
    """AUC of every choice of the same number of patches; `difference` is the attention's AUC less this one's.

    The row of random choice is the mean over seeds with its standard deviation; its interval is that of the mean.
    """
    rows = []
    for guide in guides:
        read: dict[str, list[dict[str, Floats]]] = {}
        for choice in choices(source.seen, guide, source.policy, seeds):
            if full or choice.name in (ATTENTION, RANDOM):
                batches = source.batches(guide, choice, source.percent)
                by_hidden = {
                    name: source.probabilities(batches.logits(source.predictor, **full_name), guide)
                    for name, full_name in HIDDEN.items()
                }
                read.setdefault(choice.name, []).append(by_hidden)
        for hidden in HIDDEN:
            ours = read[ATTENTION][0][hidden]
            for name, drawn in read.items():
                said = {**source.base, "guide": guide.value, "choice": name, "hidden": hidden, "seeds": len(drawn)}
                said["retention_percent"] = source.percent
                probabilities = [each[hidden] for each in drawn]
                for subset, endpoint, figures in source.aucs(probabilities):
                    found = {"subset": subset, "endpoint": endpoint, "auc_sd_of_seeds": 0.0, **figures}
                    rows.append({**said, **found, **source.difference(subset, endpoint, ours, probabilities)})
    return rows


def ablation_table(source: Source, guides: Sequence[Guide]) -> list[Row]:
    """The loss of the trained network where a part is removed at inference; `difference` is whole less this.

    Context and G2 are hidden as training's dropout hid them. No network is trained anew here.
    """
    rows = []
    fusions: dict[str, Fusion] = {"no fusion edge": "none", "all-to-all fusion edges": "all"}
    for guide in guides:
        choice = PatchSelection(ATTENTION, by_attention, source.seen)
        batches = source.batches(guide, choice, source.percent)
        read = {
            "whole": batches.logits(source.predictor),
            "no context node": batches.logits(source.predictor, context=False),
            "no concepts (G2)": batches.logits(source.predictor, concepts=False),
            "no context node, no concepts": batches.logits(source.predictor, context=False, concepts=False),
        }
        for name, fusion in fusions.items():
            read[name] = source.batches(guide, choice, source.percent, fusion).logits(source.predictor)
        whole = source.probabilities(read["whole"], guide)
        for name, logits in read.items():
            probability = source.probabilities(logits, guide)
            for subset, endpoint, figures in source.aucs([probability]):
                said = {**source.base, "guide": guide.value, "variant": name, "retention_percent": source.percent}
                said |= {"retrained": False, "subset": subset, "endpoint": endpoint}
                rows.append({**said, **figures, **source.difference(subset, endpoint, whole, [probability])})
    return rows


def attention_table(source: Source, guides: Sequence[Guide]) -> tuple[list[Row], list[Row]]:
    """(mean attention by rank, mean attention by cell of the grid): a cell that always draws it is a sink."""
    ranks, cells = [], []
    for guide in guides:
        share = source.seen.share[guide]
        ranked = np.sort(share, axis=1)[:, ::-1].mean(axis=0)
        said = {**source.base, "guide": guide.value, "images": len(share)}
        for rank, (value, total) in enumerate(zip(ranked, np.cumsum(ranked), strict=True), 1):
            ranks.append({**said, "rank": rank, "share_mean": float(value), "share_up_to_rank": float(total)})
        side = source.seen.grids[0].side
        for cell, value in enumerate(share.mean(axis=0)):
            cells.append({**said, "row": cell // side, "column": cell % side, "share_mean": float(value)})
    return ranks, cells


def kept_table(source: Source, lungs: NDArray[np.float32], lungs_from: str) -> list[Row]:
    """The kept patches under each guide: attention, null keys, lungs, overlap with the generated text's choice.

    lungs: float32 [n, N], share of each cell that is lung field; lungs_from names its source.
    """
    seen = source.seen
    kept = {
        guide: np.stack([_mask(v, s, source.policy) for v, s in zip(seen.valid, share, strict=True)])
        for guide, share in seen.share.items()
    }
    base = kept.get(Guide.GENERATED)
    rows = []
    for guide, mask in kept.items():
        size = mask.sum(axis=1)
        figures = {
            "attention_kept": (seen.share[guide] * mask).sum(axis=1),
            "null_share": seen.null_share[guide],
            "kept_area_in_lungs": (lungs * mask).sum(axis=1) / size,
            "image_area_in_lungs": (lungs * seen.valid).sum(axis=1) / seen.valid.sum(axis=1),
        }
        if base is not None and guide is not Guide.GENERATED:
            figures["kept_also_under_generated"] = (mask & base).sum(axis=1) / size
        for measure, values in figures.items():
            said = {**source.base, "guide": guide.value, "retention_percent": source.percent, "measure": measure}
            rows.append({**said, "lungs_from": lungs_from, **(mean_with_interval(values, source.patients) or {})})
    return rows


def _mask(valid: NDArray[np.bool_], share: NDArray[np.float32], policy: KeepPercent) -> NDArray[np.bool_]:
    out = np.zeros(len(valid), dtype=np.bool_)
    out[prune(valid, share, policy)] = True
    return out
