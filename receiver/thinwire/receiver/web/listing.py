"""The worklist page, its rows alone, search, and the stream of events."""

from collections.abc import AsyncIterable
from typing import Annotated, Any, cast

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from thinwire.receiver.access.accounts import Role
from thinwire.receiver.access.audit_message import Act
from thinwire.receiver.store.worklist_order import ListState
from thinwire.receiver.transport import link_status
from thinwire.receiver.web.context import WebContext
from thinwire.receiver.web.guard import BackgroundRequest, CurrentContext, Posted, SignedIn
from thinwire.receiver.web.live import ENDED, SharedRows, Watcher
from thinwire.receiver.web.pages import page
from thinwire.receiver.web.rows import Filter, WorklistPage, filter_of, search_page, worklist_page
from thinwire.shared.identifiers import SiteName, Urgency

router = APIRouter()

_LONGEST_SEARCH = 200

QueryText = Annotated[str, Query(max_length=160)]


def _sites(context: WebContext) -> list[SiteName]:
    return list(context.hub.enrolment.site_names())


def _shown(context: WebContext, chosen: Filter) -> WorklistPage:
    return worklist_page(context.hub.worklist, chosen, context.links(), context.clock.now(), context.cap)


@router.get("/")
def list_page(
    request: Request,
    context: CurrentContext,
    here: SignedIn,
    state: QueryText = "",
    urgency: QueryText = "",
    site: QueryText = "",
    after: QueryText = "",
    before: QueryText = "",
) -> Response:
    sites = _sites(context)
    chosen = filter_of(state, urgency, site, after, before, sites)
    shown = _shown(context, chosen)
    context.record_access(here.account, here.address, Act.LISTED, None, by_user=True)
    facts = {"filter": chosen, "page": shown, "sites": [str(each) for each in sites], "query": None}
    parked = context.store.parked.counts() if here.account.role is Role.ADMINISTRATOR else {}
    return page(request, "list.html", here=here, parked=parked, **facts, **_CHOICES)


@router.get("/rows")
def rows(
    request: Request,
    context: CurrentContext,
    here: BackgroundRequest,
    state: QueryText = "",
    urgency: QueryText = "",
    site: QueryText = "",
    after: QueryText = "",
    before: QueryText = "",
) -> Response:
    """The rows alone, for a page that is open; the same for everybody who shows this list."""
    chosen = filter_of(state, urgency, site, after, before, _sites(context))
    context.record_access(here.account, here.address, Act.LISTED, None, by_user=False)

    def make() -> bytes:
        return bytes(page(request, "rows.html", filter=chosen, query=None, page=_shown(context, chosen)).body)

    stamp = context.store.event_stamp(), link_status.stamp(context.hub.data)
    shared: SharedRows = request.app.state.shared_rows
    return HTMLResponse(shared.rows(chosen, stamp, make))


@router.post("/search")
def found(request: Request, context: CurrentContext, here: Posted, query: Annotated[str, Form()] = "") -> Response:
    """Search. The query may be a patient's number, so it is sent in a form and not in the address."""
    query = query.strip()[:_LONGEST_SEARCH]
    shown = search_page(context.hub.worklist, query, context.links(), context.clock.now(), context.cap)
    context.record_access(here.account, here.address, Act.LISTED, None, by_user=True)
    facts = {"filter": Filter(), "page": shown, "sites": [], "query": query, "parked": {}}
    return page(request, "list.html", here=here, **facts, **_CHOICES)


_CHOICES: dict[str, Any] = {
    "states": [str(each) for each in ListState],
    "urgencies": [str(each) for each in Urgency],
}


@router.get("/events", response_class=EventSourceResponse)
async def events(request: Request, here: BackgroundRequest) -> AsyncIterable[ServerSentEvent]:
    """The events of `OpenPage.event`."""
    watcher = cast(Watcher, request.app.state.watcher)
    with watcher.open(here.secret) as open_page:
        event = ""
        while event != ENDED:
            event = await open_page.event()
            yield ServerSentEvent(event=event, data="")
