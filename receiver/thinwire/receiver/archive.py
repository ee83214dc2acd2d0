"""Every stored graph predicted again with another bundle: `predict-archive`.

Pages of studies come from the database, payloads go to workers (`thinwire.receiver.batch`), and this process alone
stores what comes back, in one transaction a site and batch. A run that was killed goes on where it was: a graph that
has its prediction is passed over. The worklist shows none of it until `bundle default --archive`.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from thinwire.receiver.batch.engine import Count, Refused, Results, Start, Worker, outcomes
from thinwire.receiver.hub import Hub
from thinwire.receiver.inference.bundles import Bundles
from thinwire.receiver.inference.triage import triage
from thinwire.receiver.store.bundle_predictions import BundlePrediction, BundlePredictions
from thinwire.receiver.store.newest_graphs import BEGIN
from thinwire.receiver.store.records import PendingGraph, StoredFinding, StoredPrediction, item_of
from thinwire.shared.errors import BadFormat, ThinwireError
from thinwire.shared.formats.graph import FusedGraph
from thinwire.shared.identifiers import BundleId, StudyKey

ARCHIVE = "archive"
"""Its name in the list of parked items."""
MOST_PARKED = 1000
"""Parked graphs of one run; further ones are logged alone, and are tried again by each run."""
READERS = 16
"""Blobs that are read at once: an object store answers each after milliseconds."""
FLUSH, FLUSH_SECONDS = 512, 5.0
"""Predictions in memory before they are stored, and the longest time until then."""
NOBODY = StudyKey(bytes(16))
"""Workers do not learn whose graph it is."""


@dataclass(frozen=True)
class Said:
    """What one bundle says of one graph."""

    findings: dict[str, StoredFinding]
    unfamiliar: bool
    draft: bytes | None


@dataclass
class Summary:
    """One run."""

    bundle: BundleId
    studies: int = 0
    """With a graph that the bundle can read."""
    refused: dict[str, int] = field(default_factory=dict)
    """Studies with a graph that it cannot read, by the reason."""
    predicted: int = 0
    known: int = 0
    """Predicted before."""
    parked: int = 0
    """Failed now, or before without `retry` since."""
    seconds: float = 0.0


def make_reader(bundle: BundleId, sources: Sequence[BundleId], beams: int | None, folder: Path) -> Worker:
    """The worker that predicts graphs of `sources` with a bundle, and drafts with so many beams.

    folder: as of `Bundles`."""
    import torch

    torch.set_num_threads(1)  # a worker has one core
    bundles = Bundles(folder)
    for each in sources:
        bundles.coder(each)
    predictor = bundles.predictor(bundle)
    drafter = None if beams is None else bundles.drafter(bundle, beams)
    from thinwire.receiver.inference.draft import draft_json

    def said(graphs: list[FusedGraph]) -> list[Said]:
        drafts: Sequence[bytes | None] = [None] * len(graphs)
        if drafter is not None:
            drafts = [draft_json(draft, graph) for draft, graph in zip(drafter.drafts(graphs), graphs, strict=True)]
        return [
            Said(
                {
                    name: StoredFinding(round(p.value, 4), round(p.low, 4), round(p.high, 4), p.outcome)
                    for name, p in prediction.findings.items()
                },
                prediction.unfamiliar,
                draft,
            )
            for prediction, draft in zip(predictor.read(graphs), drafts, strict=True)
        ]

    def read(payloads: Sequence[bytes]) -> Results:
        """All at once; after a failure one by one, so that one graph cannot stop the others."""
        try:
            return list(said([bundles.graph(payload, NOBODY, bundle) for payload in payloads]))
        except Exception as error:  # noqa: BLE001 - whatever one graph does, the others go on
            if len(payloads) > 1:
                return [found for payload in payloads for found in read([payload])]
            return [Refused.of(error)]

    return read


def predictions_of(hub: Hub) -> BundlePredictions:
    return BundlePredictions(hub.database, hub.disk.step, hub.keys.signing, hub.clock)


def predict_archive(hub: Hub, bundle: BundleId, start: Start, drafted: bool, count: Count) -> Summary:
    """Predict the newest graph of every study with a bundle, and draft where asked. Idempotent; `serve` may go on.

    start: see `thinwire.receiver.batch`. Raises UnknownBundle, BadBundle for a bundle that the hub cannot use;
    DiskFull, DatabaseBusy, StorageFailed: what was stored stays, and the next run goes on.
    """
    began = time.monotonic()
    store = predictions_of(hub)
    summary, reads = Summary(bundle), set[BundleId]()
    for each, number in store.graphs_by_bundle().items():
        reason = hub.bundles.unread(bundle, each)
        if reason is None:
            reads.add(each)
            summary.studies += number
        else:
            summary.refused[reason] = summary.refused.get(reason, 0) + number
    parked = hub.store.parked.waits(ARCHIVE)
    passed = 0

    def waiting() -> Iterator[tuple[PendingGraph, bytes]]:
        nonlocal passed
        after = BEGIN
        with ThreadPoolExecutor(READERS) as readers:
            while (page := store.page(after, bundle, reads, drafted)) is not None:
                after = page.last
                todo = [each for each in page.graphs if _item(bundle, each) not in parked]
                summary.known += page.passed - len(page.graphs)
                summary.parked += len(page.graphs) - len(todo)
                passed += page.passed - len(todo)
                for each, payload in zip(todo, readers.map(partial(_payload, hub), todo), strict=True):
                    if isinstance(payload, bytes):
                        yield each, payload
                    else:
                        passed += 1
                        _park(hub, summary, each, payload)

    found: list[BundlePrediction] = []
    flushed = time.monotonic()

    def flush() -> None:
        nonlocal flushed
        summary.predicted += store.add(found)
        found.clear()
        flushed = time.monotonic()

    beams = hub.settings.draft.beams if drafted else None
    names = sorted({each.hex() for each in (*reads, bundle)})
    with start(partial(make_reader, bundle, sorted(reads), beams), hub.data / "bundles", names) as engine:
        for graph, said in outcomes(engine, waiting()):
            passed += 1
            if isinstance(said, Refused):
                _park(hub, summary, graph, BadFormat(said.reason, said.remedy))
            else:
                found.append(_stored(hub, graph, bundle, said))
                hub.store.parked.release(ARCHIVE, _item(bundle, graph))
            if len(found) >= FLUSH or time.monotonic() - flushed >= FLUSH_SECONDS:
                flush()
                count(passed, max(summary.studies, passed))
    flush()
    count(passed, max(summary.studies, passed))
    summary.seconds = time.monotonic() - began
    return summary


def _stored(hub: Hub, graph: PendingGraph, bundle: BundleId, said: Said) -> BundlePrediction:
    outcome = triage(said, graph.urgent_asked)
    prediction = StoredPrediction(
        said.findings, outcome.urgency, outcome.reason, said.unfamiliar, bundle, hub.clock.now()
    )
    return BundlePrediction(graph, prediction, said.draft)


def _payload(hub: Hub, graph: PendingGraph) -> bytes | ThinwireError:
    try:
        return hub.store.blob(graph.blob)
    except BadFormat as error:
        return error


def _park(hub: Hub, summary: Summary, graph: PendingGraph, error: Exception) -> None:
    summary.parked += 1
    hub.store.parked.park(ARCHIVE, _item(summary.bundle, graph), error, MOST_PARKED)


def _item(bundle: BundleId, graph: PendingGraph) -> str:
    return f"{item_of(graph.site, graph.study)}/{bundle.hex()[:8]}"
