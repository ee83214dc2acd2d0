"""Sign-in by name and password, one-time links, sign-out. With an OpenID provider: `oidc.py`."""

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response

from thinwire.receiver.access.accounts import SHORTEST_PASSWORD
from thinwire.receiver.access.audit_message import Act, AuditOutcome
from thinwire.receiver.web.context import WebContext
from thinwire.receiver.web.device import LIFE
from thinwire.receiver.web.guard import CurrentContext, Posted, address_of, cookie
from thinwire.receiver.web.pages import page
from thinwire.receiver.web.rows import duration
from thinwire.shared.errors import BadInput

router = APIRouter()

_WRONG = "Name or password is wrong, or the account is closed."


@router.get("/sign-in")
def sign_in_page(request: Request, context: CurrentContext) -> Response:
    return page(request, "sign_in.html", error=None, name="", provider=context.provider is not None)


@router.post("/sign-in")
def sign_in(
    request: Request, context: CurrentContext, name: Annotated[str, Form()], password: Annotated[str, Form()]
) -> Response:
    name, address = name.strip().lower()[:64], address_of(request)
    device = context.devices.known(name, request.cookies.get(_device_cookie(context, name)))
    wait = context.attempts.wait(name, address, device)
    error, status = f"Too many tries. Try again in {duration(wait)}.", HTTPStatus.TOO_MANY_REQUESTS
    if not wait:
        account = context.accounts.check(name, password)
        if account is not None:
            context.attempts.succeeded(name, address, device)
            return remembered(context, enter(context, account.name, address), account.name)
        context.attempts.failed(name, address, device)
        error, status = _WRONG, HTTPStatus.UNAUTHORIZED
    # The typed name is not logged: it may be a password in the wrong field.
    known = name if any(each.name == name for each in context.accounts.all()) else "unknown"
    context.refusals.record(context.message(Act.SIGNED_IN, known, address, outcome=AuditOutcome.REFUSED))
    return page(request, "sign_in.html", status, error=error, name=name, provider=context.provider is not None)


def _device_cookie(context: WebContext, account: str) -> str:
    return f"{cookie(context)}-device-{context.devices.name(account)}"


def remembered(context: WebContext, answer: Response, account: str) -> Response:
    """The answer with the cookie that tells this browser from those of whoever guesses the account's password."""
    name, value = _device_cookie(context, account), context.devices.issue(account)
    answer.set_cookie(name, value, LIFE, path="/", secure=context.secure, httponly=True, samesite="strict")
    return answer


def enter(context: WebContext, name: str, address: str) -> Response:
    """A new session and a redirect to the worklist."""
    message = context.message(Act.SIGNED_IN, name, address)
    secret = context.accounts.start(name, context.also(message))
    answer = RedirectResponse("/", HTTPStatus.SEE_OTHER)
    answer.set_cookie(cookie(context), secret, path="/", secure=context.secure, httponly=True, samesite="strict")
    return answer


@router.post("/sign-out")
def sign_out(context: CurrentContext, here: Posted) -> Response:
    message = context.message(Act.SIGNED_OUT, here.account.name, here.address)
    context.accounts.end(here.secret, context.also(message))
    answer = RedirectResponse("/sign-in", HTTPStatus.SEE_OTHER)
    answer.delete_cookie(cookie(context), path="/", secure=context.secure, httponly=True, samesite="strict")
    return answer


@router.get("/welcome/{secret}")
def welcome_page(request: Request, context: CurrentContext, secret: str) -> Response:
    return _welcome(request, context, secret, None)


@router.post("/welcome/{secret}")
def welcome(
    request: Request,
    context: CurrentContext,
    secret: str,
    password: Annotated[str, Form()],
    again: Annotated[str, Form()],
    name: Annotated[str, Form()] = "",
    full_name: Annotated[str, Form()] = "",
) -> Response:
    """Set the password of a one-time link's account, and sign in."""
    address = address_of(request)
    if wait := context.attempts.wait(None, address):
        return _welcome(request, context, secret, f"Too many tries. Try again in {duration(wait)}.")
    valid, account_name = context.accounts.invited(secret)
    if not valid:
        context.attempts.failed(None, address)
    elif password != again:
        return _welcome(request, context, secret, "The two passwords differ.", name, full_name)
    who = account_name or name.strip().lower()
    message = context.message(Act.PASSWORD_SET, who, address, account=who)
    try:
        name = context.accounts.accept(secret, password, who, full_name, context.also(message))
    except BadInput as error:
        return _welcome(request, context, secret, f"{str(error).capitalize()}. {error.remedy}", name, full_name)
    return remembered(context, enter(context, name, address), name)


def _welcome(
    request: Request, context: WebContext, secret: str, error: str | None, name: str = "", full_name: str = ""
) -> Response:
    valid, account_name = context.accounts.invited(secret)
    status = HTTPStatus.OK if valid and not error else HTTPStatus.BAD_REQUEST if valid else HTTPStatus.NOT_FOUND
    facts: dict[str, Any] = {"valid": valid, "account_name": account_name, "error": error, "name": name}
    return page(
        request, "welcome.html", status, secret=secret, shortest=SHORTEST_PASSWORD, full_name=full_name, **facts
    )
