"""The hub's pipeline: ingest -> inbox -> store -> mpnn -> triage -> worklist.

`HubPipeline` takes the opened parts from the link. Each is examined before it is stored and stored before it is
acknowledged. Graphs are predicted beside the server: in batches, urgent ones first, each once, also after a restart.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from thinwire.receiver.access.audit import Audit
from thinwire.receiver.access.audit_message import Act, Message
from thinwire.receiver.inference.bundles import Bundles
from thinwire.receiver.inference.triage import triage
from thinwire.receiver.sites.enrolment import JoinResult, SiteRegistry
from thinwire.receiver.store.additions import Decision
from thinwire.receiver.store.claims import PREDICT, Claim
from thinwire.receiver.store.content import Examiner, patient_of
from thinwire.receiver.store.history import SiteHistory
from thinwire.receiver.store.news import is_of_work
from thinwire.receiver.store.quarantine import ObjectQuarantine
from thinwire.receiver.store.records import OpenedPart, PendingGraph, StoredFinding, StoredPrediction, item_of
from thinwire.receiver.store.reports import Report, ReportEvent, ReportState, checked_text, next_state
from thinwire.receiver.store.shares import Limit
from thinwire.receiver.store.store import Store
from thinwire.shared.clock import Clock
from thinwire.shared.crypto.envelope import EnvelopeHeader, EpochKey, Kind
from thinwire.shared.crypto.keys import JoinTokenId
from thinwire.shared.errors import BadFormat, Forged, NotEnrolled, UnknownBundle
from thinwire.shared.formats.graph import FusedGraph
from thinwire.shared.formats.manifest import stored_manifest
from thinwire.shared.heartbeats import Heartbeats
from thinwire.shared.identifiers import BundleId, Digest, EpochId, SiteName, StudyKey, digest
from thinwire.shared.parked import RETRIED

if TYPE_CHECKING:
    from thinwire.receiver.inference.mpnn import Prediction

log = logging.getLogger(__name__)

BATCH = 32
"""Graphs in one inference batch."""
MOST_DECODED = 256
"""Graphs that are kept from their arrival to their prediction, which need not read and decode them again."""
STILL = 600.0
"""Seconds after which the loop of inference without a turn has stopped: no batch takes as long."""
PAUSE = 5.0
"""Seconds until the next look after one that failed, as with a busy database."""
POLL_SECONDS = 30.0
"""Seconds between two looks for parked graphs that are due."""
INFERENCE, RECEIVING = "inference", "receiving"
"""Names of loops in the list of parked items."""

MOST_SET_ASIDE = 64
"""Parked items of one site; further ones are logged alone, so that a site does not fill the list."""


def _no_listener() -> None:
    """No listener for the idle state."""


class HubPipeline:
    """Implements `IngestStore`. `predict_waiting` is for one thread; the other methods are safe from any thread."""

    def __init__(
        self,
        store: Store,
        enrolment: SiteRegistry,
        bundles: Bundles,
        examiner: Examiner,
        quarantine: ObjectQuarantine,
        audit: Audit,
        clock: Clock,
        batch: int = BATCH,
        heartbeats: Heartbeats | None = None,
    ) -> None:
        self.store = store
        self.idle = threading.Event()
        """Set while no graph waits for inference; drafting runs only then."""
        self.on_idle: Callable[[], None] = _no_listener
        """Called from the inference thread when no graph waits."""
        self._enrolment = enrolment
        self._bundles = bundles
        self._examiner = examiner
        self._quarantine = quarantine
        self._audit = audit
        self._clock = clock
        self._batch = batch
        self._heartbeats = heartbeats or Heartbeats()
        self._decoded: dict[tuple[StudyKey, Digest], FusedGraph] = {}
        """Graphs that this process has stored and not yet predicted, by study and blob."""
        self._changed = threading.Event()
        self._idle_lock = threading.Lock()
        self._stopping = threading.Event()

    # Ingest.

    def put(
        self,
        site: SiteName,
        object: Digest,
        header: EnvelopeHeader,
        plaintext: bytes,
        urgent: bool,
        admitted: bool = False,
    ) -> bytes:
        """As `IngestStore.put`: examined, then stored with its receipt; a graph then waits for inference."""
        try:
            verify_key = self._enrolment.verify_key(site, header.epoch)
            content = self._examiner.examine(site, header, plaintext, verify_key)
        except (BadFormat, Forged, UnknownBundle) as error:
            with self.store.parked.guard(RECEIVING, f"{site}/quarantine"):
                # Nothing of a removed study stays.
                if self.store.tombstone(site, header.study) is None:
                    self._quarantine.add(site, header.study, object, plaintext, error)
            raise
        receipt = self.store.put(OpenedPart(site, object, header, plaintext, content, urgent), admitted)
        if isinstance(content, FusedGraph) and len(self._decoded) < MOST_DECODED:
            self._decoded[header.study, digest(plaintext)] = content
        self._received(site, object)
        if header.kind is Kind.GRAPH:
            self.store.parked.release(INFERENCE, item_of(site, header.study))
        log.info("site %s stored %s, %d bytes", site, header.kind.name.lower(), len(plaintext))
        if header.kind is Kind.GRAPH or urgent:
            self._wake()
        return receipt

    def join(
        self, token: JoinTokenId, request: bytes, signing_key: bytes, proof: bytes, renews: bool = True
    ) -> JoinResult:
        return self._enrolment.join(token, request, signing_key, proof, renews)

    def renew(self, site: SiteName, certificate: Digest, request: bytes, proof: bytes) -> bytes:
        return self._enrolment.renew(site, certificate, request, proof)

    def hub_keys(self) -> bytes:
        return self._enrolment.hub_keys()

    def record_keys_taken(self, site: SiteName, taken: Digest) -> None:
        self._enrolment.record_keys_taken(site, taken)

    def connect(self, site: SiteName, certificate: bytes) -> None:
        self._enrolment.connect(site, certificate)

    def check_site(self, site: SiteName) -> None:
        self._enrolment.check_site(site)

    def refused(self, certificates: Mapping[SiteName, Digest]) -> Mapping[SiteName, NotEnrolled]:
        return self._enrolment.refused(certificates)

    def epoch_key(self, site: SiteName, epoch: EpochId) -> EpochKey | None:
        return self._enrolment.epoch_key(site, epoch)

    def admit_epoch(self, site: SiteName, record: bytes) -> None:
        self._enrolment.admit_epoch(site, record)
        self._received(site, digest(record))

    def limits(self, site: SiteName) -> Mapping[Limit, int]:
        return self.store.limits(site)

    def check_room(self, site: SiteName, size: int) -> None:
        self.store.check_room(site, size)

    def admit(self, site: SiteName, object: Digest, study: StudyKey, size: int) -> bytes | None:
        known = self.store.admit(site, object, study, size)
        if known is not None:
            self._received(site, object)
        return known

    def audit_head(self) -> bytes:
        return self._audit.signed_head()

    def record_anchor(self, site: SiteName, signed: bytes) -> None:
        self._audit.record_anchor(site, signed, self._clock.now())

    def stored_receipt(self, site: SiteName, object: Digest) -> bytes | None:
        known = self.store.stored_receipt(site, object)
        if known is not None:
            self._received(site, object)
        return known

    def escalate(self, site: SiteName, study: StudyKey) -> bool:
        """As `IngestStore.escalate`: inference runs again, so that the urgency follows the clinic's request."""
        known = self.store.escalate(site, study)
        self._received(site, study)
        self._wake()
        return known

    def history(self, site: SiteName) -> SiteHistory:
        return self.store.history(site)

    def compare(self, site: SiteName, receipt: bytes) -> bool:
        """As `IngestStore.compare`, with a message in the audit log."""
        message = Message(Act.WENT_BACK, self._clock.now(), "nobody", detail=f"found by a receipt of {site}")
        behind = self.store.compare(site, receipt, lambda connection: self._audit.append(connection, message))
        if behind:
            log.error(
                "the store is older than a receipt that it gave to site %s: it was replaced by an earlier state. A new "
                "generation begins, and the clinics offer again what came since",
                site,
            )
        return behind

    def undelivered_receipts(self, site: SiteName) -> Sequence[bytes]:
        return self.store.undelivered_receipts(site)

    def receipts_after(self, site: SiteName, number: int, most: int) -> Sequence[tuple[int, bytes]]:
        return self.store.receipts_after(site, number, most)

    def set_aside(self, site: SiteName, item: str, error: Exception) -> None:
        """As `IngestStore.set_aside`."""
        self.store.parked.park(RECEIVING, f"{site}/{item}", error, MOST_SET_ASIDE, f"{site}/")

    def _received(self, site: SiteName, item: bytes) -> None:
        """An object, or the urge of a study, which may have been set aside before."""
        self.store.parked.release(RECEIVING, f"{site}/{item.hex()}")

    def record_delivered(self, site: SiteName, *receipts: Digest) -> None:
        self.store.record_delivered(site, *receipts)

    def requested_parts(self, site: SiteName) -> Sequence[tuple[StudyKey, Kind]]:
        return self.store.requested_parts(site)

    # Inference.

    def run(self) -> None:
        """Predict waiting and new graphs until `stop`. For one thread."""
        beat = self._heartbeats.begin(INFERENCE, STILL)
        try:
            self._run(beat)
        finally:
            self._heartbeats.end(INFERENCE)

    def _run(self, beat: Callable[[], None]) -> None:
        while not self._stopping.is_set():
            beat()
            with self.store.parked.guard(INFERENCE) as attempt:
                while not self._stopping.is_set() and self.predict_waiting():
                    beat()
                self._announce_idle()
            if attempt.error is not None:
                self._stopping.wait(PAUSE)
                continue
            self._changed.wait(self.store.claims.seconds(PREDICT, POLL_SECONDS))
            # Cleared before the next query, not before the wait, so that a new graph or a stop is not missed.
            self._changed.clear()

    def heard(self, topics: Set[str], by_others: bool) -> None:
        """As `news.Heard`: another process may have stored a graph."""
        if RETRIED in topics or (by_others and is_of_work(topics, by_others)):
            self._wake()

    def stop(self) -> None:
        """Let `run` end after the present batch."""
        self._stopping.set()
        self._changed.set()

    def _wake(self) -> None:
        """A graph may wait. Under the lock, so that the idle state is never announced after a new graph."""
        with self._idle_lock:
            self.idle.clear()
            self._changed.set()

    def _announce_idle(self) -> None:
        with self._idle_lock:
            if self._changed.is_set():
                return
            self.idle.set()
        self.on_idle()

    def predict_waiting(self) -> int:
        """Predict one batch of waiting graphs; returns its size. A graph that fails is parked: its study stays on the
        worklist as not triaged."""
        with self.store.take_untriaged(self._batch, self.store.parked.waits(INFERENCE)) as claim:
            graphs = [(each, graph) for each in claim.pieces for graph in self._graph(each)]
            predicted = [
                (each, self._triaged(each, graph, prediction))
                for _, alike in groupby(sorted(graphs, key=_bundle), key=_bundle)
                for each, graph, prediction in self._predict(list(alike))
            ]
            if predicted:
                self._add(predicted, claim)
        if not claim.pieces:
            self._decoded.clear()  # other processes have predicted them
        return len(claim.pieces)

    def _add(self, batch: list[tuple[PendingGraph, StoredPrediction]], claim: Claim[PendingGraph]) -> None:
        """All in one transaction; after a failure one by one, so that one graph cannot stop the others."""
        try:
            done = self.store.add_predictions(batch, claim)
        except Exception as error:  # noqa: BLE001 - whatever one graph does to the store, the others go on
            if len(batch) > 1:
                for each in batch:
                    self._add([each], claim)
                return
            self.store.parked.park(INFERENCE, item_of(batch[0][0].site, batch[0][0].study), error)
            return
        for pending, _ in batch:
            self.store.parked.release(INFERENCE, item_of(pending.site, pending.study))
        log.info("studies triaged: %d", len(done))

    def _graph(self, pending: PendingGraph) -> list[FusedGraph]:
        """The graph in a list, under the name of the bundle that reads it; empty for one that cannot be read."""
        known = self._decoded.pop((pending.study, pending.blob), None)
        try:
            if known is not None:
                return [self._bundles.to_read(known)]
            return [self._bundles.graph(self.store.blob(pending.blob), pending.study)]
        except Exception as error:  # noqa: BLE001 - whatever one graph does, the others go on
            self.store.parked.park(INFERENCE, item_of(pending.site, pending.study), error)
            return []

    def _predict(
        self, graphs: list[tuple[PendingGraph, FusedGraph]]
    ) -> list[tuple[PendingGraph, FusedGraph, "Prediction"]]:
        """All graphs of one bundle at once; after a failure one by one, so that one graph cannot stop the others."""
        try:
            predictions = self._bundles.predictor(_bundle(graphs[0])).read([graph for _, graph in graphs])
        except Exception as error:  # noqa: BLE001 - whatever one graph does to a model, the others go on
            if len(graphs) > 1:
                return [done for each in graphs for done in self._predict([each])]
            self.store.parked.park(INFERENCE, item_of(graphs[0][0].site, graphs[0][0].study), error)
            return []
        return [(*each, prediction) for each, prediction in zip(graphs, predictions, strict=True)]

    def _triaged(self, pending: PendingGraph, graph: FusedGraph, prediction: "Prediction") -> StoredPrediction:
        outcome, at = triage(prediction, pending.urgent_asked), self._clock.now()
        findings = {
            name: StoredFinding(round(p.value, 4), round(p.low, 4), round(p.high, 4), p.outcome)
            for name, p in prediction.findings.items()
        }
        return StoredPrediction(findings, outcome.urgency, outcome.reason, prediction.unfamiliar, graph.bundle, at)

    # Readers.

    def record_opened(self, site: SiteName, study: StudyKey) -> None:
        """A reader opens a study; for the first time, the clinic gets a receipt. Raises DiskFull, HubBusy."""
        self.store.record_opened(site, study)

    def report(self, written: Report, event: ReportEvent, also: Callable[[Connection], object]) -> Report:
        """Store the next version of a report; a signed one is sent to the clinic in the receipt `read`.

        written: its state and time are set here; its version is one more than that which the reader saw. also: called
        in the same transaction. Raises BadInput, ReportSigned, ReportMoved, DiskFull, HubBusy.
        """
        before = self.store.report(written.site, written.study)
        state = next_state(None if before is None else before.state, event)
        text = checked_text(written.text, event)
        report = replace(written, state=state, text=text, at=self._clock.now())
        self.store.add_report(report, also)
        if state is ReportState.FINAL:
            log.info("site %s: the report on a study is signed", report.site)
        return report

    def decide(
        self,
        site: SiteName,
        study: StudyKey,
        addition: StudyKey,
        decision: Decision,
        also: Callable[[Connection], object],
    ) -> None:
        """Store a person's decision on corrected files, with the patient whom the study names from now on.

        also: called in the same transaction. Raises UnknownStudy, BadManifest, DiskFull, HubBusy.
        """
        named = self._patient(site, study)
        for each in self.store.additions(site, study):
            if (decision if each.study == addition else each.decision) is Decision.TAKEN:
                named = self._patient(site, each.study) or named
        self.store.decide(site, study, addition, decision, named, also)

    def _patient(self, site: SiteName, study: StudyKey) -> bytes | None:
        data = self.store.plaintext(site, study, Kind.MANIFEST)
        return None if data is None else patient_of(stored_manifest(data))


def _bundle(pair: tuple[PendingGraph, FusedGraph]) -> BundleId:
    return pair[1].bundle
