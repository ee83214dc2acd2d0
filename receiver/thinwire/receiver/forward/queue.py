"""The queue of deliveries to targets, and their states. Format: docs/store-format.md.

Deliveries are planned from the hub's numbered events, site by site in turns. Each target stores the number of the last
event of each site that it has planned for, so that a restart loses nothing. A site is claimed while it is planned for,
and a study while it is sent (`store.claims`), so that any number of processes may forward to a target.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    LargeBinary,
    Row,
    Select,
    and_,
    case,
    exists,
    func,
    literal,
    or_,
    select,
    update,
)

from thinwire.receiver.forward.delivery import TRANSITIONS, Delivery, DeliveryEvent, DeliveryState, after, unanswered
from thinwire.receiver.hub import Hub
from thinwire.receiver.store.additions import base_of
from thinwire.receiver.store.claims import Claim, Claims, Free, Work, is_free
from thinwire.receiver.store.events import StudyEvent, add_event
from thinwire.receiver.store.tables import deliveries, events, plans, sent, sites, targets
from thinwire.receiver.store.tombstones import is_erased
from thinwire.shared.clock import Clock
from thinwire.shared.formats.positional import micros, moment
from thinwire.shared.identifiers import Digest, SiteName, StudyKey
from thinwire.shared.parked import RETRIED
from thinwire.shared.storage.database import Database, insert_new, tell

PAGE = 20
"""Limit of events in one planning transaction, after which the next site has its turn."""
PLANNED_ON = frozenset(
    (
        StudyEvent.STORED,
        StudyEvent.ADDED,
        StudyEvent.PREDICTED,
        StudyEvent.DRAFTED,
        StudyEvent.RELEASED,
        StudyEvent.REPORTED,
    )
)
"""The events that may change an object for a target."""
_OPEN = (str(DeliveryState.WAITING), str(DeliveryState.ASKED), str(DeliveryState.REFUSED))
_AT_TARGET = (DeliveryState.CONFIRMED, DeliveryState.UNCONFIRMED)

SiteStudy = tuple[SiteName, StudyKey]
Items = Sequence[tuple[str, Digest]]
"""(item, version) of the objects of a study for a target, in the order of sending."""


class Unplanned(NamedTuple):
    """What a target is to plan for next."""

    site: SiteName
    upto: int
    """The number of the last event that was read."""
    studies: list[SiteStudy]
    """Empty where a page of events changed nothing for a target."""


@dataclass(frozen=True)
class Tally:
    """The number of deliveries of a target in one state, and the planning time of the oldest."""

    target: str
    state: DeliveryState
    count: int
    oldest: datetime


class Queue:
    """Safe from any thread and process."""

    def __init__(self, database: Database, clock: Clock, step: Callable[[str], None], claims: Claims) -> None:
        self._database = database
        self._claims = claims
        self._clock = clock
        self._step = step

    def enter(self, names: Iterable[str]) -> None:
        """Add new targets; the state of known ones stays."""
        with self._database.write(turn="targets") as connection:
            for name in names:
                connection.execute(insert_new(targets).values(name=name, planned=0).on_conflict_do_nothing())

    def unplanned_site(self, target: str, after: SiteName | None = None) -> SiteName | None:
        """The next site in turn after `after` of which there is something to plan for this target, and that no worker
        plans for."""
        with self._database.read() as connection:
            last = _last_planned(connection, target)
            fresh = (events.c.site == sites.c.name) & (events.c.number > last)
            # At most a page is read for the first condition: after it the second one holds.
            changed = exists().where(fresh, events.c.event.in_(sorted(map(str, PLANNED_ON)))).correlate(sites)
            page = (
                select(events.c.number)
                .where(fresh)
                .order_by(events.c.number)
                .offset(PAGE - 1)
                .limit(1)
                .correlate(sites)
            )
            unplanned = or_(changed, page.scalar_subquery().is_not(None))
            free = self._claims.free(connection, _planning(target))
            return _next_site(connection, after, is_free(sites.c.name, _WHOLE_SITE) & unplanned, free)

    def unplanned(self, target: str, site: SiteName) -> Unplanned | None:
        """What this target is to plan for next of a site. Files that are added to a study are planned with it."""
        with self._database.read() as connection:
            last = connection.scalar(select(_last_planned(connection, target)).where(sites.c.name == site))
            these = select(events.c.number, events.c.study, events.c.event).where(events.c.site == site)
            these = these.where(events.c.number > last).order_by(events.c.number).limit(PAGE)
            rows = connection.execute(these).all()
            keys = dict.fromkeys((site, StudyKey(row.study)) for row in rows if row.event in PLANNED_ON)
            if not keys and len(rows) < PAGE:
                return None
            return Unplanned(site, rows[-1].number, [key for key in keys if base_of(connection, *key) is None])

    def take_site(self, target: str, site: SiteName) -> AbstractContextManager[Claim[Work]]:
        """Claim the planning of a site for a block; without pieces if another worker has it."""
        return self._claims.take(
            _planning(target),
            lambda _connection, _free: [Work(site)],
            lambda _: select(sites.c.name.label("site"), _WHOLE_SITE.label("study")).where(sites.c.name == site),
        )

    def take_study(self, target: str, study: Work) -> AbstractContextManager[Claim[Work]]:
        """Claim the sending of a study for a block, as `take_site`."""
        return self._claims.take(
            _sending(target),
            lambda _connection, _free: [study],
            lambda _: select(deliveries.c.site, deliveries.c.study).where(_of_target(target, *study)),
        )

    def plan(
        self,
        target: str,
        upto: tuple[SiteName, int] | None,
        wanted: Sequence[tuple[SiteStudy, Items]],
        claim: Claim[Work] | None = None,
    ) -> int:
        """In one transaction: add the new deliveries of these studies, mark those that they replace, and store the
        number of the site's last planned event (None: it stays). Returns the number of deliveries that are new, or
        wanted again. claim: of the one site, which ends. Raises ClaimLost: nothing is stored."""
        now = self._clock.now()
        self._step("forward.plan.before_commit")
        count = 0
        of = {site for (site, _), _ in wanted} | ({upto[0]} if upto else set())
        with self._database.write(turn=of.pop() if len(of) == 1 else None) as connection:
            if claim is not None:
                for each in claim.pieces:
                    claim.check(connection, each)
                    claim.end(connection, each)
            for (site, study), items in wanted:
                if base_of(connection, site, study) is not None or is_erased(connection, site, study):
                    continue  # it is part of another study, or was removed, since its items were listed
                mine = _of_target(target, site, study)
                for item, version in items:
                    row = {
                        "target": target,
                        "site": site,
                        "study": study,
                        "item": item,
                        "version": version,
                        "state": str(DeliveryState.WAITING),
                        "attempts": 0,
                        "due_at": micros(now),
                        "reason": "",
                        "planned_at": micros(now),
                    }
                    added = connection.execute(insert_new(deliveries).values(row).on_conflict_do_nothing()).rowcount
                    added = added or self._revive(connection, mine, item, version, now)
                    count += added
                    if added:
                        waits = deliveries.c.state == str(DeliveryState.WAITING)
                        older = mine & waits & (deliveries.c.item == item) & (deliveries.c.version != version)
                        for found in connection.execute(_all().where(older)).all():
                            self._write(connection, after(_delivery(found), DeliveryEvent.REPLACED, now))
            if upto is not None:
                site, number = upto
                new = insert_new(plans).values(target=target, site=site, planned=number)
                connection.execute(
                    new.on_conflict_do_update(index_elements=["target", "site"], set_={"planned": number})
                )
        self._step("forward.plan.committed")
        return count

    def _revive(
        self, connection: Connection, of_study: ColumnElement[bool], item: str, version: Digest, now: datetime
    ) -> int:
        """Send a version again that another one had replaced before it was sent. Returns the number of deliveries."""
        this = of_study & (deliveries.c.item == item) & (deliveries.c.version == version)
        replaced = this & (deliveries.c.state == str(DeliveryState.SUPERSEDED))
        rows = connection.execute(_all().where(replaced)).all()
        for row in rows:
            self._write(connection, after(_delivery(row), DeliveryEvent.WANTED_AGAIN, now))
        return len(rows)

    def due_study(self, target: str, after: SiteName | None = None) -> Work | None:
        """The next study to send: of the next site in turn after `after`, the study that is due longest and that no
        worker sends. So a flood of one site delays another's study by one study."""
        now = micros(self._clock.now())
        with self._database.read() as connection:
            ready = and_(
                deliveries.c.target == target,
                deliveries.c.state == str(DeliveryState.WAITING),
                deliveries.c.due_at <= now,
                is_free(deliveries.c.site, deliveries.c.study),
            )
            free = self._claims.free(connection, _sending(target))
            site = _next_site(connection, after, exists().where(ready, deliveries.c.site == sites.c.name), free)
            if site is None:
                return None
            # In the order of the index: a target that is down for days has a long queue.
            longest = select(deliveries.c.study).where(ready, deliveries.c.site == site)
            study = connection.scalar(longest.order_by(deliveries.c.due_at, deliveries.c.number).limit(1), free)
        return None if study is None else Work(site, StudyKey(study))

    def due(self, target: str, study: Work) -> list[Delivery]:
        """The due deliveries of a study, in the order of planning."""
        now, waiting = micros(self._clock.now()), str(DeliveryState.WAITING)
        with self._database.read() as connection:
            # Not by state and time: SQLite would then read all that is due.
            same = connection.execute(_all().where(_of_target(target, *study)).order_by(deliveries.c.number)).all()
        return [_delivery(row) for row in same if row.state == waiting and row.due_at <= now]

    def overdue(self, target: str) -> list[Delivery]:
        """Deliveries without a storage commitment report in time."""
        late = and_(
            deliveries.c.target == target,
            deliveries.c.state == str(DeliveryState.ASKED),
            deliveries.c.due_at <= micros(self._clock.now()),
        )
        with self._database.read() as connection:
            return [_delivery(row) for row in connection.execute(_all().where(late).order_by(deliveries.c.number))]

    def apply(
        self,
        number: int,
        event: DeliveryEvent,
        reason: str = "",
        instance: str | None = None,
        transaction: str | None = None,
        claim: Claim[Work] | None = None,
    ) -> Delivery:
        """Apply an event to a delivery; durable when this returns. Raises ValueError as `after` does.

        claim: under which it was sent; a delivery that something else changed meanwhile then stays as it is. Raises
        ClaimLost: nothing is stored.
        """
        this = deliveries.c.number == number
        with self._database.read() as connection:
            site = connection.scalar(select(deliveries.c.site).where(this))
        self._step("forward.apply.before_commit")
        with self._database.write(turn=site) as connection:
            before = _delivery(connection.execute(_all().where(this).with_for_update()).one())
            if claim is not None:
                claim.check(connection, before)
                if (before.state, event) not in TRANSITIONS:
                    return before
            changed = after(before, event, self._clock.now(), reason, instance, transaction)
            self._write(connection, changed)
            if changed.state in _AT_TARGET and before.state not in _AT_TARGET and not _is_open(connection, changed):
                add_event(connection, changed.site, changed.study, StudyEvent.FORWARDED, self._clock.now())
        self._step("forward.apply.committed")
        return changed

    def give_up(self, seen: Delivery) -> None:
        """Apply the lack of a storage commitment report to an overdue delivery, unless it was changed since."""
        this = deliveries.c.number == seen.number
        with self._database.write(turn=seen.site) as connection:
            before = _delivery(connection.execute(_all().where(this).with_for_update()).one())
            if before == seen:
                reason = "the peer did not say whether it commits to it"
                self._write(connection, after(before, unanswered(before), self._clock.now(), reason))

    def may_send(self, target: str, instance: str, digest: Digest) -> bool:
        """Whether this SOP instance may be sent to the target: False if other content was sent there under its UID."""
        row = {"target": target, "instance": instance, "digest": digest}
        mine = (sent.c.target == target) & (sent.c.instance == instance)
        with self._database.write(turn=f"target {target}") as connection:
            connection.execute(insert_new(sent).values(row).on_conflict_do_nothing())
            return connection.scalar(select(sent.c.digest).where(mine)) == digest

    def asked(self, transaction: str) -> list[Delivery]:
        """The deliveries of a storage commitment request, by its Transaction UID."""
        with self._database.read() as connection:
            rows = connection.execute(_all().where(deliveries.c.asked == transaction).order_by(deliveries.c.number))
            return [_delivery(row) for row in rows]

    def all(self, states: Iterable[DeliveryState] = tuple(DeliveryState)) -> list[Delivery]:
        """Every delivery in one of these states, in the order of planning."""
        these = deliveries.c.state.in_([str(state) for state in states])
        with self._database.read() as connection:
            return [_delivery(row) for row in connection.execute(_all().where(these).order_by(deliveries.c.number))]

    def retry(self, target: str | None = None, study: SiteStudy | None = None) -> int:
        """Make waiting, refused and unconfirmed deliveries due now. Returns their number."""
        states = sorted(str(state) for state in TRANSITIONS.before(DeliveryEvent.RETRIED))
        query = _all().where(deliveries.c.state.in_(states))
        if target is not None:
            query = query.where(deliveries.c.target == target)
        if study is not None:
            query = query.where(deliveries.c.site == study[0], deliveries.c.study == study[1])
        with self._database.write() as connection:
            rows = connection.execute(query).all()
            for row in rows:
                self._write(connection, after(_delivery(row), DeliveryEvent.RETRIED, self._clock.now()))
            tell(connection, RETRIED)
        return len(rows)

    def seconds(self, target: str, most: float) -> float:
        """Seconds, at most so many, until a delivery may be due, or free that another worker has now."""
        now = micros(self._clock.now())
        later = select(func.min(deliveries.c.due_at)).where(deliveries.c.target == target, deliveries.c.due_at > now)
        with self._database.read() as connection:
            for state in (DeliveryState.WAITING, DeliveryState.ASKED):
                due = connection.scalar(later.where(deliveries.c.state == str(state)))
                most = most if due is None else min(most, (due - now) / 1e6)
        return min(self._claims.seconds(kind, most) for kind in (_planning(target), _sending(target)))

    def tallies(self) -> list[Tally]:
        """Counts by target and state, sorted."""
        grouped = (deliveries.c.target, deliveries.c.state)
        query = select(*grouped, func.count(), func.min(deliveries.c.planned_at)).group_by(*grouped).order_by(*grouped)
        with self._database.read() as connection:
            return [
                Tally(target, DeliveryState(state), n, moment(at)) for target, state, n, at in connection.execute(query)
            ]

    @staticmethod
    def _write(connection: Connection, delivery: Delivery) -> None:
        values = {
            "state": str(delivery.state),
            "attempts": delivery.attempts,
            "due_at": micros(delivery.due),
            "reason": delivery.reason,
            "instance": delivery.instance,
            "asked": delivery.transaction,
        }
        connection.execute(update(deliveries).where(deliveries.c.number == delivery.number).values(values))


def _is_open(connection: Connection, delivery: Delivery) -> bool:
    """Whether the target does not have every object of the delivery's study."""
    mine = _of_target(delivery.target, delivery.site, delivery.study)
    return bool(connection.scalar(select(exists().where(mine, deliveries.c.state.in_(_OPEN)))))


def _planning(target: str) -> str:
    """The kind of work of planning."""
    return f"plan {target}"


def _sending(target: str) -> str:
    return f"forward {target}"


_WHOLE_SITE = literal(b"", LargeBinary)


def _last_planned(connection: Connection, target: str) -> ColumnElement[int]:
    """The number of the last event that is planned for, of a row of `sites`."""
    before = connection.scalar(select(targets.c.planned).where(targets.c.name == target)) or 0
    mine = (plans.c.target == target) & (plans.c.site == sites.c.name)
    planned = func.coalesce(select(plans.c.planned).where(mine).correlate(sites).scalar_subquery(), 0)
    return case((planned > before, planned), else_=before)


def _next_site(
    connection: Connection, after: SiteName | None, has_work: ColumnElement[bool], free: Free
) -> SiteName | None:
    """The name of the first site with work, from the next one after `after` on: one query for all sites. has_work: of
    a row of `sites`."""
    query = select(sites.c.name).where(has_work).order_by(sites.c.name).limit(1)
    turns = [query] if after is None else [query.where(sites.c.name > after), query.where(sites.c.name <= after)]
    found = next((name for turn in turns if (name := connection.scalar(turn, free)) is not None), None)
    return None if found is None else SiteName(found)


def _of_target(target: str, site: str, study: bytes) -> ColumnElement[bool]:
    return and_(deliveries.c.target == target, deliveries.c.site == site, deliveries.c.study == study)


def queue_of(hub: Hub) -> Queue:
    return Queue(hub.database, hub.clock, hub.disk.step, hub.store.claims)


def _all() -> Select[Any]:
    return select(deliveries)


def _delivery(row: Row[Any]) -> Delivery:
    return Delivery(
        row.number,
        row.target,
        SiteName(row.site),
        StudyKey(row.study),
        row.item,
        Digest(row.version),
        DeliveryState(row.state),
        row.attempts,
        moment(row.due_at),
        row.reason,
        row.instance,
        row.asked,
    )
