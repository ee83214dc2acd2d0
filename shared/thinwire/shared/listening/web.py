"""Web pages behind the guard: uvicorn in a thread, with a deadline for each request.

uvicorn limits the bytes of a request's head, and not the time: the guard ends a connection that has not sent a whole
request within `seconds` (slow loris). Needs uvicorn, which the extras `sender` and `receiver` install.
"""

import asyncio
import functools
import logging
import ssl
import threading
from asyncio import sslproto
from collections.abc import Sequence
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from thinwire.shared.listening.guard import Listener, ListenerGuard

_TLS_BUFFER = 32 << 10
"""Two records of TLS."""


class _Requests(H11Protocol):
    """uvicorn's protocol, which tells the guard whether its peer owes the rest of a request."""

    def __init__(self, guard: ListenerGuard, **given: Any) -> None:
        super().__init__(**given)
        self._guard = guard
        self._fd = -1

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._fd = transport.get_extra_info("socket").fileno()
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._tell()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._tell()

    def _tell(self) -> None:
        if self.transport.is_closing():
            return
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            self._guard.owe(self._fd)
        else:
            self._guard.meet(self._fd)


class WebThread:
    """An ASGI application on a listener, in a thread with its own loop. `start` and `stop`.

    tls: None for plain HTTP. proxies: addresses whose X-Forwarded-For and X-Forwarded-Proto are believed. grace:
    seconds for open requests after a stop. lifespan: "auto", or "off" for an application without start and stop.
    """

    def __init__(
        self,
        app: ASGIApp,
        listener: Listener,
        name: str,
        tls: ssl.SSLContext | None = None,
        proxies: Sequence[str] = (),
        grace: int = 1,
        lifespan: Any = "off",
    ) -> None:
        # Lower levels write a line for each bad request.
        logging.getLogger("uvicorn").setLevel(logging.ERROR)
        # asyncio fills a buffer of this size for each TLS connection: 256 KiB by default, 128 MB for 512 connections.
        sslproto.SSLProtocol.max_size = _TLS_BUFFER
        config = uvicorn.Config(
            app,
            # A factory, though uvicorn's annotation says a class. uvloop would accept connections past the guard.
            http=functools.partial(_Requests, listener.guard),  # type: ignore[arg-type]
            loop="asyncio",
            ws="none",
            log_config=None,
            access_log=False,  # an address may be a one-time link
            server_header=False,
            lifespan=lifespan,
            timeout_graceful_shutdown=grace,
            # Without this, uvicorn takes both from the environment (FORWARDED_ALLOW_IPS).
            proxy_headers=bool(proxies),
            forwarded_allow_ips=list(proxies),
        )
        config.load()
        config.ssl = tls
        self._listener = listener
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name=name)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when no page is served any more."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join()
        self.close()

    def close(self) -> None:
        """Close the port; for a server that was not started."""
        self._listener.close()
