"""How fast the hub reads graphs, and how long a study takes from `send` to the worklist on loopback.

    python -m benchmarks.bench_hub [--graphs 512] [--studies 8]

Synthetic phantoms. The graphs are made by the default bundle; reading is timed in batches of 32 after a warm-up. The
studies cross between two real processes; seconds are from the clinic's acceptance to the hub's signed triage.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.machine import machine
from benchmarks.provenance import bundle_facts
from thinwire.shared.formats.bundle import default_bundle_folder, load_bundle

BIN = Path(sys.executable).parent
FIRST = 1_000_000_100
BATCH = 32


def reading(count: int) -> dict[str, object]:
    import torch

    from thinwire.receiver.inference.mpnn import load_predictor
    from thinwire.receiver.training.phantoms.phantom import describe, render, to_dicom
    from thinwire.sender.config import SenderConfig
    from thinwire.sender.intake.study import load_study
    from thinwire.sender.pipeline import GraphMaker

    bundle = load_bundle(default_bundle_folder())
    maker = GraphMaker(bundle, SenderConfig())
    graphs = []
    for seed in range(FIRST, FIRST + BATCH):
        phantom = describe(seed)
        graphs.append(maker.make_graph(load_study([to_dicom(phantom, render(phantom, 640, 560))])).graph)
    predictor = load_predictor(bundle)
    predictor.read(graphs)
    spent = []
    for _ in range(max(1, count // BATCH)):
        began = time.perf_counter()
        predictor.read(graphs)
        spent.append(time.perf_counter() - began)
    began = time.perf_counter()
    predictor.read(graphs[:1])
    return {
        "graphs": BATCH * len(spent),
        "batch": BATCH,
        "graphs_per_second_median": round(BATCH / float(np.median(spent)), 1),
        "one_graph_ms": round((time.perf_counter() - began) * 1000, 1),
        "members": len(predictor.members),
        "torch_threads": torch.get_num_threads(),
    }


def command(name: str, *words: object) -> list[str]:
    return [str(BIN / name), *map(str, words)]


def output(words: list[str]) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def loopback(count: int) -> dict[str, object]:
    from thinwire.receiver.training.phantoms.phantom import describe, to_dicom
    from thinwire.sender.enrolment import load_enrolment, open_outbox
    from thinwire.sender.outbox.policy import CurrentPolicy
    from thinwire.sender.outbox.tiers import TierPolicy
    from thinwire.sender.service import finished
    from thinwire.shared.clock import SystemClock
    from thinwire.shared.formats.receipts import StudyStatus
    from thinwire.shared.storage.durable import Disk

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hub, clinic = folder / "hub", folder / "clinic"
        output(command("thinwire-receiver", "init", "--data", hub))
        token = output(command("thinwire-receiver", "enrol", "bench", "--data", hub)).strip()
        server = subprocess.Popen(
            command("thinwire-receiver", "serve", "--data", hub, "--listen", "127.0.0.1:0"),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert server.stdout is not None
        target = server.stdout.readline().split()[-1]
        output(command("thinwire-sender", "join", token, "--data", clinic, "--hub", target))
        sender = subprocess.Popen(command("thinwire-sender", "run", "--data", clinic), stderr=subprocess.DEVNULL)
        outbox = open_outbox(clinic, load_enrolment(clinic), Disk(), SystemClock())
        current_policy = CurrentPolicy(TierPolicy(), SystemClock().now(), used=0)
        seconds = []
        try:
            for number in range(count + 1):
                path = folder / "study.dcm"
                path.write_bytes(to_dicom(describe(FIRST + number)))
                row = json.loads(output(command("thinwire-sender", "send", path, "--data", clinic, "--json")))[0]
                study = next(e.study for e in outbox.entries() if e.study.hex() == row["study"])
                while not finished(outbox.entry(study), current_policy):
                    time.sleep(0.05)
                entry = outbox.entry(study)
                triaged = next(r.at for r in outbox.receipts(study) if r.status is StudyStatus.TRIAGED)
                if number:  # the first one loads the models
                    seconds.append((triaged - entry.accepted).total_seconds())
        finally:
            sender.terminate()
            server.terminate()
            sender.wait()
            server.wait()
    return {
        "studies": count,
        "seconds_accepted_to_triaged": {
            "median": round(float(np.median(seconds)), 3),
            "max": round(max(seconds), 3),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graphs", type=int, default=512)
    parser.add_argument("--studies", type=int, default=8)
    options = parser.parse_args()
    result = {
        "command": f"python -m benchmarks.bench_hub --graphs {options.graphs} --studies {options.studies}",
        "machine": machine(),
        "bundle": bundle_facts(load_bundle(default_bundle_folder())),
        "synthetic": True,
        "reading": reading(options.graphs),
        "loopback": loopback(options.studies),
    }
    path = Path(__file__).parent / "results" / "hub.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
