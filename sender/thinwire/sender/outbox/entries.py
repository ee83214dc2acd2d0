"""An entry of the outbox: a study, its parts, their states and transitions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from thinwire.sender.outbox.tiers import PendingPart, When
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.formats.originals import Effort
from thinwire.shared.formats.receipts import Place, StudyStatus
from thinwire.shared.identifiers import Digest, EpochId, StudyKey
from thinwire.shared.transitions import Transitions


class PartState(StrEnum):
    """The state of one part of a study. Every state is durable; the state of a transfer belongs to the session."""

    MISSING = "missing"
    """To be made, or to be made again."""
    HELD = "held"
    """Sealed on disk; sent only on a reader's request."""
    WAITING = "waiting"
    """Sealed on disk; to be sent."""
    STORED = "stored"
    """The hub's signed receipt is on disk; the sealed bytes are no longer needed."""
    REFUSED = "refused"
    """Refused by the hub, finally; the bytes stay on disk."""
    ABSENT = "absent"
    """Could not be made; the study is sent without it."""


class PartEvent(StrEnum):
    """An event of a part."""

    ADDED = "added"
    HELD_BACK = "held back"
    REQUESTED = "requested"
    RESENT = "resent"
    """Requested after it was stored: the hub has lost it, and its bytes are still here."""
    REMADE = "remade"
    """The same, and it can only be made again."""
    OFFERED_AGAIN = "offered again"
    """The hub lost it with a step back in time, and its bytes are still here."""
    MADE_AGAIN = "made again"
    """The same, and it can only be made again."""
    RELEASED = "released"
    """The clinic changed the tier policy of the study."""
    STORED = "stored"
    REFUSED = "refused"
    RETRIED = "retried"
    DAMAGED = "damaged"
    GIVEN_UP = "given up"


_REQUESTS = (PartEvent.REQUESTED, PartEvent.RESENT, PartEvent.REMADE)

TRANSITIONS = Transitions(
    "part",
    {
        (PartState.MISSING, PartEvent.ADDED): PartState.WAITING,
        (PartState.MISSING, PartEvent.HELD_BACK): PartState.HELD,
        (PartState.MISSING, PartEvent.REQUESTED): PartState.MISSING,
        (PartState.MISSING, PartEvent.GIVEN_UP): PartState.ABSENT,
        # Damaged at the clinic after the hub had stored it.
        (PartState.MISSING, PartEvent.STORED): PartState.STORED,
        (PartState.HELD, PartEvent.REQUESTED): PartState.WAITING,
        (PartState.HELD, PartEvent.RELEASED): PartState.WAITING,
        (PartState.HELD, PartEvent.DAMAGED): PartState.MISSING,
        # Stored by an offline transfer without a request.
        (PartState.HELD, PartEvent.STORED): PartState.STORED,
        (PartState.WAITING, PartEvent.REQUESTED): PartState.WAITING,
        (PartState.WAITING, PartEvent.STORED): PartState.STORED,
        (PartState.WAITING, PartEvent.REFUSED): PartState.REFUSED,
        (PartState.WAITING, PartEvent.DAMAGED): PartState.MISSING,
        # Every new session repeats receipts and requests.
        (PartState.STORED, PartEvent.STORED): PartState.STORED,
        (PartState.STORED, PartEvent.REQUESTED): PartState.STORED,
        (PartState.STORED, PartEvent.RESENT): PartState.WAITING,
        (PartState.STORED, PartEvent.REMADE): PartState.MISSING,
        (PartState.STORED, PartEvent.OFFERED_AGAIN): PartState.WAITING,
        (PartState.STORED, PartEvent.MADE_AGAIN): PartState.MISSING,
        (PartState.REFUSED, PartEvent.RETRIED): PartState.WAITING,
        (PartState.REFUSED, PartEvent.REQUESTED): PartState.REFUSED,
        (PartState.REFUSED, PartEvent.STORED): PartState.STORED,
        (PartState.ABSENT, PartEvent.REQUESTED): PartState.ABSENT,
        (PartState.ABSENT, PartEvent.RETRIED): PartState.MISSING,
        # Made and offered once, then damaged at the clinic, where it could not be made again.
        (PartState.ABSENT, PartEvent.STORED): PartState.STORED,
    },
)


class EntryState(StrEnum):
    """The state of a study at the clinic, computed from the states of its parts."""

    ACCEPTED = "accepted"
    """Durable; parts are still to be made."""
    SENDING = "sending"
    REFUSED = "refused"
    """The hub refused a part; no other part waits."""
    ARRIVED = "arrived"
    """The clinic has a signed receipt for every part that is sent without a request."""


@dataclass(frozen=True)
class Part:
    kind: Kind
    state: PartState = PartState.MISSING
    object: Digest | None = None
    """SHA-256 of the sealed bytes; None until the part is made."""
    size: int = 0
    """Sealed bytes."""
    plain_size: int = 0
    """Bytes before sealing."""
    requested: bool = False
    """Requested by a reader: sent like an urgent one."""
    kept: bool = False
    """Whether its sealed bytes are among the clinic's blobs, under `object`."""
    reason: str = ""
    """Why it is refused or absent, or why it is still missing, and the remedy."""
    place: Place | None = None
    """In the hub's history, by the last receipt that says `stored`; None for a receipt that does not tell it."""

    def after(self, event: PartEvent, reason: str = "") -> "Part":
        """The part after `event`. Raises ValueError for an event that this state does not allow."""
        state = TRANSITIONS.after(self.state, event)
        return replace(self, state=state, reason=reason, requested=self.requested or event in _REQUESTS)


@dataclass(frozen=True)
class PartTotal:
    """All parts of one kind and state."""

    kind: Kind
    state: PartState
    count: int
    size: int
    """Sealed bytes of all."""


def totals_of(entries: "Iterable[OutboxEntry]") -> list[PartTotal]:
    """The totals of these studies."""
    sizes: dict[tuple[Kind, PartState], list[int]] = {}
    for entry in entries:
        for part in entry.parts:
            sizes.setdefault((part.kind, part.state), []).append(part.size)
    return [PartTotal(kind, state, len(each), sum(each)) for (kind, state), each in sorted(sizes.items())]


@dataclass(frozen=True)
class Due:
    """An object to be sent: a part of a study, or the epoch record that other objects need."""

    object: Digest
    size: int
    """Bytes."""
    urgent: bool
    """The clinic's urgency of the study; it is sent to the hub, `requested` is not."""
    accepted: datetime
    """UTC; the time of acceptance, which gives its age."""
    epoch: EpochId
    study: StudyKey
    """For an epoch record: the first study that needs it."""
    kind: Kind | None
    """None for an epoch record."""
    overrides: Mapping[Kind, When] = field(default_factory=dict)
    """The tier policy of the study, where it differs from the clinic's."""
    requested: bool = False
    """Requested by a reader at the hub."""
    paused: bool = False
    """The study is paused by a person at the clinic."""
    adds: bool = False
    """Of an addition to a study, which a hub of an earlier version does not take."""

    @property
    def first(self) -> bool:
        """Whether it is sent before objects that are neither urgent nor requested."""
        return self.urgent or self.requested

    def pending(self, durable: int = 0) -> PendingPart:
        """The facts for the policy. durable: bytes at the hub."""
        return PendingPart(
            self.kind, self.size - durable, self.first, overrides=self.overrides, paused=self.paused, adds=self.adds
        )


@dataclass(frozen=True)
class OutboxEntry:
    """A study in the outbox."""

    study: StudyKey
    accepted: datetime
    """UTC; the study's age on the link."""
    urgent: bool
    epoch: EpochId
    """All parts are sealed in this epoch, so that a part made again is the same object."""
    text_mac: bytes
    """16 bytes: a keyed digest of the text beside the files; without the key the text cannot be guessed."""
    parts: tuple[Part, ...]
    """In the order of their kinds."""
    source: Digest | None = None
    """The blob with the sealed archive of its files and text; None when the originals replace it, or are at the hub."""
    status: StudyStatus | None = None
    """The last status of the study in the hub's receipts, in the order of StudyStatus."""
    overrides: Mapping[Kind, When] = field(default_factory=dict)
    """The tier policy of the study, where it differs from the clinic's."""
    effort: Effort | None = None
    """The compression effort of the originals; stored so that a repeat gives the same bytes."""
    escalated: bool = True
    """Whether the hub has the urgency, or will receive it with the next part."""
    paused: bool = False
    """Paused by a person at the clinic: nothing is sent until it is resumed."""
    warnings: tuple[str, ...] = ()
    """Warnings of intake, without a patient's identity."""
    adds_to: StudyKey | None = None
    """The study to which these files are added; None for a study of its own."""

    def part(self, kind: Kind) -> Part:
        """The part of a kind; missing if it was not planned."""
        return next((part for part in self.parts if part.kind is kind), Part(kind))

    def with_part(self, part: Part) -> "OutboxEntry":
        others = [each for each in self.parts if each.kind is not part.kind]
        return replace(self, parts=tuple(sorted((*others, part), key=lambda each: each.kind)))

    @property
    def missing(self) -> tuple[Kind, ...]:
        """The parts that the pipeline has to make."""
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
        """Whether the hub has every planned part: the originals, which have the study's files and text, and each other
        part except those that are absent or held."""
        return self.state is EntryState.ARRIVED and self.part(Kind.ORIGINALS).state is PartState.STORED

    def due(self, held: bool = False) -> "list[Due]":
        """The waiting parts. held: also the held ones."""
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
                self.adds_to is not None,
            )
            for part in self.parts
            if part.state in states and part.object is not None
        ]
