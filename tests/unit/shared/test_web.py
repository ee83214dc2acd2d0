"""The guard before both pages: forms of other origins, forms that are too long, and the headers of every answer."""

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from thinwire.shared.web import HEADERS, Guard

PUBLIC = "https://reading.example.org"


async def said(request: Request) -> Response:
    return PlainTextResponse(await request.body())


def client(origin: str | None = None) -> TestClient:
    routes = [Route(path, said, methods=["GET", "POST", "DELETE"]) for path in ("/", "/static/a.css")]
    app = Starlette(routes=routes, middleware=[Middleware(Guard, most_posted=10, origin=origin)])
    return TestClient(app, "http://127.0.0.1:8080")


@pytest.mark.parametrize(
    ("headers", "origin", "status"),
    [
        ({}, None, 403),
        ({"Origin": "http://127.0.0.1:8080"}, None, 200),
        ({"Origin": "http://127.0.0.1:8081"}, None, 403),
        ({"Origin": "https://127.0.0.1:8080"}, None, 403),
        ({"Origin": "null"}, None, 403),
        ({"Sec-Fetch-Site": "same-origin"}, None, 200),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:8080"}, None, 403),
        ({"Sec-Fetch-Site": "none"}, None, 403),
        ({"Sec-Fetch-Site": ""}, None, 403),
        ({"Origin": "http://127.0.0.1:8080"}, PUBLIC, 403),
        ({"Origin": PUBLIC}, PUBLIC, 200),
    ],
)
def test_a_form_comes_from_our_own_page(headers: dict[str, str], origin: str | None, status: int) -> None:
    answer = client(origin).post("/", content=b"x", headers=headers)
    assert answer.status_code == status
    assert HEADERS.items() <= {name.title(): value for name, value in answer.headers.items()}.items()


def test_a_form_of_too_many_bytes_or_of_unknown_length_is_refused() -> None:
    own = {"Origin": "http://127.0.0.1:8080"}
    assert client().post("/", content=b"x" * 10, headers=own).text == "x" * 10
    assert client().post("/", content=b"x" * 11, headers=own).status_code == 413
    assert client().post("/", content=iter([b"x"]), headers=own).status_code == 413
    assert client().delete("/").status_code == 413


def test_a_page_stays_on_no_disk_and_a_style_sheet_may() -> None:
    assert client().get("/").headers["cache-control"] == "no-store"
    assert client().get("/static/a.css").headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8080", 200),
        ("localhost", 200),
        ("[::1]:8080", 200),
        ("192.0.2.9", 200),
        ("reading.example.org:443", 200),
        ("READING.example.org", 200),
        ("a.hospital.example", 200),
        ("a.b.hospital.example", 400),
        ("hospital.example", 400),
        ("reading.example.org.attacker.example", 400),
        ("attacker.example", 400),
        ("192.0.2.10", 400),
        ("", 400),
        ("[", 400),
        (":8080", 400),
    ],
)
def test_a_page_answers_to_its_own_names(host: str, status: int) -> None:
    app = Starlette(routes=[Route("/", said)])
    guarded = Guard(app, 10, hosts=("reading.example.org", "*.hospital.example"))
    # The test client takes this name for the address of the connection.
    with_address = TestClient(guarded, "http://192.0.2.9:8080")
    assert with_address.get("/", headers={"Host": host}).status_code == status


def test_over_https_browsers_are_told_to_stay_there() -> None:
    app = Starlette(routes=[Route("/", said)])
    for secure in (True, False):
        answer = TestClient(Guard(app, 10, secure=secure), "https://127.0.0.1").get("/")
        assert ("strict-transport-security" in answer.headers) is secure
