"""The hub's metrics for Prometheus, computed from its database at each scrape.

Names and meanings: docs/administration.md. Labels are sites, tiers, urgencies, targets and states, never a study.
"""

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from sqlalchemy import Connection, Table, case, exists, func, select

from thinwire.receiver.forward.delivery import DeliveryState
from thinwire.receiver.forward.queue import Queue
from thinwire.receiver.hub import Hub
from thinwire.receiver.operations.health import Health
from thinwire.receiver.sites.certificates import in_force
from thinwire.receiver.store.events import StudyEvent, last_event
from thinwire.receiver.store.tables import (
    backups,
    epoch_uses,
    events,
    generations,
    hub_keys,
    objects,
    receipts,
    removals,
    sites,
    studies,
    worklist_counts,
)
from thinwire.receiver.store.waiting import untriaged_by_site
from thinwire.receiver.store.worklist_rows import PLACE_OF
from thinwire.receiver.transport import link_status
from thinwire.shared.clock import Clock
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.formats.positional import micros
from thinwire.shared.identifiers import SiteName
from thinwire.shared.listening.guard import Listeners
from thinwire.shared.listening.metrics import connection_metrics
from thinwire.shared.parked import ParkedItems
from thinwire.shared.storage.database import Database
from thinwire.shared.storage.durable import Disk

TRIAGE_BUCKETS = (1, 2, 5, 10, 30, 60, 300, 1800, 7200)
"""Seconds from the first part of a study at the hub to a prediction."""
_MICROS = 1_000_000
SETTLED = 300 * _MICROS
"""Longer than a transaction lasts that writes events or objects, and than clocks of two replicas differ."""


@dataclass(frozen=True)
class Counts:
    """A collector for prometheus_client. data: the hub's folder."""

    database: Database
    queue: Queue
    data: Path
    disk: Disk
    clock: Clock
    parked: ParkedItems
    listeners: Listeners = field(default_factory=Listeners)
    totals: "Totals" = field(default_factory=lambda: Totals())

    def describe(self) -> list[Metric]:
        """Empty: the metrics are known only at a scrape."""
        return []

    def collect(self) -> Iterator[Metric]:
        families = (
            *(self._free, self._links, self._parked, self._studies, self._certificates, self._keys),
            *(self._totals, self._deliveries, self._history, self._connections),
        )
        for family in families:
            # One that cannot be read leaves the others.
            with self.parked.guard(f"metrics {family.__name__.strip('_')}"):
                yield from list(family())

    def _connections(self) -> Iterator[Metric]:
        yield from connection_metrics(self.listeners)

    def _free(self) -> Iterator[Metric]:
        free = GaugeMetricFamily("thinwire_disk_free_bytes", "Bytes that may still be written.")
        free.add_metric([], self.disk.free(self.data))
        yield free

    def _parked(self) -> Iterator[Metric]:
        counts = [([loop], float(count)) for loop, count in self.parked.counts().items()]
        yield _gauge("thinwire_parked", "Items that failed alone, and wait.", ["loop"], counts)

    def _totals(self) -> Iterator[Metric]:
        yield from self.totals.metrics(self.database)

    def _studies(self) -> Iterator[Metric]:
        now, c = micros(self.clock.now()), worklist_counts.c
        studies_of = func.sum(c.studies)
        places = [int(place) for place in PLACE_OF.values()]
        triaged = select(c.site, c.place, studies_of).where(c.place.in_(places)).group_by(c.site, c.place)
        known = select(c.site, studies_of).group_by(c.site).order_by(c.site)
        # Of each site from the index; few are undelivered.
        mine = (receipts.c.site == sites.c.name) & receipts.c.delivered_at.is_(None)
        undelivered = select(sites.c.name, select(func.count()).where(mine).scalar_subquery()).order_by(sites.c.name)
        with self.database.read() as connection:
            by_place = connection.execute(triaged.order_by(c.site, c.place)).all()
            studies_by_site = connection.execute(known).all()
            waiting = connection.execute(untriaged_by_site()).all()
            unsent = connection.execute(undelivered).all()
        urgency_of = {int(place): str(urgency) for urgency, place in PLACE_OF.items()}
        yield _gauge("thinwire_studies", "Studies at the hub.", ["site"], [([s], n) for s, n in studies_by_site])
        yield _gauge(
            "thinwire_readings",
            "Studies with a prediction, by urgency.",
            ["site", "urgency"],
            [([s, urgency_of[place]], n) for s, place, n in by_place],
        )
        yield _gauge("thinwire_untriaged", "Graphs without a prediction.", ["site"], [([s], n) for s, n, _ in waiting])
        yield _gauge(
            "thinwire_untriaged_oldest_seconds",
            "Age of the oldest graph without a prediction.",
            ["site"],
            [([s], max(0, now - at) / _MICROS) for s, _, at in waiting],
        )
        yield _gauge(
            "thinwire_receipts_undelivered",
            "Receipts that the clinic has not confirmed.",
            ["site"],
            [([s], n) for s, n in unsent if n],
        )

    def _certificates(self) -> Iterator[Metric]:
        now = self.clock.now()
        yield _gauge(
            "thinwire_certificate_expires_seconds",
            "Until the site's certificate ends; negative afterwards.",
            ["site"],
            [([at.site], (at.expires - now).total_seconds()) for at in in_force(self.database) if at.expires],
        )

    def _keys(self) -> Iterator[Metric]:
        now, c = micros(self.clock.now()), hub_keys.c
        used = select(c.kind, func.max(c.made_at), func.max(c.expires_at)).where(c.in_use_at.is_not(None))
        with self.database.read() as connection:
            rows = connection.execute(used.group_by(c.kind).order_by(c.kind)).all()
        yield _gauge(
            "thinwire_key_age_seconds",
            "Age of the hub's newest key in use.",
            ["key"],
            [([kind], (now - made_at) / _MICROS) for kind, made_at, _ in rows],
        )
        yield _gauge(
            "thinwire_key_expires_seconds",
            "Until the hub's authority ends.",
            ["key"],
            [([kind], (ends - now) / _MICROS) for kind, _, ends in rows if ends is not None],
        )

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

    def _history(self) -> Iterator[Metric]:
        with self.database.read() as connection:
            taken = connection.scalar(select(func.max(backups.c.taken_at)))
            rows = connection.execute(select(generations.c.reason, func.count()).group_by(generations.c.reason)).all()
        if taken is not None:
            age = max(0, micros(self.clock.now()) - taken) / _MICROS
            yield _gauge("thinwire_backup_age_seconds", "Age of the last backup; absent without one.", [], [([], age)])
        counts = {"restored": 0, "behind": 0} | {str(reason): count for reason, count in rows}
        found = [([reason], counts[reason]) for reason in ("restored", "behind")]
        yield _gauge("thinwire_store_went_back", "Steps of the store back in time.", ["reason"], found)

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


class Totals:
    """Counts over all that the hub ever stored: the first scrape reads all rows, a later one those since. The newest
    are counted anew each time, since another process may still commit a lower number. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._settled = _Sums()

    def metrics(self, database: Database) -> list[Metric]:
        with self._lock, database.read() as connection:
            settled = self._settled.copy()
            settled.read_on(connection, *(_settled(connection, each) for each in (objects, events)))
            now = settled.copy()
            now.read_on(connection, connection.scalar(select(func.max(objects.c.number))) or 0, last_event(connection))
            self._settled = settled
        key = ["site", "kind"]
        names = [([site, Kind(kind).name.lower()], (site, kind)) for site, kind in sorted(now.stored)]
        triage = HistogramMetricFamily(
            "thinwire_triage_seconds", "From the first part of a study to each of its predictions."
        )
        buckets = [(str(float(edge)), n) for edge, n in zip(TRIAGE_BUCKETS, now.within, strict=True)]
        triage.add_metric([], [*buckets, ("+Inf", now.predicted)], now.seconds)
        return [
            _gauge("thinwire_objects", "Sealed objects stored.", key, [(at, now.stored[k]) for at, k in names]),
            _gauge(
                "thinwire_object_bytes", "Bytes of sealed objects stored.", key, [(at, now.bytes[k]) for at, k in names]
            ),
            triage,
        ]


@dataclass
class _Sums:
    """event, object: the numbers of the last event and object that are counted."""

    event: int = 0
    object: int = 0
    stored: Counter[tuple[str, int]] = field(default_factory=Counter)
    bytes: Counter[tuple[str, int]] = field(default_factory=Counter)
    within: Sequence[int] = (0,) * len(TRIAGE_BUCKETS)
    predicted: int = 0
    seconds: float = 0.0

    def copy(self) -> "_Sums":
        return replace(self, stored=Counter(self.stored), bytes=Counter(self.bytes))

    def read_on(self, connection: Connection, last: int, event: int) -> None:
        """last, event: the numbers up to which objects and events are counted."""
        fresh = events.c.number.between(self.event + 1, event)
        removed = events.c.event.in_([str(StudyEvent.DAMAGED), str(StudyEvent.ERASED)])
        if connection.scalar(select(exists().where(fresh, removed))):
            # Objects were removed, and their numbers are used again.
            self.object = 0
            self.stored.clear()
            self.bytes.clear()
        stored = select(objects.c.site, objects.c.kind, func.count(), func.sum(objects.c.sealed_size))
        # With both bounds SQLite reads these rows alone, not an index in the order of the groups.
        since = objects.c.number.between(self.object + 1, last)
        stored = stored.where(since).group_by(objects.c.site, objects.c.kind)
        for site, kind, count, size in connection.execute(stored):
            self.stored[site, kind] += count
            self.bytes[site, kind] += size
        seconds = (events.c.at - studies.c.received_at) / float(_MICROS)
        within = [func.coalesce(func.sum(case((seconds <= edge, 1), else_=0)), 0) for edge in TRIAGE_BUCKETS]
        mine = (studies.c.site == events.c.site) & (studies.c.study == events.c.study)
        query = select(func.count(), func.coalesce(func.sum(seconds), 0.0), *within).join_from(events, studies, mine)
        predicted = query.where(fresh, events.c.event == str(StudyEvent.PREDICTED))
        count, total, *below = connection.execute(predicted).one()
        self.predicted += count
        self.seconds += total
        self.within = [before + more for before, more in zip(self.within, below, strict=True)]
        self.object, self.event = max(self.object, last), max(self.event, event)


def _settled(connection: Connection, table: Table) -> int:
    """The last number that was given SETTLED before the newest one: every lower one is committed."""
    at, last = table.c.stored_at if table is objects else table.c.at, table.c.number.desc()
    newest = connection.scalar(select(at).order_by(last).limit(1)) or 0
    return connection.scalar(select(table.c.number).where(at < newest - SETTLED).order_by(last).limit(1)) or 0


@dataclass(frozen=True, eq=False)
class HubState:
    """A collector of what a person must act on: conditions that are not met, loops that stand still, clinics that are
    silent, removals that wait."""

    hub: Hub
    health: Health

    def describe(self) -> list[Metric]:
        """Empty: the metrics are known only at a scrape."""
        return []

    def collect(self) -> Iterator[Metric]:
        for family in (self._ready, self._loops, self._silent, self._removals):
            with self.hub.store.parked.guard(f"metrics {family.__name__.strip('_')}"):
                yield from list(family())

    def _ready(self) -> Iterator[Metric]:
        met = [([name], float(not reason)) for name, reason in self.health.reasons().items()]
        yield _gauge("thinwire_ready", "1 while a condition of /readyz is met.", ["condition"], met)

    def _loops(self) -> Iterator[Metric]:
        ages = [([name], age) for name, age in self.hub.heartbeats.ages().items()]
        yield _gauge("thinwire_loop_seconds", "Since the last turn of a loop of this process.", ["loop"], ages)

    def _silent(self) -> Iterator[Metric]:
        now = self.hub.clock.now()
        used = select(epoch_uses.c.site, func.max(epoch_uses.c.used_at).label("at")).group_by(epoch_uses.c.site)
        served = select(sites.c.name, sites.c.joined_at).where(
            sites.c.joined_at.is_not(None), sites.c.dismissed_at.is_(None)
        )
        with self.hub.database.read() as connection:
            last: dict[str, int] = {row.site: row.at for row in connection.execute(used)}
            joined = connection.execute(served.order_by(sites.c.name)).all()
        links = {link.site: link for link in link_status.read_status(self.hub.data, now)[1]}

        def silent(site: str, joined_at: int) -> float:
            link = links.get(SiteName(site))
            if link is not None and link.connected:
                return 0.0
            heard = max(joined_at, last.get(site, 0), 0 if link is None else micros(link.last_heard))
            return max(0, micros(now) - heard) / _MICROS

        yield _gauge(
            "thinwire_site_silent_seconds",
            "Since a clinic was last connected to this process, or stored anything; 0 while it is connected.",
            ["site"],
            [([site], silent(site, at)) for site, at in joined],
        )

    def _removals(self) -> Iterator[Metric]:
        by_rule = select(removals.c.rule, func.count()).group_by(removals.c.rule).order_by(removals.c.rule)
        with self.hub.database.read() as connection:
            marked = connection.execute(by_rule).all()
        yield _gauge(
            "thinwire_removals_marked",
            "Studies that are marked for removal, by rule; without one: asked for.",
            ["rule"],
            [([rule], count) for rule, count in marked],
        )


def _gauge(name: str, help_text: str, labels: list[str], values: list[tuple[list[str], float]]) -> Metric:
    made = GaugeMetricFamily(name, help_text, labels=labels)
    for at, value in values:
        made.add_metric(at, value)
    return made
