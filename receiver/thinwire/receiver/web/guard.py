"""Authorisation of requests: session, role and form key. Size and origin: `thinwire.shared.web`."""

from dataclasses import dataclass, field
from typing import Annotated, Any, cast

from fastapi import Depends, Form, Request

from thinwire.receiver.access.accounts import Account, Role, Session
from thinwire.receiver.access.audit_message import Act, AuditOutcome
from thinwire.receiver.web.context import WebContext

MOST_POSTED = 128 << 10
"""Bytes of a form; the longest holds a report."""


class SignInNeeded(Exception):
    """Nobody is signed in, or the session has ended."""


class NotAllowed(Exception):
    """The role does not allow the request. `str`: the needed role."""


@dataclass(frozen=True)
class Requester:
    """The session and the network address of a request."""

    session: Session
    address: str
    secret: str = field(repr=False)

    @property
    def account(self) -> Account:
        return self.session.account

    @property
    def is_reader(self) -> bool:
        return self.account.role is Role.READER


def context_of(request: Request) -> WebContext:
    return cast(WebContext, request.app.state.context)


def cookie(context: WebContext) -> str:
    """The cookie's name; with the prefix __Host- a browser accepts it only from this host by HTTPS (RFC 6265bis)."""
    return "__Host-thinwire" if context.secure else "thinwire"


def address_of(request: Request) -> str:
    return request.client.host if request.client else ""


def _here(request: Request, context: WebContext, touch: bool) -> Requester:
    secret = request.cookies.get(cookie(context), "")
    session = context.accounts.session(secret, touch) if secret else None
    if session is None:
        raise SignInNeeded
    return Requester(session, address_of(request), secret)


CurrentContext = Annotated[WebContext, Depends(context_of)]


def signed_in(request: Request, context: CurrentContext) -> Requester:
    return _here(request, context, touch=True)


def still_here(request: Request, context: CurrentContext) -> Requester:
    """For automatic requests of an open page: they do not extend the session."""
    return _here(request, context, touch=False)


SignedIn = Annotated[Requester, Depends(signed_in)]
BackgroundRequest = Annotated[Requester, Depends(still_here)]


def posted(here: SignedIn, form_key: Annotated[str, Form()] = "") -> Requester:
    if form_key != here.session.form_key:
        raise NotAllowed("The form is from another session. Go back, load the page again, and repeat.")
    return here


Posted = Annotated[Requester, Depends(posted)]


def reader(request: Request, context: CurrentContext, here: Posted) -> Requester:
    """For requests that need the role reader; a refused one is logged."""
    if not here.is_reader:
        refused(request, context, here)
        raise NotAllowed("This needs the role reader. Sign in with a reader's account.")
    return here


def administrator(request: Request, context: CurrentContext, here: SignedIn) -> Requester:
    if here.account.role is not Role.ADMINISTRATOR:
        refused(request, context, here)
        raise NotAllowed("This needs the role administrator.")
    return here


def refused(request: Request, context: WebContext, here: Requester) -> None:
    route: Any = request.scope.get("route")
    detail = f"{request.method} {getattr(route, 'path', '')}: not allowed for {here.account.role}"
    message = context.message(Act.LISTED, here.account.name, here.address, outcome=AuditOutcome.REFUSED, detail=detail)
    context.refusals.record(message)


Reader = Annotated[Requester, Depends(reader)]
Administrator = Annotated[Requester, Depends(administrator)]
