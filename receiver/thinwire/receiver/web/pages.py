"""Pages from templates, with the values that every template needs."""

from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from thinwire.receiver.web.guard import Requester
from thinwire.shared.identifiers import TextSource

TEMPLATES = Path(__file__).parent / "templates"

_ENVIRONMENT = Environment(
    # Templates load when first asked for.
    loader=FileSystemLoader(TEMPLATES),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEXT = {
    TextSource.REPORT: "report",
    TextSource.INDICATION: "indication",
    TextSource.GENERATED: "generated",
}


def page(
    request: Request, name: str, status: HTTPStatus = HTTPStatus.OK, /, here: Requester | None = None, **facts: Any
) -> HTMLResponse:
    """A whole page or a part of one. here: who is signed in; facts: the template's own."""
    common = {
        "path": request.url.path,
        "here": here,
        "form_key": "" if here is None else here.session.form_key,
        "text_source_label": text_source_label,
    }
    return HTMLResponse(_ENVIRONMENT.get_template(name).render({**common, **facts}), status)


def text_source_label(source: str | None) -> str:
    """A label for the source of the text that guided the pruning."""
    return "" if source is None else _TEXT[TextSource(source)]
