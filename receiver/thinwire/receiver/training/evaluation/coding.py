"""The cost of coding: AUC of graphs as they are, at every level of the coder, and within budgets of bytes."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from thinwire.receiver.training.corpus import Progress
from thinwire.receiver.training.evaluation import language
from thinwire.receiver.training.evaluation.graphs import Batches, data_of, graphs_of
from thinwire.receiver.training.evaluation.model_outputs import Guide, ModelOutputs, write_from
from thinwire.receiver.training.evaluation.reports import CURVE_IMAGES, referenced
from thinwire.receiver.training.evaluation.selection import ATTENTION, PatchSelection
from thinwire.receiver.training.evaluation.tables import Row, Source
from thinwire.receiver.training.graph_stage import NOBODY, by_attention
from thinwire.sender.graph.budget import fit, on_the_link
from thinwire.sender.graph.pruning import KeepCount, prune
from thinwire.sender.graph.report_graph import RuleExtractor
from thinwire.sender.graph.vocabulary import load_vocabulary
from thinwire.shared.formats.graph import FusedGraph
from thinwire.shared.formats.payload import decode, encode, received

BUDGETS = (400, 700, 1024, 1300, 2000, 4000)
"""Bytes on the link; 1300 is one packet."""
BUDGET_IMAGES = 300
AS_THEY_ARE = "as they are"
BEFORE_BUDGETS = f"as they are, of the first {BUDGET_IMAGES}"

Sent = tuple[list[FusedGraph], list[int]]
"""(graphs as the hub receives them, bytes of each on the link)"""


def coding_table(source: Source, guides: Sequence[Guide], progress: Progress, workers: int) -> list[Row]:
    """`difference` is this AUC less that of the same images' graphs as they are, at the bundle's retention.

    Levels on every image; budgets, whose search writes a graph many times over, on the first BUDGET_IMAGES.
    """
    rows: list[Row] = []
    for guide in guides:
        whole = None
        for images, name, said, (graphs, sizes) in _arms(source, guide):
            progress("coding", len(rows), len(rows), f"{source.name}, text {guide.value}: {name}")
            probability = images.probabilities(Batches.of(data_of(graphs)).logits(images.predictor), guide)
            whole = probability if whole is None or name == BEFORE_BUDGETS else whole
            kept = [len(graph.patches.cell) for graph in graphs]
            size: Row = {"images": len(graphs), "cells_kept_mean": float(np.mean(kept))}
            if sizes:
                quantiles = np.percentile(sizes, (50, 99, 100))
                size |= dict(zip(("link_bytes_median", "link_bytes_p99", "link_bytes_max"), quantiles, strict=True))
            if "budget_bytes" in said and guide is Guide.GENERATED:
                size |= _written(images, graphs, progress, workers)
            head = {**source.base, "guide": guide.value, "coded": name, "level": None, "default": False}
            head |= {"budget_bytes": None, "concept_f1": None, **said, **size}
            for subset, endpoint, figures in images.aucs([probability]):
                paired = images.difference(subset, endpoint, probability, [whole])
                rows.append({**head, "subset": subset, "endpoint": endpoint, **figures, **paired})
    return rows


def _arms(source: Source, guide: Guide) -> Iterator[tuple[Source, str, Row, Sent]]:
    """(the images, the arm's name and its description, the graphs that the hub receives)."""
    coder = source.coder
    made = source.made(guide, PatchSelection(ATTENTION, by_attention, source.seen), source.percent)
    yield source, AS_THEY_ARE, {}, (made, [])
    for level in range(coder.levels):
        sizes = [on_the_link(len(encode(graph, coder, level))) for graph in made]
        arrived = [received(graph, coder, level) for graph in made]
        yield source, f"level {level}", {"level": level, "default": level == coder.chosen}, (arrived, sizes)
    few = source.first(BUDGET_IMAGES)
    yield few, BEFORE_BUDGETS, {}, (made[: len(few.patients)], [])
    for most in BUDGETS:
        yield few, f"at most {most} bytes", {"budget_bytes": most}, budgeted(few, guide, most)


def budgeted(source: Source, guide: Guide, most: int) -> Sent:
    """Every image's graph within `most` bytes on the link, through the very bytes."""
    graphs, sizes = [], []
    for row in range(len(source.seen.samples)):
        one = source.seen.part([row])
        wanted = len(prune(one.valid[0], one.share[guide][0], source.policy))
        build = partial(_best, one, guide)
        _, payload = fit(build, source.coder, wanted, int(one.valid[0].sum()), most)
        graphs.append(decode(payload, NOBODY, lambda _: source.coder))
        sizes.append(on_the_link(len(payload)))
    return graphs, sizes


def _best(one: ModelOutputs, guide: Guide, count: int) -> FusedGraph:
    return graphs_of(one, guide, by_attention, KeepCount(count))[0]


def _written(source: Source, graphs: Sequence[FusedGraph], progress: Progress, workers: int) -> Row:
    """Concepts of reports that the bundle's decoder writes from the received patches; none without a report."""
    rows = referenced(source)[:CURVE_IMAGES]
    if not rows:
        return {}
    features = []
    for row in rows:
        received_patches = np.zeros_like(source.seen.features[row])
        received_patches[graphs[row].patches.cell] = graphs[row].patches.feature
        features.append((received_patches, graphs[row].patches.cell))
    texts = write_from(source.bundle, features, progress, workers)
    seen = source.seen.part(rows)
    references, patients = [s.report for s in seen.samples], [s.patient or s.key for s in seen.samples]
    found = language.concepts(references, texts, RuleExtractor(load_vocabulary()), patients)
    return {"reports": len(rows), **found}
