"""`retention`: studies are marked, by a rule or at a person's request, and removed when their waiting time is over.

A mark can be taken back until then. The removal is one transaction a study (`store.erasure`); its blobs, what arrives
of it, and what was refused of it are taken from the disk after that. Every step may be repeated. A legal hold keeps a
study from all of it. Use: docs/administration.md.
"""

import contextlib
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, delete, exists, func, select, tuple_

from thinwire.receiver.access.audit_message import Act, Message
from thinwire.receiver.config import RetentionRule
from thinwire.receiver.hub import Hub, removal_lock
from thinwire.receiver.operations.retention_rules import candidates, condition, is_forwarded, is_read, sized
from thinwire.receiver.store.erasure import erase
from thinwire.receiver.store.queries import of_study
from thinwire.receiver.store.removed_blobs import RemovedBlob, record_gone, take_page
from thinwire.receiver.store.tables import holds, removals, removed_blobs, tombstones, worklist
from thinwire.receiver.store.tombstones import is_erased
from thinwire.receiver.transport.inbox import FolderInbox
from thinwire.shared.crypto.envelope import peek
from thinwire.shared.errors import BadInput, DatabaseBusy, Forged, HubBusy
from thinwire.shared.formats.positional import micros, moment
from thinwire.shared.identifiers import Digest, SiteName, StudyKey
from thinwire.shared.storage.database import insert_new

EVERY = 3600.0
"""Seconds between two runs of `serve`."""
LOOP = "retention"
"""Its name in the list of parked items."""
PAGE = 200
REMEMBERED = timedelta(days=400)
"""Time in which a backup removes its copy of a blob that is gone here."""

SiteStudy = tuple[SiteName, StudyKey]
Also = Callable[[Connection], object]
Tombstones = dict[SiteName, tuple[int, datetime]]
"""Their number by site, and the time of the newest."""


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Mark:
    """A study that is marked for removal."""

    site: SiteName
    study: StudyKey
    rule: str
    """Empty for a person's request."""
    due: datetime
    """UTC."""


@dataclass
class RetentionRun:
    """The counts of one run."""

    marked: Counter[str] = field(default_factory=Counter)
    """Studies by the name of the rule."""
    unmarked: int = 0
    """Marks that no rule asks for any more."""
    removed: int = 0
    """Studies."""
    blobs: int = 0
    """Blobs that were taken from the disk."""


@dataclass(frozen=True)
class Retention:
    """Safe from any thread and process. user: of the audit messages."""

    hub: Hub
    user: str = "serve"
    swept: list[Tombstones] = field(default_factory=list)
    """Those of the last two runs that read every refused object."""

    # Holds.

    def hold(self, site: SiteName, study: StudyKey, reason: str, also: Also) -> bool:
        """Place a legal hold; False if the study has one. A mark of it is taken back."""
        with self.hub.database.write(turn=site) as connection:
            row = {"site": site, "study": study, "reason": reason, "at": micros(self.hub.clock.now())}
            new = connection.execute(insert_new(holds).values(row).on_conflict_do_nothing()).rowcount
            if new:
                connection.execute(delete(removals).where(of_study(removals, site, study)))
                also(connection)
        return bool(new)

    def release(self, site: SiteName, study: StudyKey, also: Also) -> bool:
        """End a legal hold; False if the study has none."""
        with self.hub.database.write(turn=site) as connection:
            ended = connection.execute(delete(holds).where(of_study(holds, site, study))).rowcount
            if ended:
                also(connection)
        return bool(ended)

    def holds(self) -> Iterator[tuple[SiteName, StudyKey, str, datetime]]:
        """(site, study, reason, since) of every hold."""
        for row in self._rows(select(holds), holds.c.site, holds.c.study):
            yield SiteName(row.site), StudyKey(row.study), row.reason, moment(row.at)

    # Marks.

    def ask(self, studies: Sequence[SiteStudy], days: int, also_unread: bool, also: Also) -> datetime:
        """Mark studies for removal at a person's request, all or none; returns when they are due.

        days: until then. Raises BadInput for one with a legal hold, or one that is not read or not forwarded unless
        `also_unread`."""
        now = self.hub.clock.now()
        due = now + timedelta(days=days)
        sites = {site for site, _ in studies}
        with self.hub.database.write(turn=sites.pop() if len(sites) == 1 else None) as connection:
            for site, study in studies:
                if connection.scalar(select(exists().where(of_study(holds, site, study)))):
                    raise BadInput(
                        f"study {study.hex()} of {site} has a legal hold",
                        "End it first: `thinwire-receiver retention release`.",
                    )
                if not also_unread and not connection.scalar(select(self._is_done(site, study))):
                    raise BadInput(
                        f"study {study.hex()} of {site} is not read, or not at every target",
                        "Add --also-unread to remove it nevertheless.",
                    )
                row = {"rule": "", "marked_at": micros(now), "due_at": micros(due)}
                new = insert_new(removals).values(site=site, study=study, **row)
                connection.execute(new.on_conflict_do_update(index_elements=["site", "study"], set_=row))
            also(connection)
        return due

    def take_back(self, site: SiteName, study: StudyKey, also: Also) -> bool:
        """Take a mark back; False if there is none. A rule marks the study again unless it has a hold."""
        with self.hub.database.write(turn=site) as connection:
            gone = connection.execute(delete(removals).where(of_study(removals, site, study))).rowcount
            if gone:
                also(connection)
        return bool(gone)

    def marks(self) -> Iterator[Mark]:
        """Every mark, the one that is due first before the others."""
        key = removals.c.due_at, removals.c.site, removals.c.study
        for row in self._rows(select(removals), *key):
            yield Mark(SiteName(row.site), StudyKey(row.study), row.rule, moment(row.due_at))

    def expected(self, rule: RetentionRule) -> dict[SiteName, tuple[int, int]]:
        """What the next run would mark by a rule: by site the number of studies, and their bytes."""
        found: dict[SiteName, tuple[int, int]] = {}
        for page in candidates(self.hub.database, rule, self._targets, self.hub.clock.now()):
            for each in page:
                count, size = found.get(each.site, (0, 0))
                found[each.site] = count + 1, size + each.bytes
        return found

    def sizes(self, marks: Sequence[Mark]) -> int:
        """Bytes of the parts of marked studies."""
        with self.hub.database.read() as connection:
            return sum(each.bytes for each in sized(connection, ((mark.site, mark.study) for mark in marks)))

    # A run.

    def run(self, stopped: Callable[[], bool] = _never) -> RetentionRun:
        """Mark by the rules, remove what is due, take blobs from the disk. stopped: asked between two pages.

        Raises HubBusy while another run or a backup goes on.
        """
        done = RetentionRun()
        with removal_lock(self.hub):
            for rule in self.hub.settings.retention.rules:
                self._mark(rule, done, stopped)
            self._remove_due(done, stopped)
            self.remove_blobs(done, stopped)
            self._sweep()
            if done.removed:
                self._sweep_damaged()
            self._forget()
        if done.removed and self.hub.database.path is not None:
            # The log of the database holds pages with the removed rows until then.
            with contextlib.closing(sqlite3.connect(self.hub.database.path)) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return done

    def _mark(self, rule: RetentionRule, done: RetentionRun, stopped: Callable[[], bool]) -> None:
        hub = self.hub
        for page in candidates(hub.database, rule, self._targets, hub.clock.now()):
            if stopped():
                return
            now = hub.clock.now()
            due = micros(now + timedelta(days=hub.settings.retention.waiting_days))
            hub.disk.step("retention.mark.before_commit")
            (site,) = {each.site for each in page}
            with hub.database.write(turn=site) as connection:
                count = 0
                for each in page:
                    # It may have been opened, held or removed since the page was read.
                    if connection.scalar(select(self._takes(rule, each.site, each.study))):
                        row = {"site": each.site, "study": each.study, "rule": rule.name}
                        new = insert_new(removals).values(**row, marked_at=micros(now), due_at=due)
                        count += connection.execute(new.on_conflict_do_nothing()).rowcount
                if count:
                    detail = f"{count} studies"
                    hub.audit.append(connection, self._message(Act.RETENTION_MARKED, object=rule.name, detail=detail))
            done.marked[rule.name] += count
            hub.disk.step("retention.mark.committed")

    def _remove_due(self, done: RetentionRun, stopped: Callable[[], bool]) -> None:
        key = removals.c.due_at, removals.c.site, removals.c.study
        due = select(removals).where(removals.c.due_at <= micros(self.hub.clock.now()))
        for row in self._rows(due, *key):
            if stopped():
                return
            site, study = SiteName(row.site), StudyKey(row.study)
            with self.hub.store.parked.guard(LOOP, f"{site}/{study.hex()}"):
                self._remove(site, study, done)

    def _remove(self, site: SiteName, study: StudyKey, done: RetentionRun) -> None:
        hub, rules = self.hub, {rule.name: rule for rule in self.hub.settings.retention.rules}
        hub.disk.step("retention.erase.before_commit")
        with hub.database.write(turn=site) as connection:
            now, mine = hub.clock.now(), of_study(removals, site, study)
            mark = connection.execute(select(removals).where(mine)).one_or_none()
            if mark is None or moment(mark.due_at) > now:
                return  # taken back since
            if connection.scalar(select(exists().where(of_study(holds, site, study)))):
                return
            if mark.rule:
                rule = rules.get(mark.rule)
                if rule is None or not connection.scalar(select(self._takes(rule, site, study))):
                    connection.execute(delete(removals).where(mine))
                    done.unmarked += 1
                    return
            keep = hub.settings.retention.signed_reports == "keep"
            with contextlib.nullcontext() if hub.database.shared else _overwriting(connection):
                for each in erase(connection, site, study, mark.rule, now, keep):
                    why = f"rule {mark.rule}" if mark.rule else "asked for"
                    hub.audit.append(connection, self._message(Act.ERASED, site, each, detail=why))
        done.removed += 1
        hub.disk.step("retention.erase.committed")

    def remove_blobs(self, done: RetentionRun | None = None, stopped: Callable[[], bool] = _never) -> None:
        """Take the blobs of removed studies from the disk, but for those that another object names."""
        hub, done, last = self.hub, done or RetentionRun(), b""
        aside = hub.damaged_blobs()
        while not stopped():
            # Alone: no site names one of them at this moment.
            with hub.database.write() as connection:
                page = take_page(connection, last)
            if not page:
                return
            gone, last = [], page[-1]
            for blob in page:
                with hub.store.parked.guard(LOOP, blob.hex()):
                    hub.store.remove_blob(blob)
                    aside.remove(blob, "retention.aside")
                    gone.append(blob)
            hub.disk.step("retention.blobs.before_commit")
            with hub.database.write(turn=LOOP) as connection:
                record_gone(connection, gone, hub.clock.now())
            done.blobs += len(gone)

    def _sweep(self) -> None:
        """Remove the parts of removed studies in transfer, and the refused ones."""
        hub, erased_of = self.hub, self._tombstones()
        # Those of drives are in the folder of the machine that reads them.
        for inbox in (hub.inbox(), FolderInbox(hub.data / "carried", hub.disk, hub.clock)):
            for site, object, head in inbox.headers():
                with contextlib.suppress(Forged):
                    if self._is_erased(site, peek(head).study):
                        inbox.forget(site, object)
            inbox.sweep()
        # Twice, since one may be refused while its study is removed. A later part is not set aside.
        if self.swept == [erased_of, erased_of]:
            return
        quarantine = hub.quarantine()
        for each in quarantine.entries():
            if each.study is None:
                # An earlier version did not record the study: such an object goes with the next removal of its site.
                _, newest = erased_of.get(each.site, (0, None))
                erased = newest is not None and each.at <= newest
            else:
                erased = self._is_erased(each.site, each.study)
            if erased:
                quarantine.remove(each)
        self.swept[:] = [*self.swept[-1:], erased_of]

    def _sweep_damaged(self) -> None:
        """Remove damaged blobs that were set aside and that no object names: their study is not known any more, so they
        go with the next one that is removed."""
        aside = self.hub.damaged_blobs()
        for page in aside.pages():
            for blob in sorted(frozenset(page) - self.hub.store.named(page)):
                aside.remove(Digest(blob), "retention.aside")

    def _forget(self) -> None:
        old = removed_blobs.c.at < micros(self.hub.clock.now() - REMEMBERED)
        with self.hub.database.write(turn=LOOP) as connection:
            connection.execute(delete(removed_blobs).where(removed_blobs.c.state == str(RemovedBlob.GONE), old))

    def _tombstones(self) -> Tombstones:
        query = select(tombstones.c.site, func.count(), func.max(tombstones.c.at)).group_by(tombstones.c.site)
        with self.hub.database.read() as connection:
            return {SiteName(site): (count, moment(at)) for site, count, at in connection.execute(query)}

    def _is_erased(self, site: str, study: bytes) -> bool:
        with self.hub.database.read() as connection:
            return is_erased(connection, site, study)

    @property
    def _targets(self) -> list[str]:
        return [target.name for target in self.hub.settings.forward.targets]

    def _takes(self, rule: RetentionRule, site: SiteName, study: StudyKey) -> ColumnElement[bool]:
        this = of_study(worklist, site, study)
        return exists().where(this, condition(rule, self._targets, self.hub.clock.now()))

    def _is_done(self, site: SiteName, study: StudyKey) -> ColumnElement[bool]:
        """Read, and at every target if there is one."""
        forwarded = [is_forwarded(self._targets)] if self._targets else []
        return exists().where(of_study(worklist, site, study), is_read(), *forwarded)

    def _message(
        self, act: Act, site: SiteName | None = None, study: StudyKey | None = None, detail: str = "", **more: Any
    ) -> Message:
        return Message(act, self.hub.clock.now(), self.user, "", site, study, detail=detail, **more)

    def _rows(self, query: Any, *key: Any) -> Iterator[Row[Any]]:
        """Rows in the order of a key, read page by page."""
        last: tuple[Any, ...] | None = None
        while True:
            page = query.order_by(*key).limit(PAGE)
            with self.hub.database.read() as connection:
                rows = connection.execute(page if last is None else page.where(tuple_(*key) > tuple_(*last))).all()
            yield from rows
            if len(rows) < PAGE:
                return
            last = tuple(getattr(rows[-1], column.key) for column in key)


@contextlib.contextmanager
def _overwriting(connection: Connection) -> Iterator[None]:
    """SQLite else leaves the bytes of removed rows in its file. Others use the connection afterwards."""
    before = ("OFF", "ON", "FAST")[connection.exec_driver_sql("PRAGMA secure_delete").scalar_one()]
    connection.exec_driver_sql("PRAGMA secure_delete = ON")
    try:
        yield
    finally:
        connection.exec_driver_sql(f"PRAGMA secure_delete = {before}")


class RetentionLoop:
    """Runs in `serve`, once in EVERY seconds."""

    def __init__(self, hub: Hub) -> None:
        self._retention = Retention(hub)
        self._parked = hub.store.parked
        self._stop = threading.Event()

    def run(self) -> None:
        """Until `stop`. For one thread."""
        while not self._stop.is_set():
            with (
                self._parked.guard(LOOP),
                contextlib.suppress(HubBusy, DatabaseBusy),
            ):  # another process or a backup is at it
                self._retention.run(self._stop.is_set)
            self._stop.wait(EVERY)

    def stop(self) -> None:
        self._stop.set()
