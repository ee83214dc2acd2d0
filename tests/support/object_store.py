"""An S3 server over HTTP (moto's), one for each process of tests, and a proxy before it that misbehaves as told."""

import contextlib
import os
import threading
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cache
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest import mock

from moto.server import ThreadedMotoServer


class Fault(Enum):
    """The behaviour of a store that a request meets."""

    NOTHING_STORED = auto()
    """A put is answered with success and forgotten."""
    ALTERED = auto()
    """The bytes of a put are others in the store."""
    LOST_ANSWER = auto()
    """A put is done, and its connection ends before the answer."""
    CUT = auto()
    """The answer to a get ends in the middle."""
    SILENT = auto()
    """No answer while the fault lasts."""
    BUSY = 503
    FULL = 507
    REFUSED = 403
    BAD = 400


@dataclass
class Proxy:
    """url: of the store for a client. fault: of the next requests; once: of one request only."""

    url: str
    fault: Fault | None = None
    once: bool = False
    asked: list[str] = field(default_factory=list)
    """The methods of the requests."""
    heard: threading.Event = field(default_factory=threading.Event)
    """Set by a request that gets no answer."""
    ended: threading.Event = field(default_factory=threading.Event)
    """Ends the requests that wait."""

    def next(self, method: str) -> Fault | None:
        self.asked.append(method)
        fault = self.fault
        of_puts = fault in (Fault.NOTHING_STORED, Fault.ALTERED, Fault.LOST_ANSWER)
        if (of_puts and method != "PUT") or (fault is Fault.CUT and method != "GET"):
            return None
        if self.once:
            self.fault = None
        return fault


@cache
def _server() -> str:
    """The address of the one server of this process; it ends with it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    return "{}:{}".format(*server.get_host_and_port())


@contextlib.contextmanager
def environment(address: str) -> Iterator[None]:
    """The variables with which a client finds an S3 server at this address."""
    variables = {
        "AWS_ENDPOINT_URL": f"http://{address}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
        "AWS_REGION": "us-east-1",
    }
    with mock.patch.dict(os.environ, variables):
        yield


@contextlib.contextmanager
def bucket() -> Iterator[str]:
    """The URL of a new bucket, and the environment in which it is found, also by processes that start within."""
    name = f"hub-{uuid.uuid4().hex}"
    urllib.request.urlopen(urllib.request.Request(f"http://{_server()}/{name}", method="PUT")).close()
    with environment(_server()):
        yield f"s3://{name}/thinwire"


@contextlib.contextmanager
def faulty_bucket() -> Iterator[Proxy]:
    """The same behind a proxy."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fault = proxy.next(self.command)
            if fault is Fault.SILENT:
                proxy.heard.set()
                proxy.ended.wait(60)
                self.close_connection = True
                return
            if fault is Fault.NOTHING_STORED:
                self._answer(200, [("ETag", '"0123456789abcdef0123456789abcdef"')], b"")
                return
            if fault in (Fault.BUSY, Fault.FULL, Fault.REFUSED, Fault.BAD):
                self._answer(fault.value, [], b"<Error><Code>AsTold</Code></Error>")
                return
            if fault is Fault.ALTERED:
                body = bytes(reversed(body))
            upstream = HTTPConnection(_server())
            headers = {
                k: v for k, v in self.headers.items() if fault is not Fault.ALTERED or "checksum" not in k.lower()
            }
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            data = answer.read()
            upstream.close()
            if fault is Fault.LOST_ANSWER:
                self.close_connection = True
                return
            self._answer(answer.status, answer.getheaders(), data, half=fault is Fault.CUT)

        def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, half: bool = False) -> None:
            self.send_response(status)
            length = str(len(data))
            for key, value in headers:
                if key.lower() == "content-length" and self.command == "HEAD":
                    length = value
                elif key.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                    self.send_header(key, value)
            self.send_header("Content-Length", length)
            self.end_headers()
            if half:
                self.close_connection = True
            self.wfile.write(data[: len(data) // 2] if half else data)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _any

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    with bucket() as url, environment(f"127.0.0.1:{server.server_address[1]}"):
        proxy = Proxy(url)
        try:
            yield proxy
        finally:
            proxy.ended.set()
            server.shutdown()
            server.server_close()
