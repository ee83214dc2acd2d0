"""The hub's metrics for Prometheus, computed from its database at each scrape.

Names and meanings: docs/hub-administrator.md. Labels are sites, tiers, urgencies, targets and states, never a study.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from sqlalchemy import case, exists, func, select

from thinwire.receiver.forward.delivery import DeliveryState
from thinwire.receiver.forward.queue import Queue
from thinwire.receiver.store.tables import objects, predictions, receipts, studies
from thinwire.receiver.transport import link_status
from thinwire.shared.clock import Clock
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.formats.positional import micros
from thinwire.shared.storage.database import Database
from thinwire.shared.storage.durable import Disk

TRIAGE_BUCKETS = (1, 2, 5, 10, 30, 60, 300, 1800, 7200)
"""Seconds from the first part of a study at the hub to its prediction."""
_MICROS = 1_000_000


@dataclass(frozen=True)
class Counts:
    """A collector for prometheus_client. data: the hub's folder."""

    database: Database
    queue: Queue
    data: Path
    disk: Disk
    clock: Clock

    def describe(self) -> list[Metric]:
        """Empty: the metrics are known only at a scrape."""
        return []

    def collect(self) -> Iterator[Metric]:
        yield from self._studies()
        yield self._triage()
        yield from self._deliveries()
        yield from self._links()
        free = GaugeMetricFamily("thinwire_disk_free_bytes", "Bytes that may still be written.")
        free.add_metric([], self.disk.free(self.data))
        yield free

    def _studies(self) -> Iterator[Metric]:
        now = micros(self.clock.now())
        read = exists().where(
            predictions.c.site == objects.c.site,
            predictions.c.study == objects.c.study,
            predictions.c.blob == objects.c.blob,
        )
        of_urgency = select(predictions.c.site, predictions.c.urgency, func.count()).group_by(
            predictions.c.site, predictions.c.urgency
        )
        unread = select(objects.c.site, func.count(), func.min(objects.c.stored_at)).where(
            objects.c.kind == int(Kind.GRAPH), ~read
        )
        stored = select(objects.c.site, objects.c.kind, func.count(), func.sum(objects.c.sealed_size))
        with self.database.read() as connection:
            by_urgency = connection.execute(of_urgency.order_by(predictions.c.site, predictions.c.urgency)).all()
            waiting = connection.execute(unread.group_by(objects.c.site).order_by(objects.c.site)).all()
            held = connection.execute(
                stored.group_by(objects.c.site, objects.c.kind).order_by(objects.c.site, objects.c.kind)
            ).all()
            undelivered = connection.execute(
                select(receipts.c.site, func.count())
                .where(receipts.c.delivered_at.is_(None))
                .group_by(receipts.c.site)
                .order_by(receipts.c.site)
            ).all()
            known = connection.execute(
                select(studies.c.site, func.count()).group_by(studies.c.site).order_by(studies.c.site)
            ).all()
        yield _gauge("thinwire_studies", "Studies at the hub.", ["site"], [([s], n) for s, n in known])
        yield _gauge(
            "thinwire_readings",
            "Predictions, by urgency.",
            ["site", "urgency"],
            [([s, u], n) for s, u, n in by_urgency],
        )
        yield _gauge("thinwire_untriaged", "Graphs without a prediction.", ["site"], [([s], n) for s, n, _ in waiting])
        yield _gauge(
            "thinwire_untriaged_oldest_seconds",
            "Age of the oldest graph without a prediction.",
            ["site"],
            [([s], max(0, now - at) / _MICROS) for s, _, at in waiting],
        )
        names = [([s, Kind(kind).name.lower()], count, size) for s, kind, count, size in held]
        yield _gauge("thinwire_objects", "Sealed objects stored.", ["site", "kind"], [(at, n) for at, n, _ in names])
        yield _gauge(
            "thinwire_object_bytes",
            "Bytes of sealed objects stored.",
            ["site", "kind"],
            [(at, n) for at, _, n in names],
        )
        yield _gauge(
            "thinwire_receipts_undelivered",
            "Receipts that the clinic has not confirmed.",
            ["site"],
            [([s], n) for s, n in undelivered],
        )

    def _triage(self) -> Metric:
        """Seconds from a study's first part to its newest prediction, over all studies."""
        seconds = (predictions.c.at - studies.c.received_at) / float(_MICROS)
        within = [func.coalesce(func.sum(case((seconds <= edge, 1), else_=0)), 0) for edge in TRIAGE_BUCKETS]
        mine = (studies.c.site == predictions.c.site) & (studies.c.study == predictions.c.study)
        query = select(func.count(), func.coalesce(func.sum(seconds), 0.0), *within).join_from(
            predictions, studies, mine
        )
        with self.database.read() as connection:
            count, total, *below = connection.execute(query).one()
        made = HistogramMetricFamily("thinwire_triage_seconds", "From the first part of a study to its prediction.")
        buckets = [(str(float(edge)), n) for edge, n in zip(TRIAGE_BUCKETS, below, strict=True)]
        made.add_metric([], [*buckets, ("+Inf", count)], total)
        return made

    def _deliveries(self) -> Iterator[Metric]:
        now, tallies = self.clock.now(), self.queue.tallies()
        open_ = [each for each in tallies if each.state in (DeliveryState.WAITING, DeliveryState.ASKED)]
        yield _gauge(
            "thinwire_deliveries",
            "Objects for the hospital's systems, by state.",
            ["target", "state"],
            [([each.target, str(each.state)], each.count) for each in tallies],
        )
        yield _gauge(
            "thinwire_delivery_oldest_seconds",
            "Age of the delivery that has been on its way longest.",
            ["target", "state"],
            [([each.target, str(each.state)], max(0.0, (now - each.oldest).total_seconds())) for each in open_],
        )

    def _links(self) -> Iterator[Metric]:
        _, links = link_status.read_status(self.data, self.clock.now())
        yield _gauge(
            "thinwire_site_connected", "1 while the clinic's stream is open.", ["site"],
            [([link.site], int(link.connected)) for link in links],
        )  # fmt: skip
        yield _gauge(
            "thinwire_site_bytes_per_second", "Bytes of objects that arrive, recent average.", ["site"],
            [([link.site], link.rate) for link in links],
        )  # fmt: skip


def _gauge(name: str, help_text: str, labels: list[str], values: list[tuple[list[str], float]]) -> Metric:
    made = GaugeMetricFamily(name, help_text, labels=labels)
    for at, value in values:
        made.add_metric(at, value)
    return made
