"""The hub's store of studies: objects and their facts, predictions, reports, receipts. Format: docs/store-format.md."""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    and_,
    delete,
    exists,
    func,
    insert,
    select,
    update,
)

from thinwire.receiver.config import QuotaSettings
from thinwire.receiver.store import statements
from thinwire.receiver.store.additions import (
    Decision,
    add,
    announce,
    base_of,
    check_added,
    is_corrected,
    read_additions,
)
from thinwire.receiver.store.claims import DRAFT, PREDICT, Claim, Claims
from thinwire.receiver.store.content import Content, Files, patient_of
from thinwire.receiver.store.events import StudyEvent, add_event, add_receipt, add_receipts
from thinwire.receiver.store.history import SiteHistory, add_position, begin_generation, history_of, is_behind
from thinwire.receiver.store.queries import StudyQueries, of_study
from thinwire.receiver.store.records import (
    OpenedPart,
    PendingGraph,
    StoredPrediction,
    item_of,
    prediction_detail,
)
from thinwire.receiver.store.removed_blobs import RemovedBlob, name_again, write_again
from thinwire.receiver.store.reports import Report, ReportState, report_detail
from thinwire.receiver.store.shares import Limit, check_room, check_served, check_share, count, limits_of, usage_of
from thinwire.receiver.store.tables import (
    additions,
    drafts,
    events,
    files,
    objects,
    parked,
    predictions,
    receipts,
    reports,
    requests,
    studies,
)
from thinwire.receiver.store.tombstones import is_erased, refuse_erased
from thinwire.receiver.store.waiting import undrafted, undrafted_rows, untriaged, untriaged_rows
from thinwire.receiver.store.worklist_rows import keep, keep_each
from thinwire.shared.clock import Clock
from thinwire.shared.crypto.envelope import Kind, sealed_size
from thinwire.shared.errors import Forged, HubBusy, ReportMoved, UnknownStudy
from thinwire.shared.formats.graph import FusedGraph
from thinwire.shared.formats.manifest import Manifest
from thinwire.shared.formats.positional import micros
from thinwire.shared.formats.receipts import (
    NO_STUDY,
    Receipt,
    StudyStatus,
    detail,
    parse_receipt,
    place_detail,
    read_receipt,
    sign_receipt,
)
from thinwire.shared.identifiers import Digest, SiteName, StudyKey, digest
from thinwire.shared.parked import ParkedItems
from thinwire.shared.storage.blobs import Blobs
from thinwire.shared.storage.database import Database, insert_new


class Store(StudyQueries):
    """Safe from any thread and process. The caller of `sweep` holds DATA/lock and DATA/carry.lock.

    signing: the hub's key; the store alone signs receipts, each in the transaction that makes it true.
    """

    def __init__(
        self,
        database: Database,
        blobs: Blobs,
        step: Callable[[str], None],
        signing: Ed25519PrivateKey,
        clock: Clock,
        quota: QuotaSettings | None = None,
    ) -> None:
        """quota: the limits of a site that has none of its own."""
        super().__init__(database, blobs)
        self._step = step
        self._signing = signing
        self._clock = clock
        self._quota = quota or QuotaSettings()
        self.parked = ParkedItems(database, parked, clock)
        self.claims = Claims(database, clock)

    def sweep(self) -> int:
        """Remove half-written files, as a power cut leaves them; once, before any write. Returns their number.

        A whole blob without a row stays: after the restore of an older database it may be the last copy of a part
        whose receipt let the clinic remove its own.
        """
        return self._blobs.remove_unfinished()

    def remove_blob(self, blob: Digest) -> None:
        """Take a blob that nothing names from the disk (`removed_blobs.take_page`); a missing one is no error."""
        self._blobs.remove(blob, "retention.blob")

    def named(self, blobs: Sequence[Digest]) -> frozenset[bytes]:
        """Those of these blobs that a row names."""
        query = select(objects.c.blob).where(objects.c.blob.in_(blobs)).distinct()
        with self._database.read() as connection:
            return frozenset(connection.scalars(query))

    def admit(self, site: SiteName, object: Digest, study: StudyKey, size: int) -> bytes | None:
        """As `IngestStore.admit`."""
        with self._database.read() as connection:
            known = statements.before(connection, site, study, object).one()
            if known.receipt is None:
                self._check(connection, site, study, size, known.urgent_asked is None)
                return None
        return self.stored_receipt(site, object)

    def put(self, part: OpenedPart, admitted: bool = False, found_here: bool = False) -> bytes:
        """Store a part: its blob first, then its rows and its signed receipt in one transaction, durable when this
        returns. Returns the receipt that counts: of an object that is stored already, the first one.

        admitted: `admit` was asked a moment ago. found_here: the hub had stored it before, so neither the site's access
        nor its limits count. Raises NotEnrolled for a revoked site, LimitReached, BadManifest for added files that are
        a study of their own, StudyErased for a study that was removed, HubBusy; nothing is then stored."""
        size = sealed_size(len(part.plaintext), part.header.chunk_log2)
        adds = isinstance(part.content, Manifest) and part.content.added is not None
        # Before its blob is written, which no row would name. One that is stored already mends a damaged blob.
        if not found_here and (adds or not admitted):
            with self._database.read() as connection:
                known = statements.before(connection, part.site, part.header.study, part.object).one()
                if known.receipt is None:
                    self._check_part(connection, part, size, known.urgent_asked is None)
        signed = self._put(part, size, found_here)
        if signed is None:
            # The blob was removed once: its row goes before the blob is written, so that nothing removes it again.
            with self._database.write(turn=part.site) as connection:
                write_again(connection, digest(part.plaintext), self._clock.now())
            signed = self._put(part, size, found_here)
        if signed is None:
            raise HubBusy("the same content was removed a moment ago")
        return signed

    def _put(self, part: OpenedPart, size: int, found_here: bool) -> bytes | None:
        """None, and nothing is stored, for a blob that was removed."""
        mine = {"site": part.site, "study": part.header.study}
        # Outside of a transaction: an object store may take long.
        blob = self._blobs.write(part.plaintext)
        self._step("store.put.before_commit")
        with self._database.write(turn=part.site) as connection:
            known = _known(connection, part, blob)
            if known.receipt is not None:
                return bytes(known.receipt)
            if known.removed == RemovedBlob.GONE:
                return None
            is_new = known.urgent_asked is None
            if not found_here:
                self._check_part(connection, part, size, is_new)
            refuse_erased(connection, part.site, part.header.study)
            at = self._clock.now()
            name_again(connection, blob, known.removed)
            if is_new:
                statements.add_study(connection, part.site, part.header.study, micros(at), part.urgent)
            count(connection, part.site, size, is_new and not found_here, at)
            if known.used_at is not None and not 0 <= micros(at) - known.used_at < _SAME_USE:
                statements.use_epoch(connection, part.site, part.header.epoch, micros(at))
            if part.urgent:
                self._make_urgent(connection, part.site, part.header.study)
            facts = place_detail(add_position(connection, part.site, part.object, at))
            receipt = Receipt(part.header.study, part.site, part.object, StudyStatus.STORED, at, facts)
            number, signed = add_receipt(connection, receipt, self._signing)
            row = {
                "object": part.object,
                "kind": int(part.header.kind),
                "blob": blob,
                "plain_size": len(part.plaintext),
                "sealed_size": size,
                "urgent": part.urgent,
                "stored_at": micros(at),
                "receipt": number,
            }
            connection.execute(statements.OBJECT, {**mine, **row})
            _add_facts(connection, mine, part.content)
            if known.requested:
                statements.answer_request(connection, part.site, part.header.study, row["kind"])
            keep(connection, part.site, part.header.study)
            added = part.content.added if isinstance(part.content, Manifest) else None
            if (base := known.base if added is None else base_of(connection, part.site, part.header.study)) is not None:
                announce(connection, part.site, base, at)
        self._step("store.put.committed")
        return signed

    def _check_part(self, connection: Connection, part: OpenedPart, size: int, is_new: bool) -> None:
        """As `_check`; and raises BadManifest."""
        self._check(connection, part.site, part.header.study, size, is_new)
        if isinstance(part.content, Manifest) and part.content.added is not None:
            check_added(connection, part.site, part.header.study, part.content.added)

    def _check(self, connection: Connection, site: SiteName, study: StudyKey, size: int, is_new: bool) -> None:
        """is_new: whether it is the study's first part. Raises NotEnrolled, StudyErased, LimitReached."""
        refuse_erased(connection, site, study)
        check_share(connection, site, size, is_new, self._quota, self._clock.now())

    def limits(self, site: SiteName) -> Mapping[Limit, int]:
        """The limits of a site."""
        with self._database.read() as connection:
            return limits_of(connection, site, self._quota)

    def check_room(self, site: SiteName, size: int) -> None:
        """As `IngestStore.check_room`."""
        with self._database.read() as connection:
            limits, used = limits_of(connection, site, self._quota), usage_of(connection, site, self._clock.now())
        check_room(used.bytes, size, limits[Limit.BYTES])

    def stored_receipt(self, site: SiteName, object: Digest) -> bytes | None:
        """As `IngestStore.stored_receipt`."""
        with self._database.read() as connection:
            known = _stored_receipt(connection, site, object)
            if known is None or _tells_its_place(connection, site, known):
                return known
        with self._database.write(turn=site) as connection:
            at = self._clock.now()
            study = connection.scalar(select(objects.c.study).where(_object(site, object)))
            if study is None:
                return None  # damaged since, and set aside
            facts = place_detail(add_position(connection, site, object, at))
            again = Receipt(StudyKey(study), site, object, StudyStatus.STORED, at, facts)
            number, signed = add_receipt(connection, again, self._signing)
            connection.execute(update(objects).where(_object(site, object)).values(receipt=number))
        return signed

    def history(self, site: SiteName) -> SiteHistory:
        """As `IngestStore.history`."""
        with self._database.read() as connection:
            return history_of(connection, site)

    def history_statement(self, site: SiteName) -> bytes | None:
        """The same, signed, for a clinic that is reached without a link; None where there is nothing to tell."""
        history = self.history(site)
        if history.backed_up is None and not history.past:
            return None
        facts = {
            "generation": history.generation.hex(),
            "position": history.position,
            "past": {each.hex(): position for each, position in history.past.items()},
            "backed_up": history.backed_up,
        }
        told = Receipt(NO_STUDY, site, None, StudyStatus.STORED, self._clock.now(), detail(facts))
        return sign_receipt(told, self._signing)

    def compare(self, site: SiteName, receipt: bytes, also: Callable[[Connection], object]) -> bool:
        """As `IngestStore.compare`. also: called in the transaction that begins a generation."""
        try:
            told = read_receipt(receipt, self._signing.public_key())
        except Forged:
            return False  # of another hub's key
        place, object = told.place, told.object
        if told.site != site or place is None or object is None:
            return False
        with self._database.read() as connection:
            if not is_behind(connection, site, place, object):
                return False
        self._step("store.generation.before_commit")
        with self._database.write() as connection:
            # Another session may have found the same.
            if behind := is_behind(connection, site, place, object):
                begin_generation(connection, "behind", self._clock.now(), (site, place))
                also(connection)
        self._step("store.generation.committed")
        return behind

    def undelivered_receipts(self, site: SiteName) -> list[bytes]:
        """As `IngestStore.undelivered_receipts`."""
        waiting = (receipts.c.site == site) & receipts.c.delivered_at.is_(None)
        with self._database.read() as connection:
            return list(connection.scalars(select(receipts.c.signed).where(waiting).order_by(receipts.c.number)))

    def receipts_after(self, site: SiteName, number: int, most: int) -> list[tuple[int, bytes]]:
        """As `IngestStore.receipts_after`."""
        waiting = (receipts.c.site == site) & receipts.c.delivered_at.is_(None) & (receipts.c.number > number)
        query = select(receipts.c.number, receipts.c.signed).where(waiting).order_by(receipts.c.number)
        with self._database.read() as connection:
            return [(row.number, row.signed) for row in connection.execute(query.limit(most))]

    def record_delivered(self, site: SiteName, *receipts: Digest) -> None:
        """As `IngestStore.record_delivered`."""
        at = micros(self._clock.now())
        with self._database.write(turn=site) as connection:
            statements.deliver.each(connection, ((site, each, at) for each in receipts))

    def requested_parts(self, site: SiteName) -> list[tuple[StudyKey, Kind]]:
        """As `IngestStore.requested_parts`."""
        asked = select(requests).where(requests.c.site == site).order_by(requests.c.at, requests.c.study)
        with self._database.read() as connection:
            rows = connection.execute(asked).all()
        # A later version may have asked for a kind that this one does not know.
        return [(StudyKey(row.study), Kind(row.kind)) for row in rows if row.kind in _KINDS]

    def request(self, site: SiteName, study: StudyKey, kind: Kind) -> None:
        """Store a reader's request of a tier; no effect if the tier is stored or was requested before. With the
        originals those of the files that were added to the study are requested. Raises NotEnrolled for a site that
        sends nothing more."""
        at = self._clock.now()
        with self._database.write(turn=site) as connection:
            check_served(connection, site)
            of = [study]
            if kind is Kind.ORIGINALS:
                of += [each.study for each in read_additions(connection, site, study)]
            for each in of:
                here = of_study(objects, site, each) & (objects.c.kind == int(kind))
                if connection.scalar(select(exists().where(here))):
                    continue
                row = {"site": site, "study": each, "kind": int(kind), "at": micros(at)}
                if connection.execute(insert_new(requests).values(row).on_conflict_do_nothing()).rowcount:
                    add_event(connection, site, study, StudyEvent.REQUESTED, at)

    def escalate(self, site: SiteName, study: StudyKey) -> bool:
        """As `IngestStore.escalate`: one transaction marks the study and deletes its predictions."""
        self._step("store.escalate.before_commit")
        with self._database.write(turn=site) as connection:
            check_served(connection, site)
            return not is_erased(connection, site, study) and self._make_urgent(connection, site, study)

    def _make_urgent(self, connection: Connection, site: SiteName, study: StudyKey) -> bool:
        """Mark a study as urgent and delete its predictions, so that inference runs again. False for an unknown
        study."""
        mine = of_study(studies, site, study)
        asked = connection.scalar(select(studies.c.urgent_asked).where(mine))
        if asked is False:
            connection.execute(update(studies).where(mine).values(urgent_asked=True))
            connection.execute(delete(predictions).where(of_study(predictions, site, study)))
            add_event(connection, site, study, StudyEvent.ESCALATED, self._clock.now())
            keep(connection, site, study)
        return asked is not None

    def untriaged(self, most: int | None = None) -> list[PendingGraph]:
        """As `waiting.untriaged`."""
        with self._database.read() as connection:
            return untriaged(connection, most)

    def take_untriaged(self, most: int, aside: Set[str]) -> AbstractContextManager[Claim[PendingGraph]]:
        """Claim graphs without a prediction for a block, in the order of `waiting.untriaged`. aside: items that are
        left out (`item_of`)."""
        return self.claims.take(
            PREDICT,
            lambda connection, free: _without(aside, untriaged(connection, most + len(aside), free), most),
            untriaged_rows,
        )

    def take_undrafted(self, most: int, aside: Set[str]) -> AbstractContextManager[Claim[PendingGraph]]:
        """Claim graphs without a draft, as `take_untriaged`."""
        return self.claims.take(
            DRAFT,
            lambda connection, free: _without(aside, undrafted(connection, most + len(aside), free), most),
            undrafted_rows,
        )

    def add_prediction(
        self, waiting: PendingGraph, prediction: StoredPrediction, claim: Claim[PendingGraph] | None = None
    ) -> bool:
        """As `add_predictions`, of one graph."""
        return bool(self.add_predictions([(waiting, prediction)], claim))

    def add_predictions(
        self, batch: Sequence[tuple[PendingGraph, StoredPrediction]], claim: Claim[PendingGraph] | None = None
    ) -> list[PendingGraph]:
        """Store predictions and their signed `triaged` receipts in one transaction; returns the graphs that got one.
        The others have a prediction, or became urgent during inference: then they still wait; or their study was
        removed. batch: of different studies. claim: of a graph, ends with its prediction."""
        ready = [(waiting, _prediction_row(waiting, each), self._triaged(waiting, each)) for waiting, each in batch]
        self._step("store.prediction.before_commit")
        with self._database.write(turn={waiting.site for waiting, _ in batch}) as connection:
            new = [each for each in ready if _wants_prediction(connection, each[0])]
            if new:
                connection.execute(statements.PREDICTION, [row for _, row, _ in new])
            add_receipts(connection, [told for _, _, told in new])
            done = [waiting for waiting, _, _ in new]
            keep_each(connection, [(each.site, each.study) for each in done])
            if claim is not None:
                claim.end(connection, *done)
        self._step("store.prediction.committed")
        return done

    def _triaged(self, waiting: PendingGraph, prediction: StoredPrediction) -> tuple[Receipt, bytes]:
        facts = prediction_detail(prediction)
        triaged = Receipt(waiting.study, waiting.site, None, StudyStatus.TRIAGED, prediction.at, facts)
        return triaged, sign_receipt(triaged, self._signing)

    def undrafted(self, most: int) -> list[PendingGraph]:
        """As `waiting.undrafted`."""
        with self._database.read() as connection:
            return undrafted(connection, most)

    def add_draft(self, waiting: PendingGraph, draft: bytes, claim: Claim[PendingGraph] | None = None) -> None:
        """Store the draft of a graph (docs/report-decoder.md); a later one is ignored, and one of a removed
        study. claim: ends with the draft."""
        at = self._clock.now()
        row = {"site": waiting.site, "study": waiting.study, "blob": waiting.blob, "draft": draft, "at": micros(at)}
        self._step("store.draft.before_commit")
        with self._database.write(turn=waiting.site) as connection:
            if is_erased(connection, waiting.site, waiting.study):
                return
            if connection.execute(insert_new(drafts).values(row).on_conflict_do_nothing()).rowcount:
                add_event(connection, waiting.site, waiting.study, StudyEvent.DRAFTED, at)
                keep(connection, waiting.site, waiting.study)
            if claim is not None:
                claim.end(connection, waiting)
        self._step("store.draft.committed")

    def decide(
        self,
        site: SiteName,
        study: StudyKey,
        addition: StudyKey,
        decision: Decision,
        patient: bytes | None,
        also: Callable[[Connection], object],
    ) -> None:
        """Store a person's decision on corrected files of a study. patient: of the study from now on, as
        `patient_of`. also: called in the same transaction. Raises UnknownStudy, DiskFull, HubBusy."""
        self._step("store.decision.before_commit")
        this = of_study(additions, site, addition) & (additions.c.base == study) & (additions.c.corrects != b"")
        with self._database.write(turn=site) as connection:
            if connection.execute(update(additions).where(this).values(decision=str(decision))).rowcount != 1:
                raise UnknownStudy("the study has no such corrected files")
            connection.execute(update(studies).where(of_study(studies, site, study)).values(patient=patient))
            announce(connection, site, study, self._clock.now())
            also(connection)
        self._step("store.decision.committed")

    def record_opened(self, site: SiteName, study: StudyKey) -> bool:
        """Record that a reader opened the study, and sign the receipt `opened`. False if it was opened before."""
        self._step("store.opened.before_commit")
        with self._database.write(turn=site) as connection:
            before = of_study(events, site, study) & (events.c.event == str(StudyEvent.OPENED))
            if connection.scalar(select(exists().where(before))):
                return False
            opened = Receipt(study, site, None, StudyStatus.OPENED, self._clock.now())
            add_receipt(connection, opened, self._signing)
            keep(connection, site, study)
        return True

    def add_report(self, report: Report, also: Callable[[Connection], object]) -> None:
        """Store a version of a report, the signed `read` receipt of a final one, and the rows of `also`: all or none.

        Raises ReportMoved if another version was stored in the meantime, BadInput for a text that fits no receipt.
        """
        row = {
            "site": report.site,
            "study": report.study,
            "version": report.version,
            "state": str(report.state),
            "text": report.text,
            "reader": report.reader,
            "reader_name": report.reader_name,
            "from_draft": report.from_draft,
            "at": micros(report.at),
        }
        self._step("store.report.before_commit")
        with self._database.write(turn=report.site) as connection:
            last = select(func.max(reports.c.version)).where(of_study(reports, report.site, report.study))
            if report.version != (connection.scalar(last) or 0) + 1:
                raise ReportMoved("the report was saved by somebody else meanwhile")
            connection.execute(insert(reports).values(row))
            if report.state is ReportState.FINAL:
                facts = report_detail(report)
                signed = Receipt(report.study, report.site, None, StudyStatus.REPORTED, report.at, facts)
                add_receipt(connection, signed, self._signing)
            else:
                event = StudyEvent.RELEASED if report.state is ReportState.PRELIMINARY else StudyEvent.SAVED
                add_event(connection, report.site, report.study, event, report.at)
            keep(connection, report.site, report.study)
            also(connection)
        self._step("store.report.committed")


_SAME_USE = 60 * 1_000_000
"""Microseconds in which the uses of an epoch count as one."""
_KINDS = frozenset(map(int, Kind))


def _without(aside: Set[str], found: Sequence[PendingGraph], most: int) -> list[PendingGraph]:
    return [each for each in found if item_of(each.site, each.study) not in aside][:most]


def _wants_prediction(connection: Connection, waiting: PendingGraph) -> bool:
    asked = statements.study_of(connection, waiting.site, waiting.study).one_or_none()
    if asked is None or asked.urgent_asked is not waiting.urgent_asked:
        return False
    if is_erased(connection, waiting.site, waiting.study):
        return False
    return statements.is_predicted(connection, waiting.site, waiting.study, waiting.blob).first() is None


def _prediction_row(waiting: PendingGraph, prediction: StoredPrediction) -> dict[str, Any]:
    return {
        "site": waiting.site,
        "study": waiting.study,
        "blob": waiting.blob,
        "bundle": prediction.bundle,
        "urgency": str(prediction.urgency),
        "reason": prediction.reason,
        "unfamiliar": prediction.unfamiliar,
        "findings": json.dumps({name: list(values) for name, values in prediction.findings.items()}),
        "at": micros(prediction.at),
    }


def _object(site: SiteName, object: Digest) -> ColumnElement[bool]:
    return and_(objects.c.site == site, objects.c.object == object)


def _known(connection: Connection, part: OpenedPart, blob: Digest) -> Row[Any]:
    header = part.header
    known = statements.known_of(connection, part.site, header.study, part.object, int(header.kind), header.epoch, blob)
    return known.one()


def _stored_receipt(connection: Connection, site: SiteName, object: Digest) -> bytes | None:
    signed: bytes | None = statements.receipt_of(connection, site, object).scalar()
    return signed


def _tells_its_place(connection: Connection, site: SiteName, signed: bytes) -> bool:
    """Whether the site can know by a receipt that the store has its object: it tells a place, of a part of the history
    that is still here."""
    with contextlib.suppress(Forged):  # damaged on the disk
        if (place := parse_receipt(signed).place) is None:
            return False
        history = history_of(connection, site)
        return place.generation == history.generation or place.position <= history.past.get(place.generation, 0)
    return False


def _add_facts(connection: Connection, mine: Mapping[str, Any], content: Content) -> None:
    """Store the facts of a part's content."""
    match content:
        case FusedGraph():
            facts = {
                "bundle": content.bundle,
                "text_source": str(content.text_source),
                "modality": content.modality,
                "view_position": content.view_position,
                "patches_kept": len(content.patches.cell),
                "patches_total": content.total_patches,
                "attention_kept": content.attention_kept,
            }
            statements.set_graph(connection, mine["site"], mine["study"], *facts.values())
        case Files():
            entries = [
                {**mine, "place": place, "digest": each, "size": size}
                for place, (each, size) in enumerate(content.entries)
            ]
            connection.execute(delete(files).where(of_study(files, mine["site"], mine["study"])))
            connection.execute(insert(files), entries)
        case Manifest():
            entries = [
                {**mine, "tier": int(tier.tier), "object": tier.digest, "plain_size": tier.plain_size}
                for tier in content.tiers
            ]
            if content.added is not None:
                add(connection, mine["site"], mine["study"], content.added)
            elif not is_corrected(connection, mine["site"], mine["study"]):
                statements.set_patient(connection, mine["site"], mine["study"], patient_of(content))
            statements.forget_listed(connection, mine["site"], mine["study"])
            if entries:
                connection.execute(statements.LISTED, entries)
