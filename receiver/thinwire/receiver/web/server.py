"""The HTTP server of the reading room, in a thread with its own loop, so that no page delays a clinic's session."""

import logging
import os
import socket
import ssl
from contextlib import ExitStack
from ipaddress import ip_address
from urllib.parse import urlsplit

from thinwire.receiver.config import Settings
from thinwire.receiver.hub import Hub
from thinwire.receiver.pipeline import HubPipeline
from thinwire.receiver.web.app import make_app
from thinwire.receiver.web.context import Provider, WebContext
from thinwire.shared.addresses import address_text, host_and_port
from thinwire.shared.crypto.certificates import names_of
from thinwire.shared.crypto.keys import issue_server
from thinwire.shared.errors import BadConfiguration
from thinwire.shared.listening.web import WebThread

log = logging.getLogger(__name__)

_GRACE = 2
"""Seconds for open requests after a stop; an event stream does not end by itself."""


class WebServer:
    """start, then stop. listen: HOST:PORT; port 0 takes any free one."""

    def __init__(self, hub: Hub, pipeline: HubPipeline, listen: str) -> None:
        self._hub = hub
        self._host, port = host_and_port(listen)
        loopback = _is_loopback(self._host)
        proxy = hub.settings.web_proxy
        if proxy is not None and not (loopback and urlsplit(proxy).scheme == "https"):
            raise BadConfiguration(
                "a proxy before the page needs HTTPS outside and the page on a loopback address",
                "Set web_proxy to the public https:// address and web to 127.0.0.1:PORT.",
            )
        # Beyond this machine the page is always encrypted: TLS by the page or by the proxy.
        self._tls = not loopback
        tls = self._context() if self._tls else None
        self.context = WebContext(
            hub,
            pipeline,
            self._tls or proxy is not None,
            proxy,
            _provider(hub.settings),
            self._hosts(proxy),
            hub.store.draft,
        )
        # The client's address is taken only from a proxy on this machine; all its connections have one address.
        proxies = () if proxy is None else ("127.0.0.1", "::1")
        guard = hub.listeners.guard("web", hub.settings.limits.web, shared=proxies)
        listener = guard.listen(self._host, port, "Choose a free port with --web.")
        self._server = WebThread(make_app(self.context), listener, "web", tls, proxies, _GRACE, "auto")

    @property
    def url(self) -> str:
        """The address of the page."""
        if self.context.origin is not None:
            return self.context.origin
        return f"{'https' if self._tls else 'http'}://{address_text(self._host, self._server.port)}"

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        """Returns when no page is served any more."""
        self._server.stop()
        self.context.refusals.write(all=True)

    def close(self) -> None:
        """Close the port; for a server that was not started."""
        self._server.close()

    def _hosts(self, proxy: str | None) -> tuple[str, ...]:
        """Names by which browsers call the page, beside the address of the connection."""
        named = [*self._hub.settings.web_names, self._host, socket.gethostname()]
        if proxy is not None:
            named.append(urlsplit(proxy).hostname or "")
        if self._tls and self._hub.settings.web_certificate is not None:
            named += names_of(self._hub.settings.web_certificate.read_bytes())
        return tuple(named)

    def _context(self) -> ssl.SSLContext:
        settings = self._hub.settings
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if settings.web_certificate is not None and settings.web_key is not None:
            try:
                context.load_cert_chain(settings.web_certificate, settings.web_key)
            except (OSError, ssl.SSLError) as error:
                raise BadConfiguration(
                    "the page's certificate or key cannot be read", "Correct web_certificate and web_key."
                ) from error
            return context
        names = settings.web_names or (() if self._host in ("0.0.0.0", "::") else (self._host,))
        identity = issue_server(self._hub.keys.authority, names, self._hub.clock)
        with ExitStack() as files:
            # OpenSSL reads only files; these are in memory, so that the key is never on disk.
            paths = []
            for data in (identity.certificate_pem, identity.key_pem):
                handle = os.memfd_create("web")
                files.callback(os.close, handle)
                os.write(handle, data)
                paths.append(f"/proc/self/fd/{handle}")
            context.load_cert_chain(*paths)
        return context


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _provider(settings: Settings) -> Provider | None:
    """The configured provider, or None. Raises BadConfiguration for an incomplete one."""
    parts = settings.oidc_issuer, settings.oidc_client, settings.oidc_secret
    if not any(parts):
        return None
    issuer, client, secret = parts
    if issuer is None or client is None or secret is None:
        raise BadConfiguration(
            "an OpenID provider needs issuer, client and secret",
            "Set oidc_issuer, oidc_client and THINWIRE_RECEIVER_OIDC_SECRET.",
        )
    return Provider(issuer, client, secret.get_secret_value(), settings.oidc_readers, settings.oidc_administrators)
