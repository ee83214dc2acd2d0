"""Is the graph needed? Other readers, and ours without a part of the graph, retrained on the same graphs.

    python -m benchmarks.bench_predictors --bundle DIR --cache DIR [--images 2600] [--epochs 15] [--seeds 2]
                                          [--out FILE]

Graphs of synthetic phantoms, made by the bundle with the text withheld (it writes one itself) and pruned as it says.
Training and validation phantoms are of the roles `graph` and `validation`, the test phantoms held out. Every arm has
the same widths, batches, epochs and hiding (the network of the published code its own widths); its parameters are
counted. Scores are the mean logit over the seeds. One arm learned from and is judged on the unpruned graphs of the same
images, so that the pruned ones are compared with a reader trained on unpruned ones.
"""

import argparse
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch_geometric.data import Data

from benchmarks.baselines import edits
from benchmarks.baselines.endpoints import patients, phantoms
from benchmarks.baselines.graphs import graphs_of
from benchmarks.baselines.model_runs import ModelRuns, opened
from benchmarks.baselines.networks import AttentionPooling, Heterogeneous, NoMessages, Published, Relational, parameters
from benchmarks.baselines.scores import MEAN, Row, rows_of, save, told
from benchmarks.provenance import bundle_facts
from thinwire.receiver.inference.mpnn import GraphNetwork, NetworkShape, load_predictor, text_index, to_data
from thinwire.receiver.training.corpus import FINDINGS, Role, Sample, canvases
from thinwire.receiver.training.graph_stage import Learning, mean_auc, member_logits, train_member
from thinwire.shared.formats.bundle import default_bundle_folder, load_bundle
from thinwire.shared.formats.graph import FusedGraph

SHARES: tuple[tuple[Role, float], ...] = (("graph", 1200 / 2600), ("validation", 400 / 2600), ("test", 1000 / 2600))
OURS = "ours (GINE)"
UNPRUNED = "ours, trained on unpruned graphs"


@dataclass(frozen=True)
class Arm:
    name: str
    network: type[GraphNetwork] = GraphNetwork
    edit: Callable[[Data], Data] = edits.whole
    layers: int | None = None
    """None: as the bundle's own members."""
    width: int | None = None
    unpruned: bool = False
    """Learns from and is judged on all cells of the same images."""


ARMS = (
    Arm(OURS),
    Arm(UNPRUNED, unpruned=True),
    Arm("R-GCN", Relational),
    Arm("HGT", Heterogeneous),
    Arm("attention pooling, no edges", AttentionPooling),
    Arm("no message passing, same layers on each node", NoMessages),
    Arm("mean and max pooling only", layers=0),
    Arm("the published code's network (GCN)", Published, layers=2, width=128),
    Arm("the published code's network (GCN) without context node", Published, edits.without_context, 2, 128),
    Arm("ours without context node", edit=edits.without_context),
    Arm("ours without concepts (no G2)", edit=edits.without_concepts),
    Arm("ours without fusion edge", edit=edits.without_fusion),
    Arm("ours with all-to-all fusion edges", edit=edits.fused_all_to_all),
)


@dataclass(frozen=True)
class Part:
    """The graphs of one role, ready to be edited, and their labels."""

    samples: list[Sample]
    graphs: list[FusedGraph]
    data: list[Data]
    unpruned: list[Data]
    """All cells of the same images, the same text."""
    labels: NDArray[np.float32]


def part_of(sight: ModelRuns, role: Role, number: int, workers: int) -> Part:
    samples = phantoms(role, number)
    size = sight.bundle.spec.working_size
    pixels = canvases(samples, size, sight.cache, workers, lambda done, of: sight.say(f"{role}: {done} of {of} drawn"))
    read = sight.see(role, samples, lambda i: pixels[i])
    graphs = graphs_of(sight.bundle, samples, read)
    labels = np.array([s.labels for s in samples], dtype=np.float32)
    unpruned = graphs_of(sight.bundle, samples, read, percent=100)
    return Part(samples, graphs, [to_data(g) for g in graphs], [to_data(g) for g in unpruned], labels)


def test_logits(
    arm: Arm, seed: int, parts: dict[Role, Part], shape: NetworkShape, learning: Learning, key: str, cache: Path
) -> NDArray[np.float64]:
    """Logits [n, F] of the test graphs by one trained member; kept in the cache."""
    digest = hashlib.sha256(f"{key} {arm.name} {seed} {shape} {learning}".encode()).hexdigest()[:20]
    path = cache / f"reader-{digest}.npy"
    if not path.exists():
        edited = {
            role: [arm.edit(one) for one in (part.unpruned if arm.unpruned else part.data)]
            for role, part in parts.items()
        }
        name = f"{arm.name}, seed {seed}"

        def progress(_: str, done: float, total: float, words: str) -> None:
            if done == total:
                print(f"{name}: {words} after {int(done)} epochs", flush=True)

        train, validation = (edited["graph"], parts["graph"].labels), (edited["validation"], parts["validation"].labels)
        member = train_member(shape, train, validation, learning, seed, progress, name, network=arm.network)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.save(file, member_logits(member, edited["test"]))
        partial.replace(path)
    return np.asarray(np.load(path))


def compare(
    parts: dict[Role, Part], base: NetworkShape, learning: Learning, seeds: int, key: str, cache: Path, rounds: int
) -> list[Row]:
    """Rows of every arm, ours first."""
    rows: list[Row] = []
    test = parts["test"]
    labels = test.labels.astype(np.float64)
    ours: NDArray[np.float64] | None = None
    for arm in ARMS:
        deep = rounds if arm.layers is None else arm.layers
        shape = NetworkShape(base.feature_size, base.concepts, base.findings, arm.width or base.hidden, deep)
        each = [test_logits(arm, seed, parts, shape, learning, key, cache) for seed in range(seeds)]
        scores = np.mean(each, axis=0)
        described: Row = {
            "arm": arm.name,
            "source": "phantom",
            "synthetic": True,
            "guide": "generated",
            "parameters": parameters(arm.network(shape)),
            "width": shape.hidden,
            "rounds": shape.layers,
            "unpruned": arm.unpruned,
            "seeds": seeds,
            "auc_of_each_seed": [round(mean_auc(labels, one), 4) for one in each],
        }
        new = rows_of(labels, scores, FINDINGS, patients(test.samples), described, ours)
        rows += new
        if ours is None:
            ours = scores
        print(told(new[-1]), flush=True)
    return rows


def as_shipped(bundle_reader: Any, part: Part) -> list[Row]:
    """The bundle's own members, which learned from more graphs and for longer."""
    logits = [bundle_reader.logits(part.graphs[i : i + 256]) for i in range(0, len(part.graphs), 256)]
    texts = text_index([graph.text_source for graph in part.graphs])
    probability = bundle_reader.calibration.probabilities(np.concatenate(logits, axis=1), texts)
    described: Row = {"arm": "the bundle's reader, as shipped", "source": "phantom", "synthetic": True}
    described |= {"guide": "generated", "seeds": len(bundle_reader.members)}
    return rows_of(part.labels, probability, FINDINGS, patients(part.samples), described)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=default_bundle_folder())
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--images", type=int, default=2600, help="phantoms: 46 %% train, 15 %% validation, 39 %% test")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "readers.json")
    options = parser.parse_args()
    torch.set_num_threads(max(1, options.workers or torch.get_num_threads()))
    bundle = load_bundle(options.bundle)
    predictor = load_predictor(bundle)
    numbers = {role: max(2, round(share * options.images)) for role, share in SHARES}
    with opened(options.bundle, options.cache, options.workers, lambda line: print(line, flush=True)) as sight:
        parts = {role: part_of(sight, role, number, options.workers or 2) for role, number in numbers.items()}
    shape = predictor.members[0].shape
    learning = Learning(epochs=options.epochs)
    key = f"{bundle.id.hex()} {sorted(numbers.items())}"
    rows = compare(parts, shape, learning, options.seeds, key, options.cache, shape.layers)
    rows += as_shipped(predictor, parts["test"])
    what: Row = {
        "bundle": bundle_facts(bundle),
        "synthetic": True,
        "keep_percent": bundle.spec.keep_percent,
        "images": numbers,
        "learning": vars(learning),
        "to_ours": f"AUC of the arm less that of {OURS!r}, same images and resamples; {MEAN!r} is the mean of the AUCs",
    }
    command = (
        f"python -m benchmarks.bench_predictors --bundle DIR --cache DIR --images {options.images} "
        f"--epochs {options.epochs} --seeds {options.seeds}"
    )
    save(options.out, command, what, rows)


if __name__ == "__main__":
    main()
