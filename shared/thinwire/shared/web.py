"""Middleware for the pages of clinic and hub: checks of Host and of a form's size and origin, and the security headers
of every answer.

Needs Starlette, which the extras `sender` and `receiver` install.
"""

from collections.abc import Collection

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
HSTS = "max-age=31536000"
"""A year of HTTPS alone for this name (RFC 6797); other names below it are not ours."""
_OTHER_NAME = (
    "This page does not answer to the name in its address. Open it by its own name or by the machine's IP address. "
    "At a hub, an administrator adds names to web_names in config.toml."
)
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Guard:
    """ASGI middleware: refuses names that are not the page's, forms of other origins and forms of too many bytes, and
    adds the headers of every answer.

    most_posted: bytes of the longest form. hosts: names and addresses by which the page may be called, "*.example.org"
    for one label before it; the address of the connection and LOOPBACK always. Else a page of another site could reach
    this one by a name that it points here (DNS rebinding). origin: the public one behind a proxy, such as
    https://reading.example.org; None is the Host of each request. secure: whether browsers use HTTPS.
    """

    def __init__(
        self,
        app: ASGIApp,
        most_posted: int,
        hosts: Collection[str] = (),
        origin: str | None = None,
        secure: bool = False,
    ) -> None:
        self._app = app
        self._most_posted = most_posted
        self._hosts = {each.lower() for each in (*hosts, *LOOPBACK)}
        self._origin = origin
        self._secure = secure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                out = MutableHeaders(scope=message)
                out.update(HEADERS)
                if self._secure:
                    out["Strict-Transport-Security"] = HSTS
                # The content of a page must not stay on the disk of a shared computer.
                out["Cache-Control"] = "no-cache" if scope["path"].startswith("/static/") else "no-store"
            await send(message)

        await (self._refusal(scope, Headers(scope=scope)) or self._app)(scope, receive, answer)

    def _refusal(self, scope: Scope, headers: Headers) -> ASGIApp | None:
        if not self._is_called(scope, headers.get("host", "")):
            return PlainTextResponse(_OTHER_NAME, 400)
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

    def _is_called(self, scope: Scope, host: str) -> bool:
        """Whether Host is a name of this page."""
        name = host_name(host)
        own = str((scope.get("server") or ("",))[0])
        return name in self._hosts or f"*.{name.partition('.')[2]}" in self._hosts or (name == own and name != "")


def host_name(host: str) -> str:
    """The name or address in a Host header, in lower case, without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
