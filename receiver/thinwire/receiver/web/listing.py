"""The worklist page, its rows alone, search, and the stream of events."""

import asyncio
from collections.abc import AsyncIterable
from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from thinwire.receiver.access.audit_message import Act
from thinwire.receiver.store.worklist import worklist
from thinwire.receiver.web.context import WebContext
from thinwire.receiver.web.guard import BackgroundRequest, CurrentContext, Posted, SignedIn, SignInNeeded, still_here
from thinwire.receiver.web.pages import page
from thinwire.receiver.web.rows import STATES, Filter, WorklistPage, filter_of, search, worklist_page
from thinwire.shared.identifiers import Urgency

router = APIRouter()

POLL_SECONDS = 1.0
"""Seconds between two queries of the database for an open page's event stream."""
_LONGEST_SEARCH = 200

QueryText = Annotated[str, Query(max_length=64)]


def _chosen(
    context: WebContext, state: str, urgency: str, site: str, number: int
) -> tuple[Filter, WorklistPage, list[str]]:
    now = context.clock.now()
    rows = worklist(context.store.studies(), now, context.cap)
    sites = context.hub.enrolment.site_names()
    chosen = filter_of(state, urgency, site, number, sites)
    return chosen, worklist_page(rows, chosen, context.links(), now, context.cap), [str(each) for each in sites]


@router.get("/")
def list_page(
    request: Request,
    context: CurrentContext,
    here: SignedIn,
    state: QueryText = "",
    urgency: QueryText = "",
    site: QueryText = "",
    page_: Annotated[int, Query(alias="page", ge=1, le=100_000)] = 1,
) -> Response:
    chosen, shown, sites = _chosen(context, state, urgency, site, page_)
    context.record_access(here.account, here.address, Act.LISTED, None, by_user=True)
    facts: dict[str, Any] = {"filter": chosen, "page": shown, "sites": sites, "states": STATES, "query": None}
    return page(request, "list.html", here=here, urgencies=[str(each) for each in Urgency], **facts)


@router.get("/rows")
def rows(
    request: Request,
    context: CurrentContext,
    here: BackgroundRequest,
    state: QueryText = "",
    urgency: QueryText = "",
    site: QueryText = "",
    page_: Annotated[int, Query(alias="page", ge=1, le=100_000)] = 1,
) -> Response:
    """The rows alone, for a page that is open."""
    chosen, shown, _ = _chosen(context, state, urgency, site, page_)
    context.record_access(here.account, here.address, Act.LISTED, None, by_user=False)
    return page(request, "rows.html", here=here, filter=chosen, query=None, **{"page": shown})


@router.post("/search")
def found(request: Request, context: CurrentContext, here: Posted, query: Annotated[str, Form()] = "") -> Response:
    """Search. The query may be a patient's number, so it is sent in a form and not in the address."""
    now, query = context.clock.now(), query.strip()[:_LONGEST_SEARCH]
    shown = search(worklist(context.store.studies(), now, context.cap), query, context.links(), now, context.cap)
    context.record_access(here.account, here.address, Act.LISTED, None, by_user=True)
    facts: dict[str, Any] = {"filter": Filter(), "page": shown, "sites": [], "states": STATES, "query": query}
    return page(request, "list.html", here=here, urgencies=[str(each) for each in Urgency], **facts)


@router.get("/events", response_class=EventSourceResponse)
async def events(request: Request, context: CurrentContext, _here: BackgroundRequest) -> AsyncIterable[ServerSentEvent]:
    """`list` when the worklist has changed, `progress` during a transfer."""
    before: tuple[object, ...] | None = None
    while True:
        try:
            await asyncio.to_thread(still_here, request, context)
        except SignInNeeded:
            yield ServerSentEvent(event="ended", data="")
            return
        stamp, transferring = await asyncio.to_thread(_poll, context)
        if before is not None and stamp != before:
            yield ServerSentEvent(event="list", data="")
        elif transferring:
            yield ServerSentEvent(event="progress", data="")
        before = stamp
        await asyncio.sleep(POLL_SECONDS)


def _poll(context: WebContext) -> tuple[tuple[object, ...], bool]:
    links = context.links()
    connected = tuple(site for site, link in sorted(links.items()) if link.connected)
    return (context.store.last_event(), connected), any(link.arriving for link in links.values())
