"""The link laboratory with real devices and real processes; short, on the fastest link."""

import os
import socket
import threading
import time
from pathlib import Path

import pytest

from benchmarks.link import namespaces
from benchmarks.link.faults import NoFaults
from benchmarks.link.lab import PACKETS, RELAY, Lab, open_lab
from benchmarks.link.peers.https import PORT, Https
from benchmarks.link.profiles import PROFILES
from benchmarks.link.studies import STUDIES, study_file
from benchmarks.link.transfer import TransferRun

pytestmark = pytest.mark.process

LEO = PROFILES["leo"]
LACKING = namespaces.missing()
needs_packets = pytest.mark.skipif(LACKING is not None, reason=f"the packet emulator cannot run here: {LACKING}")


def echoed(lab: Lab, port: int, data: bytes) -> tuple[bytes, float]:
    """(the bytes of an echo at the hub, seconds from the first byte sent)."""
    with lab.at_hub():
        server = socket.create_server((lab.hub_bind, port))

    def echo() -> None:
        taken, _ = server.accept()
        with taken:
            while got := taken.recv(65536):
                taken.sendall(got)

    answering = threading.Thread(target=echo, daemon=True)
    answering.start()
    with lab.at_clinic():
        stream = socket.create_connection(lab.reach(port), timeout=30)
    with server, stream:
        began = time.monotonic()
        stream.sendall(data)
        got = b""
        while len(got) < len(data):
            got += stream.recv(65536)
    return got, time.monotonic() - began


def switch(lab: Lab, down: bool) -> None:
    """And wait until the link is as told."""
    lab.board.switch(down)
    while lab.board.is_down is not down:
        time.sleep(0.005)


@needs_packets
def test_packets_cross_in_their_time_and_are_counted() -> None:
    with open_lab(LEO, seed=1, lossless=True) as lab:
        assert lab.emulation == PACKETS
        data = os.urandom(100)
        got, took = echoed(lab, 9000, data)
        assert got == data
        assert took >= LEO.round_trip
        up, down = lab.board.up, lab.board.down
        assert up.delivered_bytes > 100
        assert down.delivered_bytes > 100
        assert up.lost == down.lost == 0


@needs_packets
def test_nothing_crosses_while_the_link_is_cut() -> None:
    with open_lab(LEO, seed=1, lossless=True) as lab:
        switch(lab, True)
        with lab.at_clinic(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.sendto(b"anyone?", (namespaces.HUB_ADDRESS, 9000))
        while not lab.board.up.offered:
            time.sleep(0.005)
        assert lab.board.up.cut == 1
        switch(lab, False)
        assert echoed(lab, 9000, b"back")[0] == b"back"


@pytest.mark.parametrize("relay", [pytest.param(False, marks=needs_packets), True], ids=["packets", "relay"])
def test_a_peer_carries_a_study_and_the_row_says_through_what(tmp_path: Path, relay: bool) -> None:
    if Https.missing():
        pytest.skip(str(Https.missing()))
    study = study_file(STUDIES["small-8bit"], tmp_path / "studies")
    with open_lab(LEO, seed=1, steady=True, relay=relay, relay_ports=(PORT,)) as lab:
        assert lab.emulation == (RELAY if relay else PACKETS)
        peer = Https(lab, tmp_path / "peer")
        peer.start()
        try:
            carrier = TransferRun(lab, peer, NoFaults(), persist=False)
            journey = carrier.give(study)
            carrier.until([journey], limit=120)
            carrier.verify()
        finally:
            peer.close()
        # The relay tells its counters now and then.
        while lab.board.up.delivered_bytes <= study.stat().st_size:
            time.sleep(0.005)
        told = carrier.told()
    assert journey.verified, (tmp_path / "peer" / "https.log").read_text(encoding="utf-8")
    assert told["journeys"][0]["failures"] == []
    assert told["up_bytes_delivered"] > study.stat().st_size
