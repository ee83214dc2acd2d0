"""Drafts at the hub beside the decoder that sees every patch ("pruned" in Table 1 of NEURAL). Synthetic phantoms.

    python -m benchmarks.bench_drafts --cache DIR [--bundle DIR] [--phantoms 200] [--beams 4]

Every image goes the clinic's way with its text withheld. The greedy report of the full graph is the one that the
clinic's decoder writes from all patches to choose the kept ones. The hub's drafter gets the kept patches alone: as they
cross the link, and, to tell pruning from coding apart, as they were before they were coded. The phantoms are held out.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.baselines.endpoints import patients, phantoms
from benchmarks.baselines.graphs import graphs_of
from benchmarks.baselines.model_runs import opened
from benchmarks.baselines.scores import Row, save
from benchmarks.provenance import bundle_facts, phantoms_digest
from thinwire.receiver.inference.draft import Drafter, Text
from thinwire.receiver.training.corpus import canvas_of
from thinwire.receiver.training.evaluation.language import scores
from thinwire.receiver.training.graph_stage import AttendedImages
from thinwire.sender.graph.report_graph import RuleExtractor
from thinwire.sender.graph.vocabulary import load_vocabulary
from thinwire.shared.formats.bundle import Bundle, default_bundle_folder, load_bundle
from thinwire.shared.formats.graph import FusedGraph

BATCH = 32


def written(drafter: Drafter, graphs: Sequence[FusedGraph]) -> Iterator[Text]:
    for start in range(0, len(graphs), BATCH):
        *_, texts = drafter.stream(graphs[start : start + BATCH])
        yield from texts
        print(f"{drafter.beams} beams: {min(start + BATCH, len(graphs))} of {len(graphs)}", flush=True)


def drafted(bundle: Bundle, beams: int, graphs: Sequence[FusedGraph]) -> tuple[Row, list[str]]:
    """The figures of one arm's texts, and the texts."""
    drafter = Drafter(bundle, beams)
    texts = list(written(drafter, graphs))
    told: Row = {
        "beams": beams,
        "log_probability_mean": round(float(np.mean([text.log_probability for text in texts])), 3),
        "tokens_mean": round(float(np.mean([len(text.tokens) for text in texts])), 1),
        "cut_off": sum(not text.whole for text in texts),
    }
    return told, [drafter.words(text) for text in texts]


def uncoded_of(graphs: Sequence[FusedGraph], read: AttendedImages) -> list[FusedGraph]:
    """The graphs with their patches' features as they were before they were coded."""
    return [
        replace(g, patches=replace(g.patches, feature=read.features[n][g.patches.cell].astype(np.float32)))
        for n, g in enumerate(graphs)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=default_bundle_folder())
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--phantoms", type=int, default=200)
    parser.add_argument("--beams", type=int, default=4)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "drafts.json")
    options = parser.parse_args()
    samples, bundle = phantoms("test", options.phantoms), load_bundle(options.bundle)
    size = bundle.spec.working_size
    with opened(options.bundle, options.cache, options.workers, lambda line: print(line, flush=True)) as sight:
        read = sight.see("phantoms", samples, lambda i: canvas_of(samples[i], size), chunk=50)
    crossed = [replace(graph, bundle=bundle.id) for graph in graphs_of(bundle, samples, read)]
    uncoded = uncoded_of(crossed, read)
    whole = [replace(graph, bundle=bundle.id) for graph in graphs_of(bundle, samples, read, percent=100)]
    arms: list[tuple[str, Row, list[str]]] = [("full graph", {"beams": 1}, read.texts)]
    for name, beams, graphs in (
        ("full graph", options.beams, uncoded_of(whole, read)),
        ("pruned graph, before the coder", 1, uncoded),
        ("pruned graph, at the hub", 1, crossed),
        ("pruned graph, at the hub", options.beams, crossed),
    ):
        arms.append((name, *drafted(bundle, beams, graphs)))
    extractor = RuleExtractor(load_vocabulary())
    references = [sample.report for sample in samples]
    rows: list[Row] = []
    for name, told, texts in arms:
        measured = scores(references, texts, extractor, patients(samples))
        measured = {key: round(value, 4) if isinstance(value, float) else value for key, value in measured.items()}
        rows.append({"written_from": name, **told, **measured})
        print(f"{name}, {told['beams']} beams: BLEU-2 {measured['bleu_2']:.3f}", flush=True)
    what: Row = {
        "bundle": bundle_facts(bundle),
        "synthetic": True,
        "phantoms_digest": phantoms_digest(),
        "images": len(samples),
        "keep_percent": bundle.spec.keep_percent,
        "text": "withheld; the references are the phantoms' own reports",
    }
    command = f"python -m benchmarks.bench_drafts --cache DIR --phantoms {options.phantoms} --beams {options.beams}"
    save(options.out, command, what, rows)


if __name__ == "__main__":
    main()
