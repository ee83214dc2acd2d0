"""One big batch: graphs predicted again by a plain loop, processes and Ray; training by one and by two processes.

    python -m benchmarks.bench_ray [--graphs 2048] [--repeats 3] [--epochs 4]

Payloads of phantoms under the default bundle. Each repeat runs every arm after the other, each with its workers started
and their models loaded before the clock begins, so that ratios are of the same minutes. The hub's own part (pages,
blobs, rows; SQLite) is measured with workers that answer at once. The training is of a tiny report model on phantoms:
the loss of each epoch by plain torch, and by two processes of Ray Train; nothing there is about quality or speed.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from benchmarks.provenance import bundle_facts
from tests.support.hub_folder import join, study_parts
from tests.support.plain_loop import Loop
from tests.support.tiny_bundle import tiny_bundle
from thinwire.receiver.archive import Said, make_reader, predict_archive
from thinwire.receiver.batch.engine import CHUNK, Engine, Processes, Results, Start, Worker, outcomes
from thinwire.receiver.batch.ray_cluster import RayTasks
from thinwire.receiver.hub import make_hub, open_hub
from thinwire.receiver.inference.bundles import add_bundle
from thinwire.receiver.inference.calibration import PredictionSet
from thinwire.receiver.store.records import StoredFinding
from thinwire.shared.clock import SystemClock
from thinwire.shared.formats.bundle import Bundle, default_bundle_folder, load_bundle
from thinwire.shared.formats.coder import load_coder
from thinwire.shared.formats.payload import encode
from thinwire.shared.storage.durable import Disk

FIRST = 1_000_000_100
DISTINCT = 64
PAPER = 10_000_000
"""Graphs of the sum on paper."""
ARMS: dict[str, Start] = {
    "plain loop": Loop,
    "process, 1": partial(Processes, workers=1),
    "processes, 2": partial(Processes, workers=2),
    "Ray, 1 worker": partial(RayTasks, address="local", workers=1),
    "Ray, 2 workers": partial(RayTasks, address="local", workers=2),
}
HUB_STUDIES = 512


def payloads(bundle: Bundle, count: int) -> list[bytes]:
    """DISTINCT phantoms' graphs, repeated."""
    from thinwire.receiver.training.phantoms.phantom import describe, render, to_dicom
    from thinwire.sender.config import SenderConfig
    from thinwire.sender.intake.study import load_study
    from thinwire.sender.pipeline import GraphMaker

    maker, coder, made = GraphMaker(bundle, SenderConfig(provider="cpu")), load_coder(bundle), []
    for seed in range(FIRST, FIRST + DISTINCT):
        phantom = describe(seed)
        made.append(encode(maker.make_graph(load_study([to_dicom(phantom, render(phantom, 640, 560))])).graph, coder))
    return (made * -(-count // DISTINCT))[:count]


def arms(bundle: Bundle, batch: Sequence[bytes], repeats: int) -> dict[str, Any]:
    """Graphs a second of each arm in each repeat, and the seconds that its start took."""
    make = partial(make_reader, bundle.id, [bundle.id], None)
    rates: dict[str, list[float]] = {name: [] for name in ARMS}
    starts: dict[str, list[float]] = {name: [] for name in ARMS}
    with tempfile.TemporaryDirectory() as folder:
        add_bundle(Path(folder), bundle.folder, Disk())
        for _ in range(repeats):
            for name, start in ARMS.items():
                began = time.perf_counter()
                with start(make, Path(folder), [bundle.id.hex()]) as engine:
                    run(engine, batch[: 4 * CHUNK])  # loads the models
                    starts[name].append(time.perf_counter() - began)
                    began = time.perf_counter()
                    run(engine, batch)
                    rates[name].append(len(batch) / (time.perf_counter() - began))
    rows = {}
    for name, found in rates.items():
        ratios = [mine / plain for mine, plain in zip(found, rates["plain loop"], strict=True)]
        rows[name] = {
            "graphs_per_second": spread(found),
            "of_plain_loop": spread(ratios),
            "start_seconds": spread(starts[name]),
        }
    return rows


def run(engine: Engine, batch: Sequence[bytes]) -> None:
    count = sum(1 for _ in outcomes(engine, enumerate(batch)))
    assert count == len(batch)


def spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "least": round(min(values), 3),
        "most": round(max(values), 3),
        "repeats": len(values),
    }


def _at_once(folder: Path) -> Worker:
    del folder
    said = Said({f"finding {n}": StoredFinding(0.5, 0.4, 0.6, PredictionSet.EITHER) for n in range(5)}, False, None)

    def work(payloads: Sequence[bytes]) -> Results:
        return [said] * len(payloads)

    return work


def hub_alone(repeats: int) -> dict[str, Any]:
    """Graphs a second that the hub reads and stores while its workers take no time."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = tiny_bundle(folder / "tiny")
        make_hub(folder / "hub", bundle.folder, Disk(), SystemClock())
        with open_hub(folder / "hub", SystemClock()) as hub:
            pipeline = hub.pipeline()
            clinic = join(hub)
            for seed in range(HUB_STUDIES):
                part = study_parts(clinic, bundle, seed).graph
                pipeline.put(clinic.site, part.object, part.header, part.plaintext, False)
            for repeat in range(repeats):
                other = tiny_bundle(folder / f"other{repeat}", reader=100 + repeat)
                add_bundle(hub.data / "bundles", other.folder, hub.disk)

                def start(_make: object, folder: Path, names: Sequence[str]) -> Engine:
                    return Loop(_at_once, folder, names)

                began = time.perf_counter()
                done = predict_archive(hub, other.id, start, False, lambda *_: None)
                assert done.predicted == HUB_STUDIES
                found.append(HUB_STUDIES / (time.perf_counter() - began))
    return {"studies": HUB_STUDIES, "graphs_per_second": spread(found)}


def courses(epochs: int) -> dict[str, Any]:
    """The losses of each epoch by one process and by two, and the largest difference as a share of the loss."""
    import shutil

    from tests.unit.receiver.training.test_report_model import TINY
    from thinwire.receiver.training.corpus import unheard
    from thinwire.receiver.training.report_stage import Schedule
    from thinwire.receiver.training.spread import RaySpread
    from thinwire.receiver.training.train import TrainOptions, train_report_model

    with tempfile.TemporaryDirectory() as name:

        def options(out: str) -> TrainOptions:
            schedule = Schedule(epochs=epochs, batch=16)
            return TrainOptions(Path(name) / out, ("phantoms:120",), preset=TINY, schedule=schedule)

        plain = train_report_model(options("plain"), unheard)
        shutil.copytree(Path(name) / "plain.work" / "canvases", Path(name) / "two.work" / "canvases")
        two = train_report_model(options("two"), unheard, RaySpread("local", 2))
    curves = {
        loss: {who: [round(row[loss], 5) for row in run.history] for who, run in (("one", plain), ("two", two))}
        for loss in ("total", "validation_total")
    }
    apart = [abs(b - a) / a for each in curves.values() for a, b in zip(each["one"], each["two"], strict=True)]
    return {"epochs": epochs, "images": 120, "batch": 16, "losses": curves, "largest_difference": round(max(apart), 5)}


def on_paper(rows: dict[str, Any], hub: dict[str, Any]) -> dict[str, Any]:
    """Hours for PAPER graphs: by the slower of the workers and the hub's own part, each as measured."""
    feeds = hub["graphs_per_second"]["median"]
    one = rows["Ray, 1 worker"]["graphs_per_second"]["median"]
    hours = {str(workers): round(PAPER / min(workers * one, feeds) / 3600, 1) for workers in (1, 2, 8, 32, 128)}
    return {"graphs": PAPER, "hours_by_workers": hours, "workers_that_one_hub_feeds": round(feeds / one, 1)}


@contextmanager
def _loaded(result: dict[str, Any]) -> Iterator[None]:
    """How busy the machine was, by others too."""
    before = os.getloadavg()[0]
    yield
    result["load_average"] = {"before": round(before, 1), "after": round(os.getloadavg()[0], 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "ray.json")
    asked = parser.parse_args()
    os.nice(19)  # Ray gives its workers a low priority; so every arm has the lowest
    bundle = load_bundle(default_bundle_folder())
    result: dict[str, Any] = {
        "command": f"python -m benchmarks.bench_ray --graphs {asked.graphs} --repeats {asked.repeats} "
        f"--epochs {asked.epochs}",
        "machine": machine(),
        "bundle": bundle_facts(bundle),
        "graphs": asked.graphs,
    }
    with _loaded(result):
        result["arms"] = arms(bundle, payloads(bundle, asked.graphs), asked.repeats)
        result["hub_alone"] = hub_alone(asked.repeats)
        result["training"] = courses(asked.epochs)
    result["on_paper"] = on_paper(result["arms"], result["hub_alone"])
    asked.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
