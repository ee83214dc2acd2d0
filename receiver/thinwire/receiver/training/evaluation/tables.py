"""The tables of the evaluation: rows that say all of themselves, one source of images at a time.

A row is flat: source, synthetic, text_kind, guide, choice, retention_percent, endpoint, then the figure with its
interval. Sources are never pooled: the source's name alone would tell the outcomes apart.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinwire.receiver.reading.mpnn import MpnnReader
from thinwire.receiver.training.corpus import FINDINGS
from thinwire.receiver.training.evaluation.arms import Batches, Fusion, data_of, graphs_of, sealed_bytes
from thinwire.receiver.training.evaluation.choices import ATTENTION, RANDOM, Choice, choices
from thinwire.receiver.training.evaluation.seen import Guide, Seen
from thinwire.receiver.training.evaluation.statistics import (
    Floats,
    Ranked,
    auc_of,
    bootstrap,
    interval,
    mean_with_interval,
)
from thinwire.receiver.training.graph_stage import by_attention
from thinwire.sender.graph.pruning import KeepPercent, prune
from thinwire.shared.bundle import Bundle
from thinwire.shared.graph import FusedGraph
from thinwire.shared.quantiser import codec_of

Row = dict[str, Any]
RETENTIONS = (0.5, 1.0, 2.3, 5.0, 10.0, 25.0, 50.0, 100.0)
"""Percent of an image's cells that are kept (NEURAL, figure 2)."""
RSNA = "RSNA opacity"
"""The radiologists' reading of the RSNA challenge, scored by the probability of consolidation."""
WHOLE = 100.0


@dataclass
class Source:
    """The images of one source, and who reads them."""

    name: str
    bundle: Bundle
    reader: MpnnReader
    seen: Seen

    def __post_init__(self) -> None:
        self.codec = codec_of(self.bundle.spec)
        self.percent = self.bundle.spec.keep_percent
        self.policy = KeepPercent(self.percent)
        self.patients = [s.patient or s.key for s in self.seen.samples]
        self.endpoints = dict(self._endpoints())

    @property
    def synthetic(self) -> bool:
        return all(s.seed >= 0 for s in self.seen.samples)

    @property
    def base(self) -> Row:
        """What every row begins with."""
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

    def probabilities(self, logits: Floats) -> Floats:
        """[n, F] of member logits [members, n, F]."""
        return self.reader.calibration.probabilities(logits)

    def graphs(self, guide: Guide, choice: Choice, percent: float) -> list[FusedGraph]:
        return graphs_of(choice.seen, guide, choice.choose, KeepPercent(percent), self.codec)

    def batches(self, guide: Guide, choice: Choice, percent: float, fusion: Fusion = "single") -> Batches:
        return Batches.of(data_of(self.graphs(guide, choice, percent), fusion))

    def aucs(self, probability: Floats) -> Iterator[tuple[str, Row]]:
        """(endpoint, figures) for every endpoint."""
        for name, (labels, column) in self.endpoints.items():
            figures = auc_of(labels, probability[:, column], self.patients)
            if figures is not None:
                yield name, figures

    def difference(self, endpoint: str, ours: Floats, others: Sequence[Floats]) -> Row:
        """Our AUC less the mean AUC of the others on the same images, with its paired interval."""
        labels, column = self.endpoints[endpoint]
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
    choice = Choice(ATTENTION, by_attention, source.seen)
    for guide in guides:
        read: dict[float, tuple[Row, Floats]] = {}
        for percent in sorted({*percents, source.percent, WHOLE}):
            graphs = source.graphs(guide, choice, percent)
            size = sealed_bytes(graphs, source.codec)
            about = {
                "retention_percent": percent,
                "pruned_percent": round(100 - percent, 6),
                "cells_kept_mean": float(np.mean([len(g.patches.cell) for g in graphs])),
                "attention_kept_mean": float(np.mean([g.attention_kept for g in graphs])),
                "sealed_bytes_median": float(np.median(size)),
                "sealed_bytes_p99": float(np.percentile(size, 99)),
            }
            read[percent] = about, source.probabilities(Batches.of(data_of(graphs)).logits(source.reader))
        for about, probability in read.values():
            for endpoint, figures in source.aucs(probability):
                said = {**source.base, "guide": guide.value, "choice": ATTENTION, **about, "endpoint": endpoint}
                rows.append({**said, **figures, **source.difference(endpoint, probability, [read[WHOLE][1]])})
    return rows


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
                by_hidden = {n: source.probabilities(batches.logits(source.reader, **h)) for n, h in HIDDEN.items()}
                read.setdefault(choice.name, []).append(by_hidden)
        for hidden in HIDDEN:
            ours = read[ATTENTION][0][hidden]
            for name, drawn in read.items():
                said = {**source.base, "guide": guide.value, "choice": name, "hidden": hidden, "seeds": len(drawn)}
                said["retention_percent"] = source.percent
                for endpoint in source.endpoints:
                    figures = _mean_auc(source, endpoint, [each[hidden] for each in drawn])
                    paired = source.difference(endpoint, ours, [each[hidden] for each in drawn])
                    rows.append({**said, "endpoint": endpoint, **figures, **paired})
    return rows


def _mean_auc(source: Source, endpoint: str, drawn: Sequence[Floats]) -> Row:
    """Figures of one probability, or the means over several with the AUC's standard deviation between seeds."""
    labels, column = source.endpoints[endpoint]
    found = [f for p in drawn if (f := auc_of(labels, p[:, column], source.patients)) is not None]
    mean: Row = {k: float(np.mean([f[k] for f in found])) for k in found[0]}
    counts = {k: found[0][k] for k in ("positive", "images", "patients")}
    return {**mean, **counts, "auc_sd_of_seeds": float(np.std([f["auc"] for f in found])) if len(found) > 1 else 0.0}


def ablation_table(source: Source, guides: Sequence[Guide]) -> list[Row]:
    """What the trained network loses when a part is taken away at reading; `difference` is whole less this.

    Context and G2 are hidden as training's dropout hid them. No network is trained anew here.
    """
    rows = []
    fusions: dict[str, Fusion] = {"no fusion edge": "none", "all-to-all fusion edges": "all"}
    for guide in guides:
        choice = Choice(ATTENTION, by_attention, source.seen)
        batches = source.batches(guide, choice, source.percent)
        read = {
            "whole": batches.logits(source.reader),
            "no context node": batches.logits(source.reader, context=False),
            "no concepts (G2)": batches.logits(source.reader, concepts=False),
            "no context node, no concepts": batches.logits(source.reader, context=False, concepts=False),
        }
        for name, fusion in fusions.items():
            read[name] = source.batches(guide, choice, source.percent, fusion).logits(source.reader)
        whole = source.probabilities(read["whole"])
        for name, logits in read.items():
            probability = source.probabilities(logits)
            for endpoint, figures in source.aucs(probability):
                said = {**source.base, "guide": guide.value, "variant": name, "retention_percent": source.percent}
                paired = source.difference(endpoint, whole, [probability])
                rows.append({**said, "retrained": False, "endpoint": endpoint, **figures, **paired})
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
    """What is kept under each guide: attention, null keys, lungs, and how far it is what the generated text keeps.

    lungs: float32 [n, N], share of each cell that is lung field; lungs_from says by what.
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
