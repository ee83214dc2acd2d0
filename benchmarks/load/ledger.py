"""The account of the studies that were given to the clinics: what the hub acknowledged, what is missing, what came
twice."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.load.studies import LoadStudy
from thinwire.shared.formats.receipts import Receipt, StudyStatus
from thinwire.shared.identifiers import Digest, StudyKey


@dataclass
class _Account:
    given: float
    """Seconds, monotonic."""
    missing: set[Digest]
    """Objects without a receipt."""
    acknowledged: float | None = None
    triaged: float | None = None
    triages: set[bytes] = field(default_factory=set)
    """Details of different receipts of a triage."""


class Ledger:
    """Of all clinics of a generator."""

    def __init__(self) -> None:
        self._accounts: dict[StudyKey, _Account] = {}
        self._places: dict[Digest, set[tuple[bytes, int]]] = {}
        self.unknown = 0
        """Receipts of studies that nobody gave."""
        self.waiting = 0
        """Studies that are not wholly acknowledged and triaged."""

    def give(self, study: LoadStudy, now: float) -> None:
        self._accounts[study.key] = _Account(now, {each.object for each in study.objects})
        self.waiting += 1

    def take(self, receipt: Receipt, now: float) -> None:
        """A receipt has come; perhaps once more."""
        account = self._accounts.get(receipt.study)
        if account is None:
            self.unknown += 1
            return
        before = self._open(account)
        if receipt.status is StudyStatus.STORED and receipt.object is not None:
            account.missing.discard(receipt.object)
            if receipt.place is not None:
                place = (bytes(receipt.place.generation), receipt.place.position)
                self._places.setdefault(receipt.object, set()).add(place)
            if not account.missing and account.acknowledged is None:
                account.acknowledged = now
        elif receipt.status is StudyStatus.TRIAGED:
            account.triages.add(receipt.at.isoformat().encode() + receipt.detail)
            account.triaged = account.triaged or now
        self.waiting -= before and not self._open(account)

    @property
    def studies(self) -> list[StudyKey]:
        return list(self._accounts)

    @property
    def acknowledged(self) -> int:
        return sum(each.acknowledged is not None for each in self._accounts.values())

    @property
    def triaged(self) -> int:
        return sum(each.triaged is not None for each in self._accounts.values())

    def triaged_seconds(self, studies: Iterable[StudyKey]) -> list[float | None]:
        """Seconds from given to triaged; None for one that is not."""
        of = [self._accounts[each] for each in studies]
        return [None if each.triaged is None else each.triaged - each.given for each in of]

    def twice(self) -> int:
        """Studies that the hub stored or triaged more than once."""
        stored = sum(len(places) > 1 for places in self._places.values())
        return stored + sum(len(each.triages) > 1 for each in self._accounts.values())

    def result(self, since: float = 0.0) -> dict[str, Any]:
        """Of the studies given since a moment, with seconds from given to triaged, and from given to acknowledged."""
        of = [each for each in self._accounts.values() if each.given >= since]
        return {
            "given": len(of),
            "acknowledged": sum(each.acknowledged is not None for each in of),
            "triaged": sum(each.triaged is not None for each in of),
            "lost": sum(each.acknowledged is None for each in of),
            "twice": self.twice(),
            "seconds_to_triaged": spread(each.triaged - each.given for each in of if each.triaged is not None),
            "seconds_to_acknowledged": spread(
                each.acknowledged - each.given for each in of if each.acknowledged is not None
            ),
        }

    @staticmethod
    def _open(account: _Account) -> bool:
        return account.acknowledged is None or account.triaged is None


def spread(values: Iterable[float]) -> dict[str, float | int]:
    """Count, median, 99th percentile and most."""
    known = sorted(values)
    if not known:
        return {"n": 0}
    return {
        "n": len(known),
        "median": round(statistics.median(known), 4),
        "p99": round(percentile(known, 0.99), 4),
        "most": round(known[-1], 4),
    }


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that is not exceeded by at least this share of an ascending sequence (nearest rank)."""
    return ordered[max(0, -(-round(len(ordered) * share * 1e6) // 1_000_000) - 1)]
