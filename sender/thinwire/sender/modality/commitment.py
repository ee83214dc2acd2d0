"""Storage commitment, push model (PS3.4 Annex J): a modality asks whether its objects are safe.

A request is durable before it is acknowledged. It is answered when every object in it is accepted or refused: success
for objects in the outbox, which stay at the clinic until the hub has the whole study.
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from thinwire.sender.modality.arrivals import Arrivals, ObjectState
from thinwire.shared.clock import Clock
from thinwire.shared.errors import ProtocolBroken
from thinwire.shared.identifiers import digest
from thinwire.shared.storage.durable import Disk, sweep

log = logging.getLogger(__name__)

ALL_COMMITTED, SOME_FAILED = 1, 2
"""Event types (PS3.4 J.3.3)."""
PROCESSING_FAILURE, NO_SUCH_INSTANCE, CLASS_CONFLICT = 0x0110, 0x0112, 0x0119
"""Failure Reason (0008,1197), PS3.3 C.14.1.1."""
MOST_OBJECTS = 4096
GIVE_UP = timedelta(days=7)
"""Time after which an undeliverable report is dropped."""
RETRY_SECONDS = 60.0

_FAILURE = {ObjectState.REFUSED: PROCESSING_FAILURE, ObjectState.UNKNOWN: NO_SUCH_INSTANCE}


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
    """folder: DATA/arrivals/commitments. deliver: sends a report (AE title, event type, event information) to a
    modality; returns whether the modality accepted it."""

    def __init__(
        self, folder: Path, arrivals: Arrivals, disk: Disk, clock: Clock, deliver: Callable[[str, int, Dataset], bool]
    ) -> None:
        self._folder = folder
        self._arrivals = arrivals
        self._disk = disk
        self._clock = clock
        self._deliver = deliver
        self._next: dict[Path, float] = {}
        disk.make_folder(folder)
        sweep(folder)

    def ask(self, machine: str, action: Dataset) -> None:
        """Store a modality's request; durable when this returns. action: Action Information (PS3.4 J.3.2).

        Raises ProtocolBroken, DiskFull.
        """
        transaction = str(action.get("TransactionUID", ""))
        items = action.get("ReferencedSOPSequence") or []
        objects = [
            (str(each.get("ReferencedSOPClassUID", "")), str(each.get("ReferencedSOPInstanceUID", "")))
            for each in items
        ]
        if not transaction or not 1 <= len(objects) <= MOST_OBJECTS or not all(all(each) for each in objects):
            raise ProtocolBroken("a commitment request names no transaction or no objects")
        facts = {
            "machine": machine,
            "transaction": transaction,
            "objects": objects,
            "at": self._clock.now().isoformat(),
        }
        name = digest(f"{machine}\n{transaction}".encode()).hex()[:32]
        self._disk.write(self._folder / f"{name}.json", json.dumps(facts).encode(), "commitment")

    def answer(self) -> int:
        """Send the reports that are ready; returns how many were accepted. An unreachable modality is tried again."""
        taken = 0
        for path in sorted(self._folder.glob("*.json")):
            if self._next.get(path, 0.0) > self._clock.monotonic():
                continue
            request = _read(path)
            if request is None or self._clock.now() - request.at > GIVE_UP:
                log.warning(
                    "a storage commitment report was dropped: the modality did not accept it for 7 days, "
                    "or the request is damaged"
                )
                self._forget(path)
                continue
            report = self.report(request)
            if report is None:
                continue
            if self._deliver(request.machine, *report):
                self._forget(path)
                taken += 1
            else:
                self._next[path] = self._clock.monotonic() + RETRY_SECONDS
        return taken

    def report(self, request: Request) -> tuple[int, Dataset] | None:
        """Event type and event information; None while the study of one of the objects is not complete."""
        good: list[Dataset] = []
        bad: list[Dataset] = []
        for sop_class, instance in request.objects:
            state_of = self._arrivals.state_of(instance)
            if state_of is ObjectState.PENDING:
                return None
            known = self._arrivals.known(instance)
            item = Dataset()
            item.ReferencedSOPClassUID = sop_class
            item.ReferencedSOPInstanceUID = instance
            if state_of is ObjectState.ACCEPTED and known is not None and known.sop_class == sop_class:
                good.append(item)
                continue
            item.FailureReason = _FAILURE.get(state_of, CLASS_CONFLICT)
            bad.append(item)
        found = Dataset()
        found.TransactionUID = request.transaction
        _put(found, "ReferencedSOPSequence", good)
        _put(found, "FailedSOPSequence", bad)
        return (SOME_FAILED if bad else ALL_COMMITTED), found

    def _forget(self, path: Path) -> None:
        self._next.pop(path, None)
        self._disk.remove(path, "commitment.done")


def _put(dataset: Dataset, keyword: str, items: Sequence[Dataset]) -> None:
    """Set a sequence; an empty one must be absent (PS3.4 J.3.3.1.1)."""
    if items:
        setattr(dataset, keyword, DicomSequence(items))


def _read(path: Path) -> Request | None:
    try:
        facts = json.loads(path.read_bytes())
        objects = tuple((str(kind), str(instance)) for kind, instance in facts["objects"])
        return Request(str(facts["machine"]), str(facts["transaction"]), objects, datetime.fromisoformat(facts["at"]))
    except (ValueError, KeyError, TypeError):
        return None
