"""Middleware for the pages of clinic and hub: checks of a form's size and origin, and the security headers of every
answer.

Needs Starlette, which the extras `sender` and `receiver` install.
"""

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), usb=()",
    # With "no-referrer" a browser sends no Origin for our forms.
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Guard:
    """ASGI middleware: refuses forms of other origins and of too many bytes, and adds the headers of every answer.

    most_posted: bytes of the longest form. origin: the public one behind a proxy, such as
    https://reading.example.org; None is the Host of each request.
    """

    def __init__(self, app: ASGIApp, most_posted: int, origin: str | None = None) -> None:
        self._app = app
        self._most_posted = most_posted
        self._origin = origin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                out = MutableHeaders(scope=message)
                out.update(HEADERS)
                # The content of a page must not stay on the disk of a shared computer.
                out["Cache-Control"] = "no-cache" if scope["path"].startswith("/static/") else "no-store"
            await send(message)

        await (self._refusal(scope, Headers(scope=scope)) or self._app)(scope, receive, answer)

    def _refusal(self, scope: Scope, headers: Headers) -> ASGIApp | None:
        if scope["method"] in ("GET", "HEAD"):
            return None
        length = headers.get("content-length", "")
        if not length.isdecimal() or int(length) > self._most_posted:
            return PlainTextResponse("The form is too long.", 413)
        site = headers.get("sec-fetch-site")
        own = self._origin or f"{scope['scheme']}://{headers.get('host', '')}"
        if site != "same-origin" if site is not None else headers.get("origin") != own:
            return PlainTextResponse("The form comes from another page. Open our own page anew.", 403)
        return None
