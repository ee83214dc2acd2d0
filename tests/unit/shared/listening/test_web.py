"""uvicorn behind the guard, on real sockets."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from thinwire.shared.listening.guard import Limits, ListenerGuard, Listeners, Refusal
from thinwire.shared.listening.web import WebThread

LIMITS = Limits(connections=20, by_address=20, pending=20, seconds=600)


async def said(scope: Scope, receive: Receive, send: Send) -> None:
    """The caller's address, and the bytes of the form."""
    request = Request(scope, receive)
    body = await request.body()
    assert request.client is not None
    await PlainTextResponse(f"{request.client.host} {scope['scheme']} {len(body)}")(scope, receive, send)


@contextmanager
def served(proxies: tuple[str, ...] = ()) -> Iterator[tuple[ListenerGuard, tuple[str, int]]]:
    guard = Listeners().guard("test", LIMITS)
    thread = WebThread(said, guard.listen("127.0.0.1", 0, ""), "test", proxies=proxies)
    thread.start()
    try:
        yield guard, ("127.0.0.1", thread.port)
    finally:
        thread.stop()


def answered(peer: socket.socket) -> bytes:
    """A whole answer."""
    data = b""
    while b"\r\n\r\n" not in data or len(data.partition(b"\r\n\r\n")[2]) < int(
        data.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    ):
        data += (part := peer.recv(4096))
        assert part
    return data


@pytest.mark.parametrize(
    ("head", "rest"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"1\r\n\r\n"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab", b"cd"),
    ],
)
def test_a_peer_owes_its_request_until_it_is_whole_and_then_the_next(head: bytes, rest: bytes) -> None:
    with served() as (guard, where), socket.create_connection(where) as peer:
        for _ in range(2):
            peer.sendall(head)
            peer.sendall(rest)
            answered(peer)
        peer.sendall(head)
        while not guard.refused:
            guard.expire(time.monotonic() + 601)
        assert peer.recv(10) == b""
        assert guard.refused == {Refusal.TIMEOUT: 1}


@pytest.mark.parametrize(
    ("proxies", "answer"),
    [((), "127.0.0.1 http 0"), (("127.0.0.1",), "192.0.2.77 https 0"), (("127.0.0.9",), "127.0.0.1 http 0")],
)
def test_an_address_in_a_header_is_that_of_a_configured_proxy(
    proxies: tuple[str, ...], answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    headers = {"X-Forwarded-For": "192.0.2.77", "X-Forwarded-Proto": "https"}
    with served(proxies) as (_, where):
        said = httpx.get(f"http://127.0.0.1:{where[1]}/", headers=headers, trust_env=False)
        assert said.text == answer
