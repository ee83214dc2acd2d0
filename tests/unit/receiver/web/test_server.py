"""The page's own server: HTTPS wherever it can be reached from outside, and no setting that lets it be otherwise."""

import ssl
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from thinwire.receiver.hub import Hub
from thinwire.receiver.web.server import WebServer
from thinwire.shared.clock import SystemClock
from thinwire.shared.errors import BadConfiguration


@pytest.fixture
def clock() -> SystemClock:
    """A browser judges the certificate by today's date."""
    return SystemClock()


def with_settings(hub: Hub, **changes: object) -> Hub:
    return replace(hub, settings=hub.settings.model_copy(update=changes))


def test_beyond_this_machine_it_is_https_by_the_hub_s_authority(hub: Hub) -> None:
    served = with_settings(hub, web_names=("127.0.0.1",))
    server = WebServer(served, served.pipeline(), "0.0.0.0:0")
    server.start()
    try:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        assert url.startswith("https://")
        trust = ssl.create_default_context(cafile=str(hub.data / "keys" / "authority.crt"))
        answer = httpx.get(f"{url}/sign-in", verify=trust)
        assert answer.status_code == 200
        assert "server" not in answer.headers
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/sign-in")
        with pytest.raises(httpx.HTTPError):
            httpx.get(url.replace("https", "http") + "/sign-in")
    finally:
        server.stop()
    assert server.context.secure


def test_on_loopback_it_is_plain_unless_a_proxy_stands_before_it(hub: Hub) -> None:
    plain = WebServer(hub, hub.pipeline(), "127.0.0.1:0")
    assert plain.url.startswith("http://127.0.0.1:")
    assert not plain.context.secure
    behind = with_settings(hub, web_proxy="https://reading.example.org")
    proxied = WebServer(behind, behind.pipeline(), "127.0.0.1:0")
    assert proxied.url == "https://reading.example.org"
    assert proxied.context.secure
    for server in (plain, proxied):
        server.close()


@pytest.mark.parametrize(
    ("listen", "changes"),
    [
        ("0.0.0.0:0", {"web_proxy": "https://reading.example.org"}),
        ("127.0.0.1:0", {"web_proxy": "http://reading.example.org"}),
        ("127.0.0.1:0", {"oidc_issuer": "https://login.example.org"}),
        ("0.0.0.0:0", {"web_certificate": Path("no.pem"), "web_key": Path("no.key")}),
        ("192.0.2.1:0", {}),
        ("nonsense", {}),
    ],
)
def test_settings_that_cannot_be(hub: Hub, listen: str, changes: dict[str, object]) -> None:
    with pytest.raises(BadConfiguration):
        WebServer(with_settings(hub, **changes), hub.pipeline(), listen)
