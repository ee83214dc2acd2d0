"""The history of predictions: what each bundle said of each graph, beside the one that the worklist shows.

`predict-archive` adds to it. A prediction that is replaced on the worklist goes there too, so that none is lost. Table:
docs/store-format.md.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    Table,
    and_,
    func,
    or_,
    select,
    update,
)

from thinwire.receiver.inference.triage import triage
from thinwire.receiver.store.events import add_receipt
from thinwire.receiver.store.newest_graphs import BEGIN, Place, after, newest_blob
from thinwire.receiver.store.queries import of_study
from thinwire.receiver.store.records import PendingGraph, StoredPrediction, prediction_detail
from thinwire.receiver.store.stored_studies import prediction_of
from thinwire.receiver.store.tables import bundle_predictions, drafts, objects, predictions, studies, worklist
from thinwire.receiver.store.worklist_rows import ReadingState, keep
from thinwire.shared.clock import Clock
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.formats.positional import micros
from thinwire.shared.formats.receipts import Receipt, StudyStatus
from thinwire.shared.identifiers import BundleId, Digest, SiteName, StudyKey
from thinwire.shared.storage.database import Database, insert_new


@dataclass(frozen=True)
class ArchivePage:
    """Studies in the order of site and key."""

    last: Place
    """The next page begins after it."""
    passed: int
    """Studies of the page, with those that have no graph or need nothing."""
    graphs: tuple[PendingGraph, ...]
    """The newest graph of each study that a bundle has not predicted."""


@dataclass(frozen=True)
class BundlePrediction:
    """One bundle's prediction from a graph."""

    graph: PendingGraph
    prediction: StoredPrediction
    draft: bytes | None
    """As `drafts.draft`."""


class BundlePredictions:
    """Safe from any thread and process. signing: the hub's key."""

    def __init__(
        self, database: Database, step: Callable[[str], None], signing: Ed25519PrivateKey, clock: Clock
    ) -> None:
        self._database = database
        self._step = step
        self._signing = signing
        self._clock = clock

    def graphs_by_bundle(self) -> dict[BundleId, int]:
        """The number of studies by the bundle of their newest graph."""
        query = select(studies.c.bundle, func.count()).where(studies.c.bundle.is_not(None)).group_by(studies.c.bundle)
        with self._database.read() as connection:
            return {BundleId(bundle): count for bundle, count in connection.execute(query)}

    def page(self, place: Place, reader: BundleId, readable: Set[BundleId], drafted: bool) -> ArchivePage | None:
        """The page after a place; None after the last one. reader: the bundle whose predictions are wanted. readable:
        bundles whose graphs it reads. drafted: whether its draft is wanted too.

        One query of PAGE rows by the primary key: it costs the same in the first study and in the last of millions.
        """
        here = after(place).subquery()
        said, shown = bundle_predictions, predictions

        def joined(table: Table) -> ColumnElement[bool]:
            same = and_(table.c.site == here.c.site, table.c.study == here.c.study, table.c.blob == here.c.blob)
            return and_(same, table.c.bundle == reader)

        known = said.c.draft.is_not(None) if drafted else or_(said.c.at.is_not(None), shown.c.at.is_not(None))
        query = (
            select(here, known.label("known"))
            .select_from(here.outerjoin(said, joined(said)).outerjoin(shown, joined(shown)))
            .order_by(here.c.site, here.c.study)
        )
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        if not rows:
            return None
        return ArchivePage(
            (rows[-1].site, rows[-1].study),
            sum(row.bundle in readable for row in rows),
            tuple(
                PendingGraph(SiteName(row.site), StudyKey(row.study), Digest(row.blob), row.urgent_asked)
                for row in rows
                if row.bundle in readable and row.blob is not None and not row.known
            ),
        )

    def add(self, found: Sequence[BundlePrediction]) -> int:
        """Store predictions, in one transaction for each site, and return the number that is new. Idempotent: the first
        prediction of a bundle from a graph stays, and gets a draft where it had none. Those of a graph that was erased
        in the meantime are left out."""
        added = 0
        by_site = sorted(found, key=lambda each: each.graph.site)
        for site, group in groupby(by_site, key=lambda each: each.graph.site):
            rows = [_row(each) for each in group]
            self._step("store.bundle_predictions.before_commit")
            with self._database.write(turn=site) as connection:
                here = select(objects.c.study, objects.c.blob).where(objects.c.site == site)
                of_these = objects.c.study.in_([row["study"] for row in rows]) & (objects.c.kind == int(Kind.GRAPH))
                kept = {tuple(each) for each in connection.execute(here.where(of_these))}
                if stays := [row for row in rows if (row["study"], row["blob"]) in kept]:
                    _add(connection, stays)
                    added += len(stays)
            self._step("store.bundle_predictions.committed")
        return added

    def of_study(self, site: SiteName, study: StudyKey) -> list[StoredPrediction]:
        """The predictions from the study's newest graph that the worklist does not show, oldest first."""
        graph = of_study(objects, site, study) & (objects.c.kind == int(Kind.GRAPH))
        newest = select(objects.c.blob).where(graph).order_by(objects.c.number.desc()).limit(1).scalar_subquery()
        shown = select(predictions.c.bundle).where(
            of_study(predictions, site, study), predictions.c.blob == bundle_predictions.c.blob
        )
        query = select(bundle_predictions).where(
            of_study(bundle_predictions, site, study),
            bundle_predictions.c.blob == newest,
            bundle_predictions.c.bundle.not_in(shown),
        )
        with self._database.read() as connection:
            return [prediction_of(row) for row in connection.execute(query.order_by(bundle_predictions.c.at))]

    def show_all(self, bundle: BundleId) -> Iterator[tuple[int, int]]:
        """Make a bundle's predictions those of the worklist, for the studies that nobody has opened or reported on.
        Yields after each page (studies passed so far, changed in the page).

        One transaction for each site of a page. The prediction and the draft that were shown go to the history. The
        urgency is computed again, as the clinic may have asked for urgency since. Each change has its signed receipt
        `triaged`, as the first prediction had, so that the clinic shows the urgency that the hub shows.
        """
        place, passed = BEGIN, 0
        while keys := self._keys(place):
            changed = 0
            for site, group in groupby(keys, key=lambda key: key[0]):
                its = [study for _, study in group]
                query = _replaceable(bundle, site, its[0], its[-1])
                with self._database.read() as connection:
                    if connection.execute(query.limit(1)).first() is None:
                        continue
                self._step("store.bundle_predictions.before_show")
                with self._database.write(turn=site) as connection:
                    for row in connection.execute(query).all():
                        self._replace(connection, row)
                        changed += 1
                self._step("store.bundle_predictions.shown")
            place, passed = keys[-1], passed + len(keys)
            yield passed, changed

    def _keys(self, place: Place) -> list[Place]:
        with self._database.read() as connection:
            rows = connection.execute(after(place)).all()
        return [(row.site, row.study) for row in rows]

    def _replace(self, connection: Connection, row: Row[Any]) -> None:
        """row: of `_replaceable`."""
        site, study, at = SiteName(row.site), StudyKey(row.study), self._clock.now()
        here = and_(of_study(predictions, site, study), predictions.c.blob == row.blob)
        before = connection.execute(select(predictions).where(here)).one()._asdict()
        draft = select(drafts.c.draft).where(of_study(drafts, site, study), drafts.c.blob == row.blob)
        _add(connection, [{**before, "draft": connection.scalar(draft)}])
        known = prediction_of(row)
        outcome = triage(known, row.urgent_asked)
        shown = StoredPrediction(known.findings, outcome.urgency, outcome.reason, known.unfamiliar, known.bundle, at)
        connection.execute(update(predictions).where(here).values(**_values(shown)))
        if row.draft is not None:
            written = {"draft": row.draft, "at": micros(at)}
            new = insert_new(drafts).values(site=site, study=study, blob=row.blob, **written)
            connection.execute(new.on_conflict_do_update(index_elements=["site", "study", "blob"], set_=written))
        told = Receipt(study, site, None, StudyStatus.TRIAGED, at, prediction_detail(shown))
        add_receipt(connection, told, self._signing)
        keep(connection, site, study)


def _replaceable(bundle: BundleId, site: str, first: bytes, last: bytes) -> Select[Any]:
    """Unread studies of a site, from the first key to the last, whose newest graph has a prediction of this bundle, and
    another one on the worklist."""
    said, shown = bundle_predictions, predictions
    same = and_(said.c.site == studies.c.site, said.c.study == studies.c.study)
    on_list = and_(shown.c.site == said.c.site, shown.c.study == said.c.study, shown.c.blob == said.c.blob)
    listed = and_(worklist.c.site == studies.c.site, worklist.c.study == studies.c.study)
    return (
        select(said, studies.c.urgent_asked)
        .select_from(studies)
        .join(said, same)
        .join(shown, on_list)
        .join(worklist, listed)
        .where(
            said.c.site == site,
            said.c.study >= first,
            said.c.study <= last,
            said.c.bundle == bundle,
            shown.c.bundle != bundle,
            said.c.blob == newest_blob(studies),
            worklist.c.state == int(ReadingState.NEW),
        )
    )


def _add(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    new = insert_new(bundle_predictions)
    kept = {"draft": func.coalesce(bundle_predictions.c.draft, new.excluded.draft)}
    keys = ["site", "study", "blob", "bundle"]
    connection.execute(new.on_conflict_do_update(index_elements=keys, set_=kept), [dict(row) for row in rows])


def _row(each: BundlePrediction) -> dict[str, Any]:
    graph = each.graph
    mine = {"site": graph.site, "study": graph.study, "blob": graph.blob}
    return {**mine, **_values(each.prediction), "draft": each.draft}


def _values(prediction: StoredPrediction) -> dict[str, Any]:
    return {
        "bundle": prediction.bundle,
        "urgency": str(prediction.urgency),
        "reason": prediction.reason,
        "unfamiliar": prediction.unfamiliar,
        "findings": json.dumps({name: list(values) for name, values in prediction.findings.items()}),
        "at": micros(prediction.at),
    }
