"""The clinic's local page, its metrics and its health, served beside the link from a thread of its own.

There is no sign-in: it listens on this computer alone unless it is configured otherwise, and the page shows no
patient's identity. A token in every form, the check of the name in Host, and `thinwire.shared.web` keep pages of other
origins from pressing its buttons (docs/threat-model.md).
"""

import hmac
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import parse_qs

from jinja2 import Environment, FileSystemLoader
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from thinwire.sender.config import PageLimits, PageSettings
from thinwire.sender.outbox.outbox import Outbox
from thinwire.sender.page.facts import ClinicState
from thinwire.sender.page.metrics import ClinicMetrics
from thinwire.shared.errors import DiskFull, UnknownStudy
from thinwire.shared.identifiers import STUDY_KEY_BYTES, StudyKey
from thinwire.shared.listening.guard import Listeners
from thinwire.shared.listening.web import WebThread
from thinwire.shared.web import Guard

log = logging.getLogger(__name__)

_HERE = Path(__file__).parent
_LONGEST_FORM = 4096
ACTS: Final[Mapping[str, Callable[[Outbox, StudyKey | None], object]]] = MappingProxyType(
    {
        "pause": lambda outbox, study: outbox.pause(study),
        "resume": lambda outbox, study: outbox.resume(study),
        "urgent": lambda outbox, study: None if study is None else outbox.make_urgent(study),
    }
)
"""The actions of the buttons."""


def build(clinic: ClinicState, settings: PageSettings, random_bytes: Callable[[int], bytes] = os.urandom) -> Starlette:
    """The page as an ASGI application. random_bytes: for the token of its forms, new with each start."""
    token = random_bytes(24).hex()
    pages = Environment(loader=FileSystemLoader(_HERE / "templates"), autoescape=True, trim_blocks=True)
    metrics = CollectorRegistry()
    metrics.register(ClinicMetrics(clinic))

    def page(_: Request) -> Response:
        return HTMLResponse(pages.get_template("page.html").render(shown=clinic.shown(), token=token))

    def studies(_: Request) -> Response:
        """The part of the page that changes, for the script."""
        return HTMLResponse(pages.get_template("studies.html").render(shown=clinic.shown(), token=token))

    async def act(request: Request) -> Response:
        body = await request.body()
        form = {key: values[0] for key, values in parse_qs(body.decode("ascii", "replace")).items()}
        if not hmac.compare_digest(form.get("token", "").encode(), token.encode()):
            return PlainTextResponse("Refused: the page is older than the service. Load it again.", 403)
        what = ACTS.get(form.get("act", ""))
        try:
            study = StudyKey(bytes.fromhex(form["study"])) if form.get("study") else None
        except ValueError:
            return PlainTextResponse("Refused: that names no study.", 400)
        if what is None or (study is not None and len(study) != STUDY_KEY_BYTES):
            return PlainTextResponse("Refused: there is no such button.", 400)
        try:
            await run_in_threadpool(what, clinic.outbox, study)
        except UnknownStudy as error:
            return PlainTextResponse(f"{error}. {error.remedy}", 404)
        except DiskFull as error:
            return PlainTextResponse(f"{error}. {error.remedy}", 507)
        log.info("page: %s %s", form["act"], study.hex() if study else "all")
        return RedirectResponse("/", 303)

    def measured(_: Request) -> Response:
        return Response(generate_latest(metrics), media_type=CONTENT_TYPE_LATEST)

    def health(_: Request) -> Response:
        healthy, facts = clinic.health()
        return JSONResponse(facts, 200 if healthy else 503)

    return Starlette(
        routes=[
            Route("/", page),
            Route("/studies", studies),
            Route("/act", act, methods=["POST"]),
            Route("/metrics", measured),
            Route("/healthz", health),
            Mount("/static", StaticFiles(directory=_HERE / "static")),
        ],
        middleware=[
            Middleware(Guard, most_posted=_LONGEST_FORM, hosts=settings.hosts),
        ],
    )


class PageServer:
    """The page on its port. `open` and `close`."""

    def __init__(self, clinic: ClinicState, settings: PageSettings, listeners: Listeners, limits: PageLimits) -> None:
        self._app = build(clinic, settings)
        self._settings = settings
        self._guard = listeners.guard("page", limits)
        self._server: WebThread | None = None

    def open(self) -> int:
        """Listen; gives the port. Raises BadConfiguration where it cannot be opened."""
        listener = self._guard.listen(
            self._settings.bind, self._settings.port or 0, "Choose another port or bind in section [page]."
        )
        self._server = WebThread(self._app, listener, "page")
        self._server.start()
        log.info("page: http://%s:%d/", self._settings.bind, self._server.port)
        return self._server.port

    def close(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None
