"""Is tier 0 better than a thumbnail of as many bytes? JPEG XL, AVIF and JPEG at 0.5 to 10 KB, read three ways.

    python -m benchmarks.bench_thumbnails --manifest CSV --bundle DIR --cache DIR [--endpoints phantoms,nih14,kermany]
        [--train 300] [--test 300] [--epochs 4] [--codecs jpegxl,avif,jpeg] [--every] [--out FILE]

Each thumbnail is scaled up to the working canvas and read by (a) the bundle's encoder with a logistic head for that
codec and budget, (b) the bundle's own reader on the whole, unpruned graph (of the first codec alone, since it has to
write a text for each), (c) EfficientNet-Lite0 fine-tuned on thumbnails of mixed codec and budget and whole images at
224 pixels (nih14: on whole images, by fold). Tier 0 is the sealed graph with the text withheld. To the budgets comes
the mean size of the endpoint's own tier 0, in whole bytes: every codec is set beside it there; other budgets are of the
first codec alone, unless --every one is asked for. Endpoints stand by themselves; phantoms are synthetic. On nih14
everything that learns is cross-fitted by patient ("cross-fitted, research"); the bundle's own reader is as shipped
everywhere.

About 15 minutes on two idle cores after bench_cross_fit with the same cache and as many --epochs, whose networks are
not trained again; some 8 more without it, and thrice as long with --every. All is kept in the cache: a run that was cut
goes on.
"""

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.baselines.endpoints import Endpoint, paediatric_pneumonia, patients, phantom_findings, rsna_opacity
from benchmarks.baselines.fine_tuning import FineTuning, fine_tuned, read, small
from benchmarks.baselines.graphs import graphs_of, made_of, sealed_bytes
from benchmarks.baselines.heads import FOLDS, cross_fitted, folds_of, pooled, trained_scores, vector_of
from benchmarks.baselines.model_runs import ModelRuns, opened
from benchmarks.baselines.scores import Row, rows_of, save, told
from benchmarks.baselines.thumbnail_plot import plot
from benchmarks.baselines.thumbnails import BUDGETS, CODECS, Pixels, ThumbnailSet, inside, restore, thumbnail_sets
from benchmarks.provenance import bundle_facts
from thinwire.receiver.inference.mpnn import Predictor, load_predictor, text_index
from thinwire.receiver.training.corpus import Sample, canvases
from thinwire.receiver.training.efficientnet import EfficientNetLite0, load_lite0
from thinwire.receiver.training.graph_stage import AttendedImages
from thinwire.shared.formats.bundle import default_bundle_folder
from thinwire.shared.formats.graph import FloatArray, FusedGraph, IntArray

WHOLE = ("whole image", 0)
"""A setting beside the thumbnails: the working canvas itself."""
VERSIONS = 3
"""Thumbnails of each training image that EfficientNet-Lite0 meets, beside the whole image."""
NEAR = 0.05
"""A budget that differs from tier 0's own bytes by less than this share gives way to them."""
HEAD, GRAPH, LITE0 = "encoder and logistic head", "the bundle's reader, unpruned", "EfficientNet-Lite0"

Setting = tuple[str, int]
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Album:
    """Some samples with their canvases, whole and from thumbnails."""

    name: str
    samples: list[Sample]
    canvases: list[Pixels]
    thumbnail_sets: dict[Setting, ThumbnailSet]

    def canvas(self, sight: ModelRuns, setting: Setting) -> Callable[[int], Pixels]:
        if setting == WHOLE:
            return lambda i: np.asarray(self.canvases[i])
        files = self.thumbnail_sets[setting].files
        return lambda i: restore(files[i], setting[0], sight.grid(self.samples[i]))


def album(sight: ModelRuns, name: str, samples: list[Sample], workers: int) -> Album:
    """Whole images alone; `shelved` adds the thumbnails."""
    size = sight.bundle.spec.working_size
    drawn = canvases(samples, size, sight.cache, workers, lambda n, of: sight.say(f"{name}: {n} of {of} drawn"))
    return Album(name, samples, list(drawn), {})


def shelved(sight: ModelRuns, whole: Album, settings: Sequence[Setting]) -> Album:
    images = [inside(np.asarray(c), sight.grid(s)) for c, s in zip(whole.canvases, whole.samples, strict=True)]
    made: dict[Setting, ThumbnailSet] = {}
    for codec in dict.fromkeys(codec for codec, _ in settings):
        budgets = [budget for name, budget in settings if name == codec]
        for one in thumbnail_sets(whole.name, images, codec, budgets, sight.cache, sight.pool):
            made[codec, one.budget] = one
        sight.say(f"{whole.name}: {codec} in {', '.join(map(str, budgets))} bytes")
    return replace(whole, thumbnail_sets=made)


def settings_of(codecs: Sequence[str], budgets: Sequence[int], own: int, every: bool) -> list[Setting]:
    """For an endpoint whose tier 0 takes `own` bytes: every codec at these, the first one, or every one, elsewhere."""
    kept = sorted({own, *(budget for budget in budgets if abs(budget - own) > NEAR * own)})
    return [(codec, budget) for codec in codecs for budget in kept if every or budget == own or codec == codecs[0]]


def vectors(sight: ModelRuns, samples: Sequence[Sample], seen: AttendedImages) -> FloatArray:
    """Vectors float32 [n, 4 d] of all cells, none weighted by attention, and the context."""
    rows = []
    for i, sample in enumerate(samples):
        valid = sight.grid(sample).valid
        share = np.zeros(len(valid), np.float32)
        rows.append(pooled(seen.features[i], np.flatnonzero(valid).astype(np.int32), share, seen.context[i]))
    return np.stack(rows)


def head_scores(endpoint: Endpoint, train: FloatArray | None, test: FloatArray) -> Scores:
    """Scores [n, L]: of a head trained on the training vectors, or cross-fitted where there are none."""
    groups = patients(endpoint.test)
    if train is None:
        return cross_fitted(test, endpoint.labels(endpoint.test)[:, 0], groups, 0)[:, None]
    return trained_scores((train, endpoint.labels(endpoint.train), patients(endpoint.train)), test)


def shipped_scores(predictor: Predictor, graphs: Sequence[FusedGraph], endpoint: Endpoint) -> Scores:
    """Probabilities [n, L] of the bundle's own reader."""
    logits = [predictor.logits(graphs[i : i + 64]) for i in range(0, len(graphs), 64)]
    texts = text_index([graph.text_source for graph in graphs])
    return predictor.calibration.probabilities(np.concatenate(logits, axis=1), texts)[:, endpoint.columns]


def lite0_scores(
    sight: ModelRuns,
    endpoint: Endpoint,
    teaching: Album | None,
    judging: Album,
    settings: Sequence[Setting],
    plan: FineTuning,
    start: Callable[[], EfficientNetLite0] = load_lite0,
) -> dict[Setting, Scores]:
    """Logits [n, L] of EfficientNet-Lite0 for each setting; every fine-tuned network's are kept in the cache."""
    labels = endpoint.labels(endpoint.test)
    out = {setting: np.zeros(labels.shape) for setting in settings}

    every = np.arange(len(labels), dtype=np.int32)
    lessons: list[tuple[Callable[[], tuple[Pixels, Scores]], IntArray]]
    if teaching is not None:
        lessons = [(lambda: (versions(sight, teaching, settings), endpoint.labels(endpoint.train)), every)]
    else:
        folds = folds_of(labels[:, 0], patients(endpoint.test), FOLDS, plan.seed)
        lessons = [(partial(of_whole, judging.canvas(sight, WHOLE), labels, train), test) for train, test in folds]

    for number, (lesson, test) in enumerate(lessons):
        keys = [s.key for s in [*endpoint.train, *endpoint.test]]
        about = [endpoint.name, repr(plan), number, keys, list(settings), sight.bundle.spec.working_size]
        path = sight.cache / f"lite0-{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:20]}.npy"
        if not path.exists():
            sight.say(f"{endpoint.name}: EfficientNet-Lite0, fine-tuning {number + 1}")
            images, wanted = lesson()
            model = fine_tuned(images, wanted, plan, sight.cache, sight.say, start)
            found = []
            for setting in settings:
                canvas = judging.canvas(sight, setting)
                found.append(read(model, np.stack([small(canvas(int(i))) for i in test])))
            beside = path.with_suffix(".partial")
            with beside.open("wb") as file:
                np.save(file, np.stack(found))
            beside.replace(path)
        for setting, scores in zip(settings, np.load(path), strict=True):
            out[setting][test] = scores
    return out


def of_whole(canvas: Callable[[int], Pixels], labels: Scores, rows: IntArray) -> tuple[Pixels, Scores]:
    """Whole images alone, uint8 [n, 1, 224, 224], with their labels."""
    return np.stack([small(canvas(int(i))) for i in rows])[:, None], labels[rows]


def versions(sight: ModelRuns, teaching: Album, settings: Sequence[Setting]) -> Pixels:
    """uint8 [n, 1 + VERSIONS, 224, 224]: each image whole, then thumbnails of settings drawn at random."""
    random = np.random.default_rng(0)
    small_settings = [s for s in settings if s != WHOLE]
    rows = []
    for i in range(len(teaching.samples)):
        drawn = [small_settings[n] for n in random.integers(0, len(small_settings), VERSIONS)] if small_settings else []
        rows.append([small(teaching.canvas(sight, setting)(i)) for setting in (WHOLE, *drawn)])
    return np.array(rows, dtype=np.uint8)


def endpoint_rows(
    sight: ModelRuns,
    endpoint: Endpoint,
    wanted: Callable[[int], list[Setting]],
    plan: FineTuning,
    workers: int,
) -> list[Row]:
    """Tier 0 first, then the whole image and every thumbnail with each reader.

    wanted: the settings for as many bytes as tier 0 takes. Rows of the encoder with a head also have `to_head`: this
    one less tier 0 with a head of the same kind, on the same images and resamples.
    """
    bundle, labels, groups = sight.bundle, endpoint.labels(endpoint.test), patients(endpoint.test)
    judging = album(sight, f"{endpoint.name}, test", endpoint.test, workers)
    teaching = album(sight, f"{endpoint.name}, train", endpoint.train, workers) if endpoint.train else None
    predictor = load_predictor(bundle)
    rows: list[Row] = []
    ours: Scores | None = None
    our_head: Scores | None = None

    def add(arm: str, size: dict[str, Any], by: str, scores: Scores, fitted: bool) -> None:
        nonlocal ours
        kind = "as shipped" if not fitted else ("cross-fitted, research" if teaching is None else "trained here")
        described: Row = {"arm": arm, "reader": by, "kind": kind, "endpoint": endpoint.name} | size
        described |= {"synthetic": endpoint.synthetic, "guide": "generated", "train": len(endpoint.train)}
        new = rows_of(labels, scores, endpoint.outcomes, groups, described, ours)
        if by == HEAD:
            for row, beside in zip(new, rows_of(labels, scores, endpoint.outcomes, groups, {}, our_head), strict=True):
                row |= {k.replace("to_ours", "to_head"): v for k, v in beside.items() if k.startswith("to_ours")}
        if ours is None:
            ours = scores
        rows.extend(new)
        sight.say(f"{endpoint.name}, {by}: {told(new[-1])}")

    def seen(of: Album, setting: Setting, write: bool) -> AttendedImages:
        words = f"{of.name}, {setting[0]} {setting[1] or ''}"
        return sight.see(words, of.samples, of.canvas(sight, setting), write)

    whole = seen(judging, WHOLE, True)
    graphs = graphs_of(bundle, endpoint.test, whole)
    sizes = sealed_bytes(bundle, made_of(bundle, endpoint.test, whole))
    own = round(float(np.mean(sizes)))
    tier0 = {"codec": "tier 0", "bytes_mean": round(float(np.mean(sizes)), 1), "bytes_max": max(sizes)}
    add("tier 0", tier0, "the bundle's reader", shipped_scores(predictor, graphs, endpoint), False)
    taught, taught_whole = None, None
    if teaching is not None:
        taught_whole = seen(teaching, WHOLE, True)
        taught = np.stack([vector_of(g) for g in graphs_of(bundle, endpoint.train, taught_whole)])
    our_head = head_scores(endpoint, taught, np.stack([vector_of(g) for g in graphs]))
    add("tier 0", tier0, "logistic head", our_head, True)

    asked = wanted(own)
    judging = shelved(sight, judging, asked)
    teaching = None if teaching is None else shelved(sight, teaching, asked)
    made = [judging.thumbnail_sets, *([teaching.thumbnail_sets] if teaching else [])]
    settings = [WHOLE, *(s for s in asked if not any(of[s].missing for of in made))]

    lite0 = lite0_scores(sight, endpoint, teaching, judging, settings, plan) if plan.epochs else {}
    for setting in settings:
        codec, budget = setting
        arm = codec if setting == WHOLE else f"{codec}, at most {budget} bytes"
        size: dict[str, Any] = {"codec": codec, "budget_bytes": budget or None, "same_bytes": budget == own}
        if setting != WHOLE:
            files, sides = judging.thumbnail_sets[setting].files, judging.thumbnail_sets[setting].sides
            size |= {"bytes_mean": round(float(np.mean([len(f) for f in files])), 1), "bytes_max": max(map(len, files))}
            size |= {"side_median": float(np.median(sides))}
        # Writing a text costs more than looking: the bundle's own reader meets the first codec alone.
        whole_graph = codec in (WHOLE[0], asked[0][0])
        looked = whole if setting == WHOLE else seen(judging, setting, whole_graph)
        learned = None
        if teaching is not None:
            # Whole training images were looked at for tier 0 already.
            lesson = taught_whole if taught_whole and setting == WHOLE else seen(teaching, setting, False)
            learned = vectors(sight, endpoint.train, lesson)
        add(arm, size, HEAD, head_scores(endpoint, learned, vectors(sight, endpoint.test, looked)), True)
        if whole_graph:
            unpruned = graphs_of(bundle, endpoint.test, looked, percent=100)
            add(arm, size, GRAPH, shipped_scores(predictor, unpruned, endpoint), False)
        if setting in lite0:
            add(arm, size, LITE0, lite0[setting], True)
    for codec, budget in asked:
        if (codec, budget) not in settings:
            missing = max(of[codec, budget].missing for of in made)
            rows.append({"arm": f"{codec}, at most {budget} bytes", "endpoint": endpoint.name, "codec": codec})
            rows[-1] |= {"budget_bytes": budget, "same_bytes": budget == own, "auc": None, "does_not_fit": missing}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path)
    parser.add_argument("--bundle", type=Path, default=default_bundle_folder())
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--endpoints", default="phantoms,nih14,kermany")
    parser.add_argument("--codecs", default=",".join(CODECS))
    parser.add_argument("--budgets", default=",".join(map(str, BUDGETS)), help="bytes")
    parser.add_argument("--train", type=int, default=300, help="training images (phantoms, kermany)")
    parser.add_argument("--test", type=int, default=300, help="test images at most (phantoms, kermany)")
    parser.add_argument("--epochs", type=int, default=4, help="of EfficientNet-Lite0; 0 leaves it out")
    parser.add_argument("--every", action="store_true", help="every codec at every budget")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "thumbnails.json")
    options = parser.parse_args()
    asked = options.endpoints.split(",")
    if options.manifest is None and set(asked) - {"phantoms"}:
        parser.error("nih14 and kermany need --manifest")
    make: dict[str, Callable[[], Endpoint]] = {
        "phantoms": lambda: phantom_findings(options.train, options.test),
        "nih14": lambda: rsna_opacity(options.manifest),
        "kermany": lambda: paediatric_pneumonia(options.manifest, options.train, options.test),
    }
    codecs, budgets = options.codecs.split(","), [int(budget) for budget in options.budgets.split(",")]
    wanted = partial(settings_of, codecs, budgets, every=options.every)
    rows: list[Row] = []
    images: dict[str, Any] = {}
    command = (
        "python -m benchmarks.bench_thumbnails --manifest CSV --bundle DIR --cache DIR "
        f"--endpoints {options.endpoints} --codecs {options.codecs} --budgets {options.budgets} "
        f"--train {options.train} --test {options.test} --epochs {options.epochs}" + " --every" * options.every
    )
    with opened(options.bundle, options.cache, options.workers, lambda line: print(line, flush=True)) as sight:
        percent = sight.bundle.spec.keep_percent
        what: Row = {
            "bundle": bundle_facts(sight.bundle),
            "keep_percent": percent,
            "to_ours": "AUC of the arm less that of tier 0 read by the bundle's reader, same images and resamples",
            "to_head": "the same less that of tier 0 with a logistic head, where a head of that kind reads both",
            "images": images,
        }
        for name in asked:
            endpoint = make[name]()
            rows += endpoint_rows(sight, endpoint, wanted, FineTuning(options.epochs), options.workers or 2)
            images[endpoint.name] = {"train": len(endpoint.train), "test": len(endpoint.test)}
            # After each endpoint, so that an interrupted run leaves its finished endpoints.
            save(options.out, command, what, rows)
            plot(rows, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
