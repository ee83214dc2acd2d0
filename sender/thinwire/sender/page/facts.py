"""The values on the clinic's page, ready for its template, which has no logic."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from thinwire.sender.intake.deidentify import MEANINGS, Identity
from thinwire.sender.outbox.deletion import safety
from thinwire.sender.outbox.entries import OutboxEntry, Part, PartState
from thinwire.sender.outbox.hub_history import HubHistory
from thinwire.sender.outbox.outbox import Outbox
from thinwire.sender.outbox.policy import CurrentPolicy
from thinwire.sender.outbox.quarantine import Quarantine
from thinwire.sender.outbox.tiers import ORDER
from thinwire.sender.presentation import bytes_text, certificate_warning, seconds_text
from thinwire.sender.transport import link_status
from thinwire.sender.transport.link_status import LinkStatus, TransferProgress
from thinwire.sender.transport.progress import study_seconds
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.formats.receipts import Receipt, StudyStatus
from thinwire.shared.identifiers import Digest, StudyKey
from thinwire.shared.listening.guard import Listeners
from thinwire.shared.parked import ParkedItem

MOST_STUDIES = 200
"""The newest are shown; `status --all` lists all."""
MOST_REFUSED = 20
_STATUS_LABELS = {
    StudyStatus.STORED: "at the hub",
    StudyStatus.TRIAGED: "triaged",
    StudyStatus.OPENED: "opened by a reader",
    StudyStatus.REPORTED: "read",
}


@dataclass(frozen=True)
class PartRow:
    name: str
    state: str
    size: str
    percent: int | None
    """Percentage of its bytes that are durable at the hub, during its transfer."""
    why: str


@dataclass(frozen=True)
class FindingRow:
    name: str
    probability: float
    low: float
    high: float


@dataclass(frozen=True)
class StudyRow:
    study: str
    """Its study key, hex."""
    accepted: str
    urgent: bool
    paused: bool
    done: bool
    """No part of it is in transfer or waits for the link."""
    read: bool
    """Whether a reader has signed a report."""
    parts: tuple[PartRow, ...]
    there_in: str
    """The time until all parts that may be sent are at the hub; empty if unknown."""
    hub_statuses: tuple[tuple[str, str], ...]
    """(status at the hub, time), oldest first."""
    urgency: str
    reason: str
    findings: tuple[FindingRow, ...]
    report: Mapping[str, str] | None = field(repr=False)
    """text, reader, at."""
    warnings: tuple[str, ...]
    added_to: str
    """The study to which its files are added, hex; empty for a study of its own."""
    safety: str
    """Whether a backup of the hub holds it (`deletion.Safety`); empty while the hub lacks a part."""


@dataclass(frozen=True)
class PageState:
    """Everything on the page."""

    site: str
    link: LinkStatus
    link_rate: str
    paused: bool
    used: str
    budget: str
    share: int | None
    """Percent of the month's budget."""
    identity: str
    """full, sealed or none."""
    identity_meaning: str
    coming: int
    """Studies that machines are still sending."""
    studies: tuple[StudyRow, ...]
    more: int
    refused: tuple[Mapping[str, object], ...]
    certificate: str
    """A warning that the clinic's certificate ends; empty without one."""
    unreadable: int
    """Number of files that this version cannot read, and keeps."""
    parked: tuple[ParkedItem, ...]
    """The oldest of what failed alone, and waits."""
    more_parked: int


@dataclass(frozen=True)
class ClinicState:
    """The sources of the page. current_policy: the tier policy now. coming: number of studies still arriving. identity:
    the setting. listeners: the clinic's ports. certificate: the present one, PEM."""

    outbox: Outbox
    quarantine: Quarantine
    current_policy: Callable[[], CurrentPolicy]
    coming: Callable[[], int] = lambda: 0
    identity: Identity = Identity.FULL
    listeners: Listeners = field(default_factory=Listeners)
    certificate: Callable[[], bytes | None] = lambda: None

    def free(self) -> int:
        """Bytes that studies may still take of the disk."""
        return self.outbox.epochs.disk.free(self.outbox.folder)

    def health(self) -> tuple[bool, dict[str, object]]:
        """Whether the clinic can accept a study, and the conditions. A link that is down is healthy: studies wait for
        it."""
        current_policy, free = self.current_policy(), self.free()
        link = link_status.read_status(self.outbox.folder, current_policy.now)
        healthy = free > 0
        facts = {"status": "ok" if healthy else "the disk is full", "link": str(link.state), "disk_free_bytes": free}
        return healthy, {**facts, "paused": current_policy.paused}

    def shown(self) -> PageState:
        current_policy = self.current_policy()
        newest, due = self.outbox.overview.newest(MOST_STUDIES), self.outbox.due()
        link = link_status.read_status(self.outbox.folder, current_policy.now)
        waits, seconds = current_policy.waits(newest, due), study_seconds(due, link, current_policy)
        crossing = {each.object: each for each in link.transfers}
        receipts = self.outbox.receipts_of([each.study for each in newest])
        budget, history = current_policy.policy.budget, self.outbox.history()
        parked, certificate = self.outbox.parked.items(MOST_REFUSED), self.certificate()
        return PageState(
            site=str(self.outbox.epochs.site),
            link=link,
            link_rate=f"{bytes_text(link.rate)}/s" if link.rate else "",
            paused=current_policy.paused,
            used=bytes_text(current_policy.used),
            budget="" if budget is None else bytes_text(budget),
            share=None if not budget else min(100, 100 * current_policy.used // budget),
            identity=self.identity,
            identity_meaning=MEANINGS[self.identity],
            coming=self.coming(),
            studies=tuple(
                row
                for each in newest
                for row in self._rows(each, current_policy, waits, seconds, crossing, receipts[each.study], history)
            ),
            more=max(0, self.outbox.overview.count() - len(newest)),
            refused=tuple(reversed(self.quarantine.reasons(MOST_REFUSED))),
            certificate=certificate_warning(certificate, current_policy.now) if certificate else "",
            unreadable=self.outbox.count_unreadable(),
            parked=tuple(parked),
            more_parked=max(0, sum(self.outbox.parked.counts().values()) - len(parked)),
        )

    def _rows(self, entry: OutboxEntry, *facts: Any) -> list[StudyRow]:
        """One row; none for a study that cannot be shown, such as one with receipts of a later version."""
        rows = []
        with self.outbox.parked.guard("page", entry.study.hex()):
            rows.append(self._study(entry, *facts))
        return rows

    def _study(
        self,
        entry: OutboxEntry,
        current_policy: CurrentPolicy,
        waits: Mapping[tuple[StudyKey, Kind], str],
        seconds: Mapping[StudyKey, float],
        crossing: Mapping[Digest, TransferProgress],
        receipts: Sequence[Receipt],
        history: HubHistory | None,
    ) -> StudyRow:
        first = {receipt.status: receipt.at for receipt in reversed(receipts)}
        result = _detail(receipts, StudyStatus.TRIAGED)
        report = _detail(receipts, StudyStatus.REPORTED).get("report")
        soon = seconds.get(entry.study)
        return StudyRow(
            study=entry.study.hex(),
            accepted=f"{current_policy.policy.local(entry.accepted):%d %b %H:%M}",
            urgent=entry.urgent,
            paused=entry.paused,
            done=not any(part.state in (PartState.MISSING, PartState.WAITING) for part in entry.parts),
            read=entry.status is StudyStatus.REPORTED,
            parts=tuple(
                _part(part, "" if current_policy.paused else waits.get((entry.study, part.kind), ""), crossing)
                for part in sorted(entry.parts, key=lambda each: ORDER.index(each.kind))
            ),
            there_in="" if soon is None else seconds_text(soon),
            hub_statuses=tuple(
                (_STATUS_LABELS[status], f"{current_policy.policy.local(first[status]):%d %b %H:%M}")
                for status in StudyStatus
                if status in first
            ),
            urgency=str(result.get("urgency", "")),
            reason=str(result.get("reason", "")),
            findings=_findings(result.get("findings")),
            report=_report(report, current_policy) if isinstance(report, dict) else None,
            warnings=entry.warnings,
            added_to="" if entry.adds_to is None else entry.adds_to.hex(),
            safety=str(safety(entry, history) or ""),
        )


def _part(part: Part, why: str, crossing: Mapping[Digest, TransferProgress]) -> PartRow:
    under_way = crossing.get(part.object) if part.object else None
    percent = 100 * under_way.durable // max(1, under_way.size) if under_way else None
    waits = part.reason or (why if part.state in (PartState.WAITING, PartState.HELD) and percent is None else "")
    state = "crossing" if percent is not None and part.state is PartState.WAITING else str(part.state)
    return PartRow(part.kind.name.lower(), state, bytes_text(part.size) if part.size else "", percent, waits)


def _detail(receipts: Sequence[Receipt], status: StudyStatus) -> dict[str, Any]:
    """The facts of the hub's last word of this kind; the receipt's signature was checked."""
    found = [receipt.detail for receipt in receipts if receipt.status is status]
    facts: dict[str, Any] = json.loads(found[-1]) if found else {}
    return facts


def _report(facts: Mapping[str, object], current_policy: CurrentPolicy) -> dict[str, str]:
    """As in the receipt `read` (docs/wire-protocol.md), its time by the clinic's clock."""
    found = {key: str(facts.get(key, "")) for key in ("text", "reader", "at")}
    try:
        return {**found, "at": f"{current_policy.policy.local(datetime.fromisoformat(found['at'])):%d %b %H:%M}"}
    except ValueError:
        return {**found, "at": ""}


def _findings(facts: object) -> tuple[FindingRow, ...]:
    """Most probable first; a newer hub's answer in an unknown form is left out rather than shown wrong."""
    found = []
    for name, values in facts.items() if isinstance(facts, dict) else ():
        if isinstance(values, list) and len(values) >= 3 and all(isinstance(each, int | float) for each in values[:3]):
            found.append(FindingRow(str(name), *(float(each) for each in values[:3])))
    return tuple(sorted(found, key=lambda each: (-each.probability, each.name)))
