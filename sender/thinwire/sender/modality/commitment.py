"""Storage commitment, push model (PS3.4 Annex J): a modality asks whether its objects are safe.

A request is durable before it is acknowledged. It is answered when every object in it is accepted or refused: success
for objects in the outbox, which stay at the clinic until the hub has the whole study.
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from sqlalchemy import delete, insert, select, update

from thinwire.sender.modality.arrivals import Arrivals
from thinwire.sender.outbox.tables import commitments, parked, request_id
from thinwire.shared.clock import Clock
from thinwire.shared.errors import ProtocolBroken
from thinwire.shared.formats.positional import micros, moment
from thinwire.shared.parked import ParkedItems
from thinwire.shared.storage.database import Database
from thinwire.shared.storage.durable import Disk

log = logging.getLogger(__name__)

ALL_COMMITTED, SOME_FAILED = 1, 2
"""Event types (PS3.4 J.3.3)."""
PROCESSING_FAILURE, NO_SUCH_INSTANCE, CLASS_CONFLICT = 0x0110, 0x0112, 0x0119
"""Failure Reason (0008,1197), PS3.3 C.14.1.1."""
MOST_OBJECTS = 4096
GIVE_UP = timedelta(days=7)
"""Time after which an undeliverable report is dropped."""
RETRY_SECONDS = 60
REPORTING = "storage commitment"
"""Its name in the list of parked items."""


@dataclass(frozen=True)
class Request:
    """A storage commitment request."""

    machine: str
    """AE title of the modality."""
    transaction: str = field(repr=False)
    objects: tuple[tuple[str, str], ...] = field(repr=False)
    """(SOP class, SOP instance)."""
    at: datetime


class Commitments:
    """deliver: sends a report (AE title, event type, event information) to a modality; returns whether the modality
    accepted it."""

    def __init__(
        self,
        database: Database,
        arrivals: Arrivals,
        disk: Disk,
        clock: Clock,
        deliver: Callable[[str, int, Dataset], bool],
    ) -> None:
        self._database = database
        self._arrivals = arrivals
        self._disk = disk
        self._clock = clock
        self._deliver = deliver
        self._parked = ParkedItems(database, parked, clock)

    def ask(self, machine: str, action: Dataset) -> None:
        """Store a modality's request; durable when this returns. action: Action Information (PS3.4 J.3.2).

        Raises ProtocolBroken, DiskFull, DatabaseBusy.
        """
        transaction = str(action.get("TransactionUID", ""))
        items = action.get("ReferencedSOPSequence") or []
        objects = [
            (str(each.get("ReferencedSOPClassUID", "")), str(each.get("ReferencedSOPInstanceUID", "")))
            for each in items
        ]
        if not transaction or not 1 <= len(objects) <= MOST_OBJECTS or not all(all(each) for each in objects):
            raise ProtocolBroken("a commitment request names no transaction or no objects")
        at = micros(self._clock.now())
        row = {
            "request": request_id(machine, transaction),
            "machine": machine,
            "transaction_uid": transaction,
            "objects": json.dumps(objects),
            "at": at,
            "due": at,
        }
        with self._database.write() as connection:
            connection.execute(delete(commitments).where(commitments.c.request == row["request"]))
            connection.execute(insert(commitments).values(row))
            self._disk.step("commitment.before_commit")
        self._disk.step("commitment.committed")

    def answer(self) -> int:
        """Send the reports that are ready; returns how many were accepted. An unreachable modality is tried again; a
        request that fails is parked."""
        now = micros(self._clock.now())
        later = now + RETRY_SECONDS * 1_000_000
        with self._database.read() as connection:
            # A later time than the next attempt was written before the clock was set back.
            due = (commitments.c.due <= now) | (commitments.c.due > later)
            requests = connection.execute(select(commitments.c.request).where(due))
            found = list(requests.scalars())
        taken, waits = 0, self._parked.waits(REPORTING)
        for name in found:
            if name.hex() not in waits:
                with self._parked.guard(REPORTING, name.hex()):
                    taken += self._answer(name, later)
        return taken

    def _answer(self, name: bytes, later: int) -> bool:
        """Send one report if it is ready. later: the next attempt if the modality does not accept it."""
        request = self._read(name)
        if request is None:
            return False
        if self._clock.now() - request.at > GIVE_UP:
            log.warning("a storage commitment report was dropped: the modality did not accept it for 7 days")
            self._forget(name)
            return False
        report = self.report(request)
        if report is None:
            return False
        if self._deliver(request.machine, *report):
            self._forget(name)
            return True
        with self._database.write() as connection:
            connection.execute(update(commitments).where(commitments.c.request == name).values(due=later))
        return False

    def report(self, request: Request) -> tuple[int, Dataset] | None:
        """Event type and event information; None while the study of one of the objects is not complete."""
        instances = [instance for _, instance in request.objects]
        if self._arrivals.pending(instances):
            return None
        all_known = self._arrivals.ledger.all_known(instances)
        good: list[Dataset] = []
        bad: list[Dataset] = []
        for sop_class, instance in request.objects:
            known = all_known.get(instance)
            item = Dataset()
            item.ReferencedSOPClassUID = sop_class
            item.ReferencedSOPInstanceUID = instance
            if known is not None and known.study is not None and known.sop_class == sop_class:
                good.append(item)
                continue
            if known is None:
                item.FailureReason = NO_SUCH_INSTANCE
            else:
                item.FailureReason = PROCESSING_FAILURE if known.study is None else CLASS_CONFLICT
            bad.append(item)
        found = Dataset()
        found.TransactionUID = request.transaction
        _put(found, "ReferencedSOPSequence", good)
        _put(found, "FailedSOPSequence", bad)
        return (SOME_FAILED if bad else ALL_COMMITTED), found

    def _read(self, name: bytes) -> Request | None:
        """None if it was answered in the meantime."""
        with self._database.read() as connection:
            row = connection.execute(select(commitments).where(commitments.c.request == name)).first()
        if row is None:
            return None
        objects = tuple((str(kind), str(instance)) for kind, instance in json.loads(row.objects))
        return Request(row.machine, row.transaction_uid, objects, moment(row.at))

    def _forget(self, name: bytes) -> None:
        with self._database.write() as connection:
            connection.execute(delete(commitments).where(commitments.c.request == name))


def _put(dataset: Dataset, keyword: str, items: Sequence[Dataset]) -> None:
    """Set a sequence; an empty one must be absent (PS3.4 J.3.3.1.1)."""
    if items:
        setattr(dataset, keyword, DicomSequence(items))
