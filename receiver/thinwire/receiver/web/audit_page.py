"""The audit log for administrators: the newest messages."""

from dataclasses import dataclass
from typing import Annotated
from xml.etree import ElementTree

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from thinwire.receiver.access.audit import AuditEntry
from thinwire.receiver.access.audit_message import Act
from thinwire.receiver.web.guard import Administrator, CurrentContext
from thinwire.receiver.web.pages import page

router = APIRouter()

PAGE = 100


@dataclass(frozen=True)
class AuditRow:
    """One message as text."""

    number: int
    at: str
    event: str
    user: str
    address: str
    object: str
    failed: bool


@router.get("/audit")
def audit_page(
    request: Request, context: CurrentContext, here: Administrator, before: Annotated[int | None, Query(ge=1)] = None
) -> Response:
    if before is None:
        context.audit.record(context.message(Act.AUDIT_READ, here.account.name, here.address))
    entries = context.audit.newest(before, PAGE)
    more = entries[-1].number if entries and entries[-1].number > 1 else None
    return page(request, "audit.html", here=here, rows=[audit_row(each) for each in entries], more=more)


def audit_row(entry: AuditEntry) -> AuditRow:
    root = ElementTree.fromstring(entry.message)  # written by this hub, from its own database
    event, who = root.find("EventIdentification"), root.find("ActiveParticipant")
    codes = [] if event is None else [each.get("originalText", "") for each in event if each.get("originalText")]
    detail = "" if event is None else event.findtext("EventOutcomeDescription", "")
    objects = [each.get("ParticipantObjectID", "") for each in root.findall("ParticipantObjectIdentification")]
    return AuditRow(
        entry.number,
        entry.at.strftime("%Y-%m-%d %H:%M:%S"),
        ": ".join([*(codes[-1:] or [""]), *([detail] if detail else [])]),
        "" if who is None else who.get("UserID", ""),
        "" if who is None else who.get("NetworkAccessPointID", ""),
        ", ".join(objects),
        event is not None and event.get("EventOutcomeIndicator") != "0",
    )
