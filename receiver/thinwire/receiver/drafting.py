"""Drafting of reports for triaged studies: in one thread, in batches, and only while no graph waits for inference.

Before every token it checks for new graphs, and waits until they are triaged. A finished draft is durable; a draft in
progress at a stop is written again.
"""

import logging
import threading
from collections.abc import Mapping, Set
from types import MappingProxyType

from thinwire.receiver.config import DraftSettings
from thinwire.receiver.inference.bundles import Bundles
from thinwire.receiver.inference.draft import draft_json
from thinwire.receiver.store.claims import DRAFT, Claim
from thinwire.receiver.store.news import is_of_work
from thinwire.receiver.store.records import PendingGraph, item_of
from thinwire.receiver.store.store import Store
from thinwire.shared.formats.graph import FusedGraph
from thinwire.shared.identifiers import SiteName, StudyKey

log = logging.getLogger(__name__)

CHECK_SECONDS = 1.0
"""Seconds between two checks for a stop during inference."""
POLL_SECONDS = 60.0
"""Seconds until a look for parked studies that are due, at most."""
DRAFTING = "drafting"
"""Its name in the list of parked items."""
LEAST_URGENT = 19
"""Niceness of the thread (Linux): inference has priority."""


class Drafting:
    """`run` is for one thread; the other methods are safe from any thread."""

    def __init__(self, store: Store, bundles: Bundles, settings: DraftSettings, idle: threading.Event) -> None:
        """idle: set while no graph waits for inference."""
        self._store = store
        self._bundles = bundles
        self._settings = settings
        self._idle = idle
        self._changed = threading.Event()
        self._stopping = threading.Event()
        self.under_way: Mapping[tuple[SiteName, StudyKey], str] = MappingProxyType({})
        """The unfinished texts of the drafts in progress."""

    def wake(self) -> None:
        """New studies may have predictions."""
        self._changed.set()

    def heard(self, topics: Set[str], by_others: bool) -> None:
        """As `news.Heard`: another process may have predicted."""
        if is_of_work(topics, by_others):
            self.wake()

    def stop(self) -> None:
        """Let `run` end after the present token."""
        self._stopping.set()
        self._changed.set()

    def run(self) -> None:
        """Draft for triaged and new studies until `stop`."""
        while not self._stopping.is_set():
            with self._store.parked.guard(DRAFTING) as attempt:
                while self._may_go_on() and self.draft_waiting():
                    pass
            if attempt.error is not None:
                self._stopping.wait(POLL_SECONDS)
                continue
            self._changed.wait(self._store.claims.seconds(DRAFT, POLL_SECONDS))
            self._changed.clear()

    def draft_waiting(self) -> int:
        """Draft for one batch of studies without a draft; returns its size. A study that fails is parked: it has no
        draft; its triage is independent of it."""
        with self._store.take_undrafted(self._settings.batch, self._store.parked.waits(DRAFTING)) as claim:
            graphs = [(each, graph) for each in claim.pieces for graph in self._graph(each)]
            for bundle in sorted({graph.bundle for _, graph in graphs}):
                self._draft_each([pair for pair in graphs if pair[1].bundle == bundle], claim)
        return len(claim.pieces)

    def _draft_each(self, alike: list[tuple[PendingGraph, FusedGraph]], claim: Claim[PendingGraph]) -> None:
        """All at once; after a failure one by one, so that one graph cannot stop the others."""
        try:
            self._draft(alike, claim)
        except Exception as error:  # noqa: BLE001 - whatever one graph does to a decoder, the others go on
            if len(alike) > 1:
                for each in alike:
                    self._draft_each([each], claim)
            else:
                self._skip(alike[0][0], error)

    def _graph(self, waiting: PendingGraph) -> list[FusedGraph]:
        try:
            return [self._bundles.graph(self._store.blob(waiting.blob), waiting.study)]
        except Exception as error:  # noqa: BLE001 - whatever one graph does, the others go on
            self._skip(waiting, error)
            return []

    def _draft(self, alike: list[tuple[PendingGraph, FusedGraph]], claim: Claim[PendingGraph]) -> None:
        """Graphs of one bundle at once."""
        graphs = [graph for _, graph in alike]
        drafter = self._bundles.drafter(graphs[0].bundle, self._settings.beams)
        try:
            for texts in drafter.stream(graphs):
                self.under_way = {
                    (each.site, each.study): drafter.words(text) for (each, _), text in zip(alike, texts, strict=True)
                }
                if not self._may_go_on():
                    return
        finally:
            self.under_way = MappingProxyType({})
        for (each, graph), draft in zip(alike, drafter.attended(graphs, texts), strict=True):
            with self._store.parked.guard(DRAFTING, item_of(each.site, each.study)):
                self._store.add_draft(each, draft_json(draft, graph), claim)
        log.info("drafts written: %d", len(alike))

    def _may_go_on(self) -> bool:
        """Waits during inference; False after a stop."""
        while not self._stopping.is_set():
            if self._idle.wait(CHECK_SECONDS):
                return not self._stopping.is_set()
        return False

    def _skip(self, waiting: PendingGraph, error: Exception) -> None:
        self._store.parked.park(DRAFTING, item_of(waiting.site, waiting.study), error)
