"""The statements with which an object and a prediction are stored: built once, since they are executed for each."""

from typing import Any

from sqlalchemy import Delete, Insert, Select, Update, delete, insert, select, update

from thinwire.receiver.store.queries import of_study
from thinwire.receiver.store.tables import epoch_uses, listed, objects, predictions, receipts, requests, studies
from thinwire.shared.storage.database import insert_new, prepared

OBJECT, LISTED = insert(objects), insert(listed)
PREDICTION = insert_new(predictions).on_conflict_do_nothing()


@prepared
def receipt_of(site: Any, object: Any) -> Select[Any]:
    signed = select(receipts.c.signed).join(objects, objects.c.receipt == receipts.c.number)
    return signed.where(objects.c.site == site, objects.c.object == object)


@prepared
def study_of(site: Any, study: Any) -> Select[Any]:
    return select(studies.c.urgent_asked).where(of_study(studies, site, study))


@prepared
def add_study(site: Any, study: Any, at: Any, urgent: Any) -> Insert:
    row = insert_new(studies).values(site=site, study=study, received_at=at, urgent_asked=urgent)
    return row.on_conflict_do_nothing()


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
def answer_request(site: Any, study: Any, kind: Any) -> Delete:
    return delete(requests).where(of_study(requests, site, study), requests.c.kind == kind)
