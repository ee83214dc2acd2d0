"""The reading room as a web application: routes, error pages and limits. Use: docs/radiologist.md."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from http import HTTPStatus
from pathlib import Path

from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from thinwire.receiver.web import audit_page, listing, sign_in, study
from thinwire.receiver.web.context import WebContext
from thinwire.receiver.web.guard import MOST_POSTED, NotAllowed, SignInNeeded
from thinwire.receiver.web.live import SharedRows, Watcher
from thinwire.receiver.web.oidc import add_provider
from thinwire.receiver.web.pages import page
from thinwire.shared.errors import (
    BadInput,
    NotEnrolled,
    ReportMoved,
    ReportSigned,
    Retryable,
    StudyErased,
    ThinwireError,
    UnknownStudy,
    as_ours,
)
from thinwire.shared.heartbeats import beat
from thinwire.shared.web import Guard

log = logging.getLogger(__name__)

FOLDER = Path(__file__).parent

THREADS = 8
"""Limit of pages that are made in parallel, so that inference keeps memory and processor time."""

_STATUS_OF: tuple[tuple[type[ThinwireError], HTTPStatus], ...] = (
    (UnknownStudy, HTTPStatus.NOT_FOUND),
    (StudyErased, HTTPStatus.GONE),
    (ReportSigned, HTTPStatus.CONFLICT),
    (ReportMoved, HTTPStatus.CONFLICT),
    (BadInput, HTTPStatus.BAD_REQUEST),
    (NotEnrolled, HTTPStatus.CONFLICT),
    (Retryable, HTTPStatus.SERVICE_UNAVAILABLE),
)


def status_of(error: ThinwireError) -> HTTPStatus:
    found = (status for kind, status in _STATUS_OF if isinstance(error, kind))
    return next(found, HTTPStatus.INTERNAL_SERVER_ERROR)


def make_app(context: WebContext) -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=_running)
    app.state.context = context
    app.state.shared_rows = SharedRows(context.clock.monotonic)
    if context.provider is not None:
        add_provider(app, context, context.provider)
    app.add_middleware(
        Guard, most_posted=MOST_POSTED, hosts=context.hosts, origin=context.origin, secure=context.secure
    )
    app.mount("/static", StaticFiles(directory=FOLDER / "static"), name="static")
    app.include_router(sign_in.router)
    app.include_router(listing.router)
    app.include_router(study.router)
    app.include_router(audit_page.router)
    app.add_exception_handler(SignInNeeded, _sign_in)
    app.add_exception_handler(NotAllowed, _not_allowed)
    app.add_exception_handler(ThinwireError, _known)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _wrong)
    return app


@asynccontextmanager
async def _running(app: FastAPI) -> AsyncIterator[None]:
    current_default_thread_limiter().total_tokens = THREADS
    context: WebContext = app.state.context
    with closing(Watcher(context)) as app.state.watcher:
        watching = asyncio.create_task(app.state.watcher.run())
        beating = asyncio.create_task(beat(context.hub.heartbeats, "reading room"))
        yield
        for task in (watching, beating):
            task.cancel()
        await asyncio.gather(watching, beating, return_exceptions=True)


def _sign_in(request: Request, _error: Exception) -> Response:
    if request.method == "GET" and request.headers.get("sec-fetch-mode", "navigate") == "navigate":
        return RedirectResponse("/sign-in", HTTPStatus.SEE_OTHER)
    return _error_page(
        request, HTTPStatus.UNAUTHORIZED, "You are not signed in.", "Your session has ended: sign in again."
    )


def _not_allowed(request: Request, error: Exception) -> Response:
    return _error_page(request, HTTPStatus.FORBIDDEN, "Not allowed.", str(error))


def _known(request: Request, error: Exception) -> Response:
    ours = as_ours(error)
    status = status_of(ours)
    if status is HTTPStatus.INTERNAL_SERVER_ERROR or ours is not error:
        log.error("a page could not be made: %s", error)
    return _error_page(request, status, f"{str(ours)[:1].upper()}{str(ours)[1:]}.", ours.remedy)


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    return _error_page(request, status, f"{status.phrase}.", "Go back to the worklist.")


def _wrong(request: Request, _error: Exception) -> Response:
    # The sent values are not shown: one may be a password.
    return _error_page(request, HTTPStatus.BAD_REQUEST, "A field of the form is missing.", "Load the page again.")


def _error_page(request: Request, status: HTTPStatus, message: str, remedy: str) -> Response:
    return page(request, "error.html", status, message=message, remedy=remedy)
