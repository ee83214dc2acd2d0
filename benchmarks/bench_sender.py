"""The cost of a study at the clinic: milliseconds by stage, peak memory, bytes of the sealed graph.

    python -m benchmarks.bench_sender [--studies 20] [--large]

Two bundles: the default one, and with --large a randomly initialised Swin of about six million parameters at 1024 x
1024 pixels, which gives a larger model's cost and no measure of quality. Studies are synthetic phantoms; each
bundle is measured in a process of its own, on two cores, with a given report and with a generated text.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.machine import machine
from benchmarks.provenance import bundle_facts
from thinwire.shared.formats.bundle import default_bundle_folder, load_bundle

FIRST = 1_000_000_000
CORES = 2


def measure(bundle: Path, studies: int) -> dict[str, object]:
    """In this very process, which never loads torch."""
    import resource
    import time

    from thinwire.receiver.training.phantoms.phantom import describe, to_dicom
    from thinwire.sender.config import SenderConfig
    from thinwire.sender.intake.study import load_study
    from thinwire.sender.pipeline import GraphMaker
    from thinwire.shared.clock import SystemClock
    from thinwire.shared.crypto.envelope import EpochKey, Kind, seal
    from thinwire.shared.identifiers import EpochId, SiteName, TextSource

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    began = time.perf_counter()
    maker = GraphMaker(load_bundle(bundle), SenderConfig(bundle=bundle, provider="cpu", threads=CORES))
    load_ms = (time.perf_counter() - began) * 1000
    epoch = EpochKey(EpochId(bytes(8)), SiteName("bench"), bytes(32), SystemClock().now())
    out: dict[str, object] = {"load_models_ms": round(load_ms, 1), "working_size": maker.bundle.spec.working_size}
    stages: dict[str, dict[str, list[float]]] = {"given": {}, "generated": {}}
    sealed: dict[str, list[int]] = {"given": [], "generated": []}
    for number in range(studies + 1):
        phantom = describe(FIRST + number)
        data = to_dicom(phantom)
        for mode, text in (("given", phantom.report), ("generated", None)):
            began = time.perf_counter()
            study = load_study([data], text, TextSource.REPORT)
            read_ms = (time.perf_counter() - began) * 1000
            seen = maker.make_graph(study)
            if number == 0:
                continue  # the first study warms up
            spent = {"read": read_ms, **seen.milliseconds}
            spent["total"] = sum(spent.values())
            for name, ms in spent.items():
                stages[mode].setdefault(name, []).append(ms)
            sealed[mode].append(len(seal(epoch, Kind.GRAPH, study.key, seen.payload)))
    for mode in stages:
        out[f"text_{mode}"] = {
            "milliseconds_median": {name: round(float(np.median(ms)), 1) for name, ms in stages[mode].items()},
            "total_ms_p95": round(float(np.percentile(stages[mode]["total"], 95)), 1),
            "sealed_graph_bytes": {
                "median": float(np.median(sealed[mode])),
                "p99": float(np.percentile(sealed[mode], 99)),
                "max": max(sealed[mode]),
            },
        }
    out["peak_memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    out["torch_loaded"] = "torch" in sys.modules
    return out


def large_bundle(folder: Path) -> int:
    """A bundle around random weights; returns the encoder's parameters."""
    import torch

    from thinwire.receiver.inference.mpnn import SOURCES, Calibration, GraphNetwork, NetworkShape
    from thinwire.receiver.training import card, corpus
    from thinwire.receiver.training.export import export
    from thinwire.receiver.training.graph_stage import save_predictor
    from thinwire.receiver.training.presets import Preset
    from thinwire.receiver.training.report_model import ReportModel
    from thinwire.receiver.training.tokenizer import learn_tokenizer
    from thinwire.sender.graph.vocabulary import load_vocabulary
    from thinwire.shared.formats.bundle import CODER, MPNN, TOKENIZER, BundleSpec, write_index
    from thinwire.shared.formats.coder import save_tables, untaught

    torch.manual_seed(0)
    preset = Preset(
        "large", 1024, embed_dim=48, depths=(2, 2, 4, 2), heads=(3, 6, 12, 24), vocabulary=768, max_tokens=112
    )
    tokenizer = learn_tokenizer((corpus.phantom(seed).report for seed in range(300)), preset.vocabulary)
    model = ReportModel(preset, tokenizer.get_vocab_size(), len(corpus.FINDINGS))
    export(model, folder)
    tokenizer.save(str(folder / TOKENIZER))
    concepts, d, f = load_vocabulary().concepts, preset.feature_size, len(corpus.FINDINGS)
    shape = NetworkShape(d, len(concepts), f)
    nothing = Calibration(
        member=np.zeros(1, np.int64),
        slope=np.ones((len(SOURCES), 1, f)),
        offset=np.zeros((len(SOURCES), 1, f)),
        quantile=np.full((len(SOURCES), f, 2), np.inf),
        centre=np.zeros(d),
        whitening=np.eye(d),
        farthest=1e9,
    )
    save_predictor(folder / MPNN, shape, [GraphNetwork(shape)], nothing)
    (folder / card.CARD).write_text("Random weights, for timing only.\n", encoding="utf-8")
    spec = BundleSpec("large-random", "large", 1024, d, preset.max_tokens, 2.3, corpus.FINDINGS, concepts)
    save_tables(folder / CODER, untaught(spec, levels=(0.1,), reach=63))
    write_index(folder, spec, {}, {})
    return sum(p.numel() for p in model.encoder.parameters())


def in_own_process(bundle: Path, studies: int) -> dict[str, object]:
    words = [sys.executable, "-m", "benchmarks.bench_sender", "--measure", str(bundle), "--studies", str(studies)]
    result: dict[str, object] = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=20)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.studies)))
        return
    result: dict[str, object] = {
        "command": f"python -m benchmarks.bench_sender --studies {options.studies}" + (" --large" * options.large),
        "machine": machine(),
        "bundle": bundle_facts(load_bundle(default_bundle_folder())),
        "studies": f"{options.studies} synthetic phantoms, 1400 to 2600 pixels on the long side, 12 bit",
        "default_bundle": in_own_process(default_bundle_folder(), options.studies),
    }
    if options.large:
        with tempfile.TemporaryDirectory() as folder:
            parameters = large_bundle(Path(folder))
            figures = in_own_process(Path(folder), options.studies)
        result["random_swin_1024"] = {"encoder_parameters": parameters, **figures}
    path = Path(__file__).parent / "results" / "sender.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
