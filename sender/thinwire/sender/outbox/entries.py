"""What the outbox remembers of a study: its parts, their states, and how one state follows another."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from thinwire.sender.outbox.tiers import PendingPart, When, read_kind
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.formats.originals import Effort
from thinwire.shared.formats.receipts import StudyStatus
from thinwire.shared.identifiers import Digest, EpochId, StudyKey
from thinwire.shared.transitions import Transitions

VERSION = 4
_READ_VERSIONS = (3, VERSION)
"""Version 3 differs in the names of two kinds, which `read_kind` knows."""
_EFFORTS: dict[str, Effort] = {"quick": "quick", "small": "small"}


class PartState(StrEnum):
    """How far one part of a study is. Every state is durable; what happens on a stream is not kept here."""

    MISSING = "missing"
    """To be made, or to be made anew."""
    HELD = "held"
    """Sealed on disk; goes when a reader asks."""
    WAITING = "waiting"
    """Sealed on disk; to be sent."""
    STORED = "stored"
    """The hub's signed receipt is on disk; the bytes are gone from here."""
    REFUSED = "refused"
    """The hub refused it for good; the bytes stay here."""
    ABSENT = "absent"
    """Could not be made; the study goes without it."""


class PartEvent(StrEnum):
    """What happens to a part."""

    ADDED = "added"
    HELD_BACK = "held back"
    REQUESTED = "requested"
    RELEASED = "released"
    """The clinic chose anew when it goes."""
    STORED = "stored"
    REFUSED = "refused"
    RETRIED = "retried"
    DAMAGED = "damaged"
    GIVEN_UP = "given up"


TRANSITIONS = Transitions(
    "part",
    {
        (PartState.MISSING, PartEvent.ADDED): PartState.WAITING,
        (PartState.MISSING, PartEvent.HELD_BACK): PartState.HELD,
        (PartState.MISSING, PartEvent.REQUESTED): PartState.MISSING,
        (PartState.MISSING, PartEvent.GIVEN_UP): PartState.ABSENT,
        # Damaged here after it had reached the hub.
        (PartState.MISSING, PartEvent.STORED): PartState.STORED,
        (PartState.HELD, PartEvent.REQUESTED): PartState.WAITING,
        (PartState.HELD, PartEvent.RELEASED): PartState.WAITING,
        (PartState.HELD, PartEvent.DAMAGED): PartState.MISSING,
        # Taken to the hub by stick though nobody asked.
        (PartState.HELD, PartEvent.STORED): PartState.STORED,
        (PartState.WAITING, PartEvent.REQUESTED): PartState.WAITING,
        (PartState.WAITING, PartEvent.STORED): PartState.STORED,
        (PartState.WAITING, PartEvent.REFUSED): PartState.REFUSED,
        (PartState.WAITING, PartEvent.DAMAGED): PartState.MISSING,
        # Receipts and requests are repeated by every new stream.
        (PartState.STORED, PartEvent.STORED): PartState.STORED,
        (PartState.STORED, PartEvent.REQUESTED): PartState.STORED,
        (PartState.REFUSED, PartEvent.RETRIED): PartState.WAITING,
        (PartState.REFUSED, PartEvent.REQUESTED): PartState.REFUSED,
        (PartState.REFUSED, PartEvent.STORED): PartState.STORED,
        (PartState.ABSENT, PartEvent.REQUESTED): PartState.ABSENT,
        (PartState.ABSENT, PartEvent.RETRIED): PartState.MISSING,
    },
)


class EntryState(StrEnum):
    """How far a study is at the clinic; it follows from the states of its parts."""

    ACCEPTED = "accepted"
    """Safe on disk; parts of it are still to be made."""
    SENDING = "sending"
    REFUSED = "refused"
    """The hub refused a part, and no other part waits."""
    ARRIVED = "arrived"
    """The hub has every part that goes unasked, and said so under its signature."""


@dataclass(frozen=True)
class Part:
    kind: Kind
    state: PartState = PartState.MISSING
    object: Digest | None = None
    """SHA-256 of the sealed bytes; None until it was made."""
    size: int = 0
    """Sealed bytes."""
    plain_size: int = 0
    """Bytes before sealing."""
    requested: bool = False
    """A reader asked for it: it goes like an urgent one."""
    reason: str = ""
    """Why it is refused or absent, with what can be done."""

    def after(self, event: PartEvent, reason: str = "") -> "Part":
        """The part after `event`. Raises ValueError for an event that this state does not know."""
        state = TRANSITIONS.after(self.state, event)
        return replace(self, state=state, reason=reason, requested=self.requested or event is PartEvent.REQUESTED)


@dataclass(frozen=True)
class Due:
    """An object that is to cross the link: a part of a study, or the epoch record that other objects need."""

    object: Digest
    size: int
    """Bytes."""
    urgent: bool
    """The clinic says so of the study; this alone is what the hub hears."""
    accepted: datetime
    """UTC; its age."""
    epoch: EpochId
    study: StudyKey
    """Of a record: the first study that needs it."""
    kind: Kind | None
    """None for an epoch record."""
    overrides: Mapping[Kind, When] = field(default_factory=dict)
    """The study's own, by which the policy lets it go."""
    requested: bool = False
    """A reader at the hub asked for it."""
    paused: bool = False
    """A person at the clinic holds the study back."""

    @property
    def first(self) -> bool:
        """Whether it goes before the rest."""
        return self.urgent or self.requested

    def pending(self, durable: int = 0) -> PendingPart:
        """As the policy sees it. durable: bytes that the hub has."""
        return PendingPart(self.kind, self.size - durable, self.first, overrides=self.overrides, paused=self.paused)


@dataclass(frozen=True)
class OutboxEntry:
    """A study in the outbox."""

    study: StudyKey
    accepted: datetime
    """UTC; the study's age on the link."""
    urgent: bool
    epoch: EpochId
    """All parts are sealed in this epoch, so that making one again gives the same object."""
    text_mac: bytes
    """16 bytes that change with the words beside the files, keyed: no word can be guessed from them."""
    parts: tuple[Part, ...]
    """In the order in which they go."""
    status: StudyStatus | None = None
    """The hub's furthest word on the study."""
    overrides: Mapping[Kind, When] = field(default_factory=dict)
    """When its parts go, where that is not as the clinic's configuration says."""
    effort: Effort | None = None
    """How its files were packed for the link; a second time gives the same bytes."""
    escalated: bool = True
    """Whether the hub knows of the urgency, or learns it from the parts that it is yet to get."""
    paused: bool = False
    """A person at the clinic holds it back: nothing of it goes until it is resumed."""
    warnings: tuple[str, ...] = ()
    """What intake doubted, for people; without a patient's identity."""

    def part(self, kind: Kind) -> Part:
        """The part of a kind; one that was never planned is missing."""
        return next((part for part in self.parts if part.kind is kind), Part(kind))

    def with_part(self, part: Part) -> "OutboxEntry":
        others = [each for each in self.parts if each.kind is not part.kind]
        return replace(self, parts=tuple(sorted((*others, part), key=lambda each: each.kind)))

    @property
    def missing(self) -> tuple[Kind, ...]:
        """What the pipeline has to make."""
        return tuple(part.kind for part in self.parts if part.state is PartState.MISSING)

    @property
    def state(self) -> EntryState:
        states = {part.state for part in self.parts}
        if PartState.MISSING in states:
            return EntryState.ACCEPTED
        if PartState.WAITING in states:
            return EntryState.SENDING
        return EntryState.REFUSED if PartState.REFUSED in states else EntryState.ARRIVED

    @property
    def is_at_hub(self) -> bool:
        """Whether the hub has every part that was planned: the originals, which hold the study's files and text, and
        each other part but those that could not be made or that wait for a reader's request."""
        return self.state is EntryState.ARRIVED and self.part(Kind.ORIGINALS).state is PartState.STORED

    def due(self, held: bool = False) -> "list[Due]":
        """The parts that wait for the link. held: those too that wait for a reader to ask."""
        states = (PartState.WAITING, PartState.HELD) if held else (PartState.WAITING,)
        return [
            Due(
                part.object,
                part.size,
                self.urgent,
                self.accepted,
                self.epoch,
                self.study,
                part.kind,
                self.overrides,
                part.requested,
                self.paused,
            )
            for part in self.parts
            if part.state in states and part.object is not None
        ]

    def to_json(self) -> bytes:
        return json.dumps(
            {
                "version": VERSION,
                "study": self.study.hex(),
                "accepted": self.accepted.isoformat(),
                "urgent": self.urgent,
                "epoch": self.epoch.hex(),
                "mark": self.text_mac.hex(),
                "status": self.status,
                "effort": self.effort,
                "urged": self.escalated,
                "paused": self.paused,
                "warnings": self.warnings,
                "tiers": {kind.name.lower(): when for kind, when in sorted(self.overrides.items())},
                "parts": [_part_to_json(part) for part in self.parts],
            },
            indent=1,
        ).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "OutboxEntry":
        """Read what `to_json` made. Raises ValueError for anything else."""
        try:
            facts = json.loads(data)
            if facts["version"] not in _READ_VERSIONS:
                raise ValueError(f"version {facts['version']}")
            return cls(
                study=StudyKey(bytes.fromhex(facts["study"])),
                accepted=datetime.fromisoformat(facts["accepted"]).astimezone(UTC),
                urgent=bool(facts["urgent"]),
                epoch=EpochId(bytes.fromhex(facts["epoch"])),
                text_mac=bytes.fromhex(facts["mark"]),
                status=StudyStatus(facts["status"]) if facts["status"] else None,
                parts=tuple(_part_from_json(part) for part in facts["parts"]),
                effort=_EFFORTS[facts["effort"]] if facts["effort"] else None,
                escalated=bool(facts["urged"]),
                paused=bool(facts["paused"]),
                warnings=tuple(str(each) for each in facts["warnings"]),
                overrides={read_kind(kind): When(when) for kind, when in facts["tiers"].items()},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("not an entry of the outbox") from error


def _part_to_json(part: Part) -> dict[str, Any]:
    return {
        "kind": part.kind.name.lower(),
        "state": part.state,
        "object": part.object.hex() if part.object else None,
        "size": part.size,
        "plain_size": part.plain_size,
        "requested": part.requested,
        "reason": part.reason,
    }


def _part_from_json(facts: dict[str, Any]) -> Part:
    return Part(
        kind=read_kind(facts["kind"]),
        state=PartState(facts["state"]),
        object=Digest(bytes.fromhex(facts["object"])) if facts["object"] else None,
        size=int(facts["size"]),
        plain_size=int(facts["plain_size"]),
        requested=bool(facts["requested"]),
        reason=str(facts["reason"]),
    )
