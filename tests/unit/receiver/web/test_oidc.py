"""Sign-in at an OpenID provider, with one on this machine that signs for real and can be told to lie."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import uvicorn
from fastapi import FastAPI, Request
from joserfc import jwt
from joserfc.jwk import RSAKey

from tests.support.reading_room import Browser, ReadingRoom, quiet
from thinwire.receiver.access.accounts import Role
from thinwire.receiver.hub import Hub
from thinwire.receiver.web.context import Provider
from thinwire.receiver.web.oidc import role_of
from thinwire.shared.clock import SystemClock

CLIENT, SECRET = "thinwire", "a secret between both"


@dataclass
class Issuer:
    """Vouches for whoever `claims` names, with whatever `lie` says instead."""

    url: str = ""
    claims: dict[str, Any] = field(default_factory=dict)
    lie: dict[str, Any] = field(default_factory=dict)
    key: RSAKey = field(default_factory=lambda: RSAKey.generate_key(2048, {"kid": "1"}))
    foreign: RSAKey = field(default_factory=lambda: RSAKey.generate_key(2048, {"kid": "1"}))
    forges: bool = False
    nonce: str = ""

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/.well-known/openid-configuration")
        def metadata() -> dict[str, Any]:
            return {
                "issuer": self.url,
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                "jwks_uri": f"{self.url}/keys",
                "id_token_signing_alg_values_supported": ["RS256"],
            }

        @app.get("/keys")
        def keys() -> dict[str, Any]:
            return {"keys": [self.key.as_dict(private=False)]}

        @app.post("/token")
        async def token(request: Request) -> dict[str, Any]:
            sent = parse_qs((await request.body()).decode())
            assert sent["code"] == ["the-code"]
            assert len(sent["code_verifier"][0]) >= 43
            now = int(SystemClock().now().timestamp())
            facts = {"iss": self.url, "aud": CLIENT, "iat": now, "exp": now + 60, "nonce": self.nonce}
            signed = jwt.encode(
                {"alg": "RS256", "kid": "1"},
                {**facts, **self.claims, **self.lie},
                self.foreign if self.forges else self.key,
            )
            return {"access_token": "x", "token_type": "Bearer", "id_token": signed}

        return app


@pytest.fixture(scope="module")
def running() -> Iterator[Issuer]:
    issuer = Issuer()
    config = uvicorn.Config(issuer.app(), port=0, log_config=None)
    server = uvicorn.Server(config)
    socket = config.bind_socket()
    issuer.url = f"http://127.0.0.1:{socket.getsockname()[1]}"
    thread = threading.Thread(target=server.run, args=([socket],))
    thread.start()
    yield issuer
    server.should_exit = True
    thread.join()
    socket.close()


@pytest.fixture
def issuer(running: Issuer) -> Issuer:
    running.claims = {"sub": "7", "preferred_username": "A.Lund", "name": "Dr. Anna Lund", "groups": ["radiology"]}
    running.lie, running.forges = {}, False
    return running


@pytest.fixture
def room(hub: Hub, issuer: Issuer) -> ReadingRoom:
    return ReadingRoom(hub, provider=Provider(issuer.url, CLIENT, SECRET, "radiology", "it-administrators"))


def come_back(browser: Browser, issuer: Issuer, status: int, state: str | None = None) -> str:
    """To the provider and back again."""
    away = browser.client.get("/oidc/start", follow_redirects=False)
    asked = parse_qs(urlsplit(away.headers["location"]).query)
    assert asked["code_challenge_method"] == ["S256"]
    assert asked["redirect_uri"] == ["https://reading.example.org/oidc/callback"]
    issuer.nonce = asked["nonce"][0]
    return browser.get(f"/oidc/callback?code=the-code&state={state or asked['state'][0]}", status)


def test_who_is_vouched_for_enters_and_is_one_account(room: ReadingRoom, issuer: Issuer) -> None:
    browser = room.browser()
    assert "hospital" in browser.get("/sign-in")
    come_back(browser, issuer, 200)
    assert "Dr. Anna Lund" in browser.get("/")
    issuer.claims["groups"] = ["it-administrators"]
    come_back(room.browser(), issuer, 200)
    (account,) = room.room.accounts.all()
    assert (account.name, account.role) == ("a.lund", Role.ADMINISTRATOR)
    assert room.room.accounts.check("a.lund", "") is None
    room.room.accounts.remove("a.lund", quiet)
    assert "closed" in come_back(room.browser(), issuer, 401)


@pytest.mark.parametrize(
    "lie", [{"iss": "https://another.example"}, {"aud": "another"}, {"nonce": "another"}, {"exp": 1}, {"groups": []}]
)
def test_a_token_that_does_not_hold_lets_nobody_in(room: ReadingRoom, issuer: Issuer, lie: dict[str, Any]) -> None:
    issuer.lie = lie
    browser = room.browser()
    come_back(browser, issuer, 401)
    browser.get("/", 303)
    assert room.room.accounts.all() == []
    assert 'EventOutcomeIndicator="4"' in room.audited()[-1]


def test_a_forged_signature_or_state_lets_nobody_in(room: ReadingRoom, issuer: Issuer) -> None:
    assert "does not hold" in come_back(room.browser(), issuer, 401, state="another")
    issuer.forges = True
    assert "does not hold" in come_back(room.browser(), issuer, 401)
    assert room.room.accounts.all() == []


def test_a_local_account_is_not_taken_over_by_its_name(room: ReadingRoom, issuer: Issuer) -> None:
    room.person("a.lund")
    assert "n account with this name exists" in come_back(room.browser(), issuer, 401)


def test_without_groups_nobody_enters() -> None:
    open_ = Provider("https://x", CLIENT, SECRET)
    assert role_of(open_, {"groups": ["radiology", None]}) is None
    assert role_of(Provider("https://x", CLIENT, SECRET, "radiology"), {"groups": "radiology"}) is None
