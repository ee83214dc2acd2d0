"""Model outputs drawn from a seed: for tests that choose, fuse and judge without a model."""

from dataclasses import replace

import numpy as np

from thinwire.receiver.training import corpus
from thinwire.receiver.training.corpus import Sample
from thinwire.receiver.training.evaluation.model_outputs import GUIDES, Guide, ModelOutputs, source_of
from thinwire.sender.graph.report_graph import RuleExtractor
from thinwire.sender.graph.vocabulary import load_vocabulary
from thinwire.shared.formats.graph import CELL, Grid

SIDE, FEATURES = 8, 8


def tiny_model_outputs(count: int = 6, seed: int = 0, **changes: object) -> ModelOutputs:
    """Held-out phantoms with random features and attention. changes: fields of every sample."""
    rng = np.random.default_rng(seed)
    samples: list[Sample] = [
        replace(corpus.phantom(corpus.TEST_SEEDS + n), **changes)  # type: ignore[arg-type]
        for n in range(count)
    ]
    grids = [Grid(s.height, s.width, SIDE * CELL) for s in samples]
    valid = np.stack([g.valid for g in grids])
    extractor = RuleExtractor(load_vocabulary())

    def shares() -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        drawn = rng.exponential(size=valid.shape) ** 3 * valid
        return np.asarray(drawn / drawn.sum(axis=1, keepdims=True), dtype=np.float32)

    texts = {g: [s.report if g is not Guide.NONE else "" for s in samples] for g in GUIDES}
    return ModelOutputs(
        samples=samples,
        grids=grids,
        features=rng.normal(size=(*valid.shape, FEATURES)).astype(np.float16),
        context=rng.normal(size=(count, FEATURES)).astype(np.float32),
        valid=valid,
        share={g: shares() for g in GUIDES},
        null_share={g: rng.random(count).astype(np.float32) for g in GUIDES},
        texts=texts,
        concepts={
            g: [extractor.extract(t, source_of(g, s)) for t, s in zip(texts[g], samples, strict=True)] for g in GUIDES
        },
        saliency=rng.random(valid.shape).astype(np.float32),
        rollout=shares(),
        text_similarity={g: rng.normal(size=valid.shape).astype(np.float32) for g in GUIDES},
        reports_pruned=[s.report for s in samples],
    )
