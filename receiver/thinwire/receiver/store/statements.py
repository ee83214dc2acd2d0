"""The statements with which an object and a prediction are stored: built once, since they are executed for each."""

from typing import Any

from sqlalchemy import ColumnElement, Delete, Insert, Select, Update, delete, exists, insert, select, update

from thinwire.receiver.store.queries import of_study
from thinwire.receiver.store.tables import (
    additions,
    epoch_uses,
    listed,
    objects,
    predictions,
    receipts,
    removed_blobs,
    requests,
    studies,
)
from thinwire.shared.storage.database import prepared

OBJECT, LISTED, PREDICTION = insert(objects), insert(listed), insert(predictions)


@prepared
def receipt_of(site: Any, object: Any) -> Select[Any]:
    return _receipt_of(site, object)


def _receipt_of(site: Any, object: Any) -> Select[Any]:
    signed = select(receipts.c.signed).join(objects, objects.c.receipt == receipts.c.number)
    return signed.where(objects.c.site == site, objects.c.object == object)


@prepared
def before(site: Any, study: Any, object: Any) -> Select[Any]:
    """As `known_of`, the first two columns."""
    return select(*_before(site, study, object))


def _before(site: Any, study: Any, object: Any) -> list[ColumnElement[Any]]:
    asked = select(studies.c.urgent_asked).where(of_study(studies, site, study))
    return [
        _receipt_of(site, object).scalar_subquery().label("receipt"),
        asked.scalar_subquery().label("urgent_asked"),
    ]


@prepared
def known_of(site: Any, study: Any, object: Any, kind: Any, epoch: Any, blob: Any) -> Select[Any]:
    """One row of what the hub has before it stores a part: the `receipt` of the same object; `urgent_asked` of the
    study and the `base` to which it is added; whether its kind is `requested`; when the epoch was `used_at`; the state
    of the blob among the `removed`. None for what there is not."""
    return select(
        *_before(site, study, object),
        select(additions.c.base).where(of_study(additions, site, study)).scalar_subquery().label("base"),
        exists().where(of_study(requests, site, study), requests.c.kind == kind).label("requested"),
        select(epoch_uses.c.used_at)
        .where(epoch_uses.c.site == site, epoch_uses.c.epoch == epoch)
        .scalar_subquery()
        .label("used_at"),
        select(removed_blobs.c.state).where(removed_blobs.c.blob == blob).scalar_subquery().label("removed"),
    )


@prepared
def study_of(site: Any, study: Any) -> Select[Any]:
    return select(studies.c.urgent_asked).where(of_study(studies, site, study))


@prepared
def is_predicted(site: Any, study: Any, blob: Any) -> Select[Any]:
    return select(predictions.c.blob).where(of_study(predictions, site, study), predictions.c.blob == blob)


@prepared
def add_study(site: Any, study: Any, at: Any, urgent: Any) -> Insert:
    return insert(studies).values(site=site, study=study, received_at=at, urgent_asked=urgent)


@prepared
def set_graph(
    site: Any,
    study: Any,
    bundle: Any,
    text_source: Any,
    modality: Any,
    view_position: Any,
    kept: Any,
    total: Any,
    attention: Any,
) -> Update:
    facts = {"bundle": bundle, "text_source": text_source, "modality": modality, "view_position": view_position}
    facts |= {"patches_kept": kept, "patches_total": total, "attention_kept": attention}
    return update(studies).where(of_study(studies, site, study)).values(facts)


@prepared
def set_patient(site: Any, study: Any, patient: Any) -> Update:
    return update(studies).where(of_study(studies, site, study)).values(patient=patient)


@prepared
def forget_listed(site: Any, study: Any) -> Delete:
    return delete(listed).where(of_study(listed, site, study))


@prepared
def use_epoch(site: Any, epoch: Any, at: Any) -> Update:
    return update(epoch_uses).where(epoch_uses.c.site == site, epoch_uses.c.epoch == epoch).values(used_at=at)


@prepared
def deliver(site: Any, receipt: Any, at: Any) -> Update:
    this = (receipts.c.site == site) & (receipts.c.digest == receipt) & receipts.c.delivered_at.is_(None)
    return update(receipts).where(this).values(delivered_at=at)


@prepared
def answer_request(site: Any, study: Any, kind: Any) -> Delete:
    return delete(requests).where(of_study(requests, site, study), requests.c.kind == kind)
