"""Attacks on every port of a real hub and a real clinic, while an honest clinic, X-ray machine and reader are served.

The short form runs always. THINWIRE_ATTACK=1 runs the long one: the numbers of docs/threat-model.md, and its limits.
"""

import asyncio
import contextlib
import os
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.support.client_hello import client_hello
from tests.support.dicoms import chest, dicom
from tests.support.hostile_dicom import P_DATA, associate, associate_request, fragment, pdu
from tests.support.peers import free_port
from tests.support.programs import at_hub, command, enrol, until
from tests.support.xray_machine import Machine
from thinwire.sender.enrolment import load_enrolment
from thinwire.sender.transport.connection import dial
from thinwire.shared.formats.bundle import default_bundle_folder
from thinwire.shared.listening.dicom import poll_sockets
from thinwire.shared.wire.v1 import link_pb2 as wire
from thinwire.shared.wire.v1.link_pb2_grpc import HubStub

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not default_bundle_folder().is_dir(), reason="needs the default bundle"),
]

LONG = os.environ.get("THINWIRE_ATTACK") == "1"
SERVED_SECONDS = 2.0 if LONG else 30.0
"""In which an honest peer is served. The short form runs beside other tests, where only waiting for ever is a fault."""
BUSY = 3.0
"""Times what the same takes without an attack, where the machine is busy with other work."""
MOST_GROWN = 100 << 20
ROUNDS = 3 if LONG else 1
SILENT_AT_HUB, SILENT_AT_CLINIC, SLOW_REQUESTS = (1200, 200, 900) if LONG else (400, 40, 150)
FOREIGN = [f"127.0.0.{each}" for each in range(2, 8)]
"""Addresses of attackers."""
FILE = dicom(chest(200, 210))
SLOW = [
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ",
    b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n",
]
OWN_LIMITS = """\
[limits.web]
seconds = 3
[limits.metrics]
seconds = 3
"""


@dataclass
class Ends:
    """A hub and a clinic that serve. Ports are on loopback."""

    hub: int
    clinic: int
    """Process numbers."""
    link: int
    web: int
    metrics: int
    commitment: int
    dicom: int
    page: int
    log: Path
    other: Path
    """The folder of another clinic, of which nothing runs."""
    calm: dict[str, float] = field(default_factory=dict)
    """Seconds without an attack."""

    def served(self) -> None:
        """Each honest peer is served in time."""
        for act in (self._link, self._dicom, self._web, self._page, self._health):
            begun = time.monotonic()
            act()
            took = time.monotonic() - begun
            calm = self.calm.setdefault(act.__name__, took)
            assert took < max(SERVED_SECONDS, BUSY * calm), (act.__name__, took, calm)

    def _link(self) -> None:
        async def connect() -> None:
            async with dial(load_enrolment(self.other).address(f"127.0.0.1:{self.link}")) as channel:
                stream = HubStub(channel).Connect()
                await stream.write(wire.Up(hello=wire.Hello(version=1)))
                assert (await stream.read()).welcome.version == 1
                stream.cancel()

        asyncio.run(connect())

    def _dicom(self) -> None:
        assert [status.Status for status in Machine(self.dicom).send(FILE)] == [0]

    def _web(self) -> None:
        assert _get(self.web, "/sign-in") in (200, 303)

    def _page(self) -> None:
        assert _get(self.page, "/") == 200

    def _health(self) -> None:
        assert _get(self.metrics, "/healthz") == 200

    def refused(self, listener: str) -> dict[str, int]:
        """Refused and ended connections of a listener, by reason."""
        port = self.page if listener in ("dicom", "page") else self.metrics
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False, timeout=30).text
        pattern = rf'thinwire_connections_refused_total{{listener="{listener}",reason="(\w+)"}} (\d+)'
        return {reason: int(count) for reason, count in re.findall(pattern, text)}

    @contextlib.contextmanager
    def little_memory(self) -> Iterator[None]:
        """Neither process grows by more than MOST_GROWN at any moment of the block."""
        processes = (self.hub, self.clinic)
        before = [_memory(each) for each in processes]
        most = [0, 0]
        done = threading.Event()

        def look() -> None:
            while not done.wait(0.05):
                for at, each in enumerate(processes):
                    most[at] = max(most[at], _memory(each) - before[at])

        looking = threading.Thread(target=look)
        looking.start()
        try:
            yield
        finally:
            done.set()
            looking.join()
        assert max(most) < MOST_GROWN, [grown >> 20 for grown in most]


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ends]:
    poll_sockets()  # the X-ray machine runs in this process, which holds the attackers' sockets
    folder = tmp_path_factory.mktemp("attacks")
    hub, clinic, other = folder / "hub", folder / "clinic", folder / "other"
    link, web, metrics, commitment, dicom_port, page = (free_port() for _ in range(6))
    at_hub("init", "--data", hub)
    (hub / "config.toml").write_text(
        f'[metrics]\nlisten = "127.0.0.1:{metrics}"\n{OWN_LIMITS}'
        f'[forward]\nlisten = "127.0.0.1:{commitment}"\n[[forward.targets]]\nname = "pacs"\nkind = "c-store"\n'
        f'host = "127.0.0.1"\nport = {free_port()}\ncalled = "PACS"\n'
    )
    words = ("serve", "--data", hub, "--listen", f"127.0.0.1:{link}", "--web", f"127.0.0.1:{web}")
    with contextlib.ExitStack() as held, (folder / "hub.log").open("w") as said:
        serving = held.enter_context(_process(command("thinwire-receiver", *words), said))
        assert serving.stdout is not None
        assert "listening on" in serving.stdout.readline()
        enrol(hub, f"127.0.0.1:{link}", clinic)
        token = at_hub("enrol", "hill", "--data", hub).strip()
        subprocess.run(
            command("thinwire-sender", "join", "-", "--data", other, "--hub", f"127.0.0.1:{link}"),
            input=token, text=True, check=True, timeout=120, capture_output=True,
        )  # fmt: skip
        with (clinic / "config.toml").open("a") as config:
            config.write(
                f'\n[page]\nport = {page}\n[dicom]\nport = {dicom_port}\nbind = "127.0.0.1"\nquiet_seconds = 3600\n'
                "[dicom.machines.XRAY1]\n[limits.page]\nseconds = 3\n"
            )
        log = folder / "clinic.log"
        sending = held.enter_context(
            _process(command("thinwire-sender", "run", "--data", clinic), held.enter_context(log.open("w")))
        )
        until(lambda: "DICOM port open" in log.read_text())
        made = Ends(
            serving.pid, sending.pid,
            link, web, metrics, commitment, dicom_port, page, log, other,
        )  # fmt: skip
        made.served()
        made.calm.clear()  # the first time is the slowest
        made.served()
        yield made
    assert "Traceback" not in log.read_text()
    assert "Traceback" not in (folder / "hub.log").read_text()


@contextlib.contextmanager
def _process(words: list[str], said: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=said, text=True)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0


@contextlib.contextmanager
def held_open(port: int, count: int, first: bytes = b"") -> Iterator[list[socket.socket]]:
    """Connections from the attackers' addresses, each with some first bytes."""
    with contextlib.ExitStack() as held:
        opened = []
        for at in range(count):
            with contextlib.suppress(OSError):  # refused at accept
                address = (FOREIGN[at % len(FOREIGN)], 0)
                each = held.enter_context(socket.create_connection(("127.0.0.1", port), 30, address))
                each.sendall(first)
                opened.append(each)
        yield opened


def _memory(process: int) -> int:
    """Bytes in memory (proc(5), statm)."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _get(port: int, path: str, **headers: str) -> int:
    with httpx.Client(trust_env=False, timeout=60) as http:
        return http.get(f"http://127.0.0.1:{port}{path}", headers=headers).status_code


def flood(port: int, head: bytes, body: bytes, most: int) -> int:
    """Send `head`, then `body` again and again; bytes that were sent until the peer ended the connection."""
    sent = 0
    where = socket.create_connection(("127.0.0.1", port), 30, (FOREIGN[0], 0))
    with where as attacker, contextlib.suppress(OSError):
        attacker.sendall(head)
        while sent < most:
            attacker.sendall(body)
            sent += len(body)
    return sent


@pytest.mark.parametrize("port", ["dicom", "commitment"])
@pytest.mark.parametrize("kind", [1, 4])
def test_a_pdu_of_four_gigabytes_is_refused_by_its_head(ends: Ends, port: str, kind: int) -> None:
    before = ends.refused(port)["size"]
    with ends.little_memory():
        for _ in range(ROUNDS):
            number = getattr(ends, port)
            head = bytes((kind, 0)) + b"\xff" * 4
            if kind == P_DATA:
                with associate(number) as opened:
                    opened.sendall(head)
                    assert opened.recv(1) == b""
            else:
                assert flood(number, head, bytes(1 << 20), 1 << 32) < 64 << 20
            ends.served()
    assert ends.refused(port)["size"] == before + ROUNDS


@pytest.mark.parametrize("port", ["dicom", "commitment"])
@pytest.mark.parametrize("command_set", [True, False])
def test_a_message_without_end_is_ended(ends: Ends, port: str, command_set: bool) -> None:
    piece = pdu(P_DATA, fragment(bytes(100_000), command_set))
    with ends.little_memory(), associate(getattr(ends, port)) as opened, contextlib.suppress(OSError):
        for _ in range(1000):
            opened.sendall(piece)
        pytest.fail("100 MB of one message were taken")
    ends.served()


@pytest.mark.parametrize(
    ("port", "first"),
    [
        ("dicom", b""),
        ("dicom", b"\x01\x00\x00"),
        ("dicom", associate_request()[:60]),
        ("dicom", associate_request()),
        ("commitment", b""),
    ],
    ids=["silent", "cut head", "cut request", "idle association", "commitment"],
)
def test_silent_connections_keep_no_machine_out(ends: Ends, port: str, first: bytes) -> None:
    with ends.little_memory():
        for _ in range(ROUNDS):
            with held_open(getattr(ends, port), SILENT_AT_CLINIC, first):
                ends.served()
    assert ends.refused(port)["displaced"] > 0


@pytest.mark.parametrize(
    "first", [b"", b"\x16\x03\x01\x02\x00", client_hello(), b"GET / HTTP/1.1\r\n\r\n"], ids=["", "cut", "hello", "http"]
)
def test_silent_connections_keep_no_clinic_out(ends: Ends, first: bytes) -> None:
    with ends.little_memory():
        for _ in range(ROUNDS):
            with held_open(ends.link, SILENT_AT_HUB, first):
                ends.served()
    assert ends.refused("link")["protocol" if first[:1] == b"G" else "displaced"] > 0


@pytest.mark.parametrize("port", ["web", "page", "metrics"])
@pytest.mark.parametrize("first", SLOW, ids=["head", "body"])
def test_slow_requests_end_and_keep_nobody_out(ends: Ends, port: str, first: bytes) -> None:
    number = getattr(ends, port)
    with ends.little_memory():
        for _ in range(ROUNDS):
            with held_open(number, SLOW_REQUESTS, first) as opened:
                ends.served()
                assert drips_until_ended(opened[-1]) < 30
    refused = ends.refused(port)
    assert refused["displaced"] > 0
    assert refused["timeout"] > 0


def drips_until_ended(opened: socket.socket) -> int:
    """Send a byte now and then, as a slow attacker does; how often until the peer ended the connection."""
    opened.settimeout(0.5)
    for drips in range(1000):
        try:
            opened.send(b"a")
            if not opened.recv(1000):
                return drips
        except TimeoutError:
            continue
        except OSError:
            return drips
    raise AssertionError("a slow request has no end")


TITLES = {
    b"XRAY1".ljust(16, b"\0"): True,
    b"XRAY1\0\xff\xffjunk".ljust(16, b"\0"): True,
    b"XR\\AY1".ljust(16): False,
    b"\xff\xfe".ljust(16): False,
    bytes(16): False,
}


def test_titles_padded_with_nul_are_taken_and_others_refused_with_words(ends: Ends) -> None:
    for calling, accepted in TITLES.items():
        with associate(ends.dicom, calling, b"THINWIRE".ljust(16, b"\0")) as opened:
            assert opened.answer[0] == (2 if accepted else 3)  # A-ASSOCIATE-AC, -RJ
    assert ends.refused("dicom")["caller"] > 0
    assert "its AE title or address is not in the configuration" in ends.log.read_text()


def test_a_clinic_with_tls_1_2_is_refused_whatever_its_certificate(ends: Ends, tmp_path: Path) -> None:
    identity = load_enrolment(ends.other).identity
    (tmp_path / "pem").write_bytes(identity.certificate_pem + identity.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(tmp_path / "pem")
    context.set_alpn_protocols(["h2"])

    def version() -> str | None:
        with socket.create_connection(("127.0.0.1", ends.link)) as plain, context.wrap_socket(plain) as secure:
            return secure.version()

    assert version() == "TLSv1.3"
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        version()


@pytest.mark.parametrize("port", ["web", "page"])
def test_a_name_that_is_not_the_pages_is_refused(ends: Ends, port: str) -> None:
    path = "/sign-in" if port == "web" else "/"
    assert _get(getattr(ends, port), path, Host="attacker.example") == 400
    assert _get(getattr(ends, port), path, Host="localhost") in (200, 303)
