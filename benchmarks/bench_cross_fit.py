"""Research run: RSNA's readings on nih14 predicted from the bundle's features, heads cross-fitted by patient.

    python -m benchmarks.bench_cross_fit --manifest CSV --bundle DIR --cache DIR [--seeds 3] [--epochs 8] [--out FILE]

The bundle's encoder and pruning as shipped, the text withheld (the bundle writes one itself). Heads are logistic
regressions on frozen features, five folds by patient for each seed; EfficientNet-Lite0 is fine-tuned whole on the same
folds. An image's score is the mean over the seeds of its out-of-fold scores. The readings judge and train nothing that
is shipped: these heads are thrown away. Part of the images taught the encoder with NIH's own labels: every arm is also
given on those that did not ("test").
"""

import argparse
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.baselines.endpoints import CONSOLIDATION, patients, rsna_opacity
from benchmarks.baselines.fine_tuning import FineTuning, fine_tuned, read, small
from benchmarks.baselines.graphs import graphs_of
from benchmarks.baselines.heads import FOLDS, cross_fitted, folds_of, pooled, vector_of
from benchmarks.baselines.model_runs import ModelRuns, Say, opened
from benchmarks.baselines.scores import Row, rows_of, save, told
from benchmarks.baselines.thumbnails import inside
from benchmarks.provenance import bundle_facts
from thinwire.receiver.inference.mpnn import load_predictor, text_index
from thinwire.receiver.training.corpus import Sample, canvases
from thinwire.receiver.training.efficientnet import EfficientNetLite0, load_lite0
from thinwire.shared.formats.bundle import default_bundle_folder
from thinwire.shared.formats.graph import FloatArray

THUMBNAIL = 24
"""Pixels: the thumbnail of shared/data/README.md, which finds 0.664."""
OURS = "graph, cross-fitted head"
CROSS_FITTED = "cross-fitted, research"


def vectors(
    sight: ModelRuns, samples: Sequence[Sample], pixels: Sequence[NDArray[np.uint8]]
) -> tuple[dict[str, FloatArray], FloatArray]:
    """The vectors float32 [n, p] of each arm with a logistic head, and the shipped reader's probability [n]."""
    seen = sight.see("nih14", samples, lambda i: pixels[i])
    graphs = graphs_of(sight.bundle, samples, seen)
    valid = [np.flatnonzero(sight.grid(s).valid).astype(np.int32) for s in samples]
    every = range(len(samples))
    tiny = [
        np.asarray(
            Image.fromarray(inside(pixels[i], sight.grid(samples[i]))).resize((THUMBNAIL,) * 2, Image.Resampling.BOX),
            dtype=np.float32,
        ).ravel()
        for i in every
    ]
    arms = {
        OURS: [vector_of(g) for g in graphs],
        "graph without context node, cross-fitted head": [vector_of(g, context=False) for g in graphs],
        "context vector alone, cross-fitted head": [g.context for g in graphs],
        "all cells, cross-fitted head": [
            pooled(seen.features[i], valid[i], seen.share[i], seen.context[i]) for i in every
        ],
        "all cells without context, cross-fitted head": [
            pooled(seen.features[i], valid[i], seen.share[i], None) for i in every
        ],
        f"{THUMBNAIL} x {THUMBNAIL} thumbnail, cross-fitted head": tiny,
    }
    predictor = load_predictor(sight.bundle)
    logits = [predictor.logits(graphs[i : i + 128]) for i in range(0, len(graphs), 128)]
    texts = text_index([graph.text_source for graph in graphs])
    shipped = predictor.calibration.probabilities(np.concatenate(logits, axis=1), texts)[:, CONSOLIDATION]
    return {name: np.stack(rows) for name, rows in arms.items()}, shipped.astype(np.float32)


def fine_tuned_scores(
    images: NDArray[np.uint8],
    labels: NDArray[np.float64],
    groups: Sequence[str],
    plan: FineTuning,
    cache: Path,
    say: Say,
    start: Callable[[], EfficientNetLite0] = load_lite0,
) -> NDArray[np.float64]:
    """Out-of-fold logits [n] of EfficientNet-Lite0 on uint8 [n, 224, 224]; each fold is kept in the cache."""
    out = np.zeros(len(labels))
    for fold, (train, test) in enumerate(folds_of(labels, groups, FOLDS, plan.seed)):
        digest = hashlib.sha256(repr((plan, fold, train.tolist())).encode() + images.tobytes()).hexdigest()[:20]
        path = cache / f"lite0-fold-{digest}.npy"
        if not path.exists():
            say(f"EfficientNet-Lite0, seed {plan.seed}, fold {fold + 1} of {FOLDS}")
            model = fine_tuned(images[train][:, None], labels[train][:, None], plan, cache, say, start)
            partial = path.with_suffix(".partial")
            with partial.open("wb") as file:
                np.save(file, read(model, images[test])[:, 0])
            partial.replace(path)
        out[test] = np.load(path)
    return out


def table(
    samples: Sequence[Sample],
    labels: NDArray[np.float64],
    each: dict[str, list[NDArray[np.float64]]],
    kinds: dict[str, str],
) -> list[Row]:
    """Rows of every arm on all images, then on those of role `test`. each: an arm's scores for each seed."""
    unseen = np.array([s.role == "test" for s in samples])
    rows = []
    for subset, chosen in (("all", np.ones(len(samples), dtype=bool)), ("test", unseen)):
        some = [s for s, is_in in zip(samples, chosen, strict=True) if is_in]
        ours = np.mean(each[OURS], axis=0)[chosen, None]
        for name, scores in each.items():
            described: Row = {"arm": name, "kind": kinds.get(name, CROSS_FITTED), "source": "nih14", "synthetic": False}
            described |= {"guide": "generated", "subset": subset, "seeds": len(scores)}
            described["auc_of_each_seed"] = [
                row["auc"] and round(row["auc"], 4)
                for one in scores
                for row in rows_of(labels[chosen, None], one[chosen, None], ["opacity"], patients(some), {})
            ]
            mean = np.mean(scores, axis=0)[chosen, None]
            against = None if name == OURS else ours
            rows += rows_of(labels[chosen, None], mean, ["opacity"], patients(some), described, against)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, default=default_bundle_folder())
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8, help="of EfficientNet-Lite0; 0 leaves it out")
    parser.add_argument("--images", type=int, default=0, help="at most so many images; 0 all")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "cross_fit.json")
    options = parser.parse_args()

    def say(line: str) -> None:
        print(line, flush=True)

    endpoint = rsna_opacity(options.manifest)
    samples = endpoint.test[: options.images or None]
    labels, groups = endpoint.labels(samples)[:, 0], patients(samples)
    with opened(options.bundle, options.cache, options.workers, say) as sight:
        size = sight.bundle.spec.working_size
        pixels = canvases(samples, size, options.cache, options.workers or 2, lambda n, of: say(f"{n} of {of} drawn"))
        arms, shipped = vectors(sight, samples, pixels)
        bundle = sight.bundle
    seeds = range(options.seeds)
    each = {name: [cross_fitted(x, labels, groups, seed) for seed in seeds] for name, x in arms.items()}
    if options.epochs:
        images = np.stack([small(np.asarray(canvas)) for canvas in pixels])
        each["EfficientNet-Lite0 at 224, fine-tuned"] = [
            fine_tuned_scores(images, labels, groups, FineTuning(options.epochs, seed=seed), options.cache, say)
            for seed in seeds
        ]
    each["shipped consolidation probability"] = [shipped.astype(np.float64)]
    rows = table(samples, labels, each, {"shipped consolidation probability": "as shipped"})
    for row in rows:
        say(f"{row['subset']}: {told(row)}")
    what: dict[str, Any] = {
        "bundle": bundle_facts(bundle),
        "kind": CROSS_FITTED,
        "keep_percent": bundle.spec.keep_percent,
        "folds": FOLDS,
        "roles": dict(sorted(Counter(s.role for s in samples).items())),
        "seen": "role report: the encoder learned from these images with NIH's labels; graph: the shipped reader did",
        "to_ours": f"AUC of the arm less that of {OURS!r}, same images and resamples",
    }
    command = (
        f"python -m benchmarks.bench_cross_fit --manifest CSV --bundle DIR --cache DIR --seeds {options.seeds} "
        f"--epochs {options.epochs}"
    )
    save(options.out, command, what, rows)


if __name__ == "__main__":
    main()
