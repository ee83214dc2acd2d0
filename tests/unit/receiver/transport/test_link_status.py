from dataclasses import replace
from datetime import timedelta
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from tests.support.clock import START
from thinwire.receiver.presentation import links_table
from thinwire.receiver.transport.ingest import IncomingObject
from thinwire.receiver.transport.link_status import FILE, RateMeter, SiteLink, read_status, write_status
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.identifiers import SiteName, StudyKey

ORIGINALS = IncomingObject(StudyKey(b"s" * 16), Kind.ORIGINALS, 30_000, 90_000)
VALLEY = SiteLink(SiteName("north-valley"), True, START - timedelta(hours=1), START, 8_000.0, (ORIGINALS,))
RIDGE = SiteLink(SiteName("south-ridge"), False, START - timedelta(days=2), START - timedelta(days=2))


def test_another_process_sees_the_links_while_the_hub_serves(tmp_path: Path) -> None:
    assert read_status(tmp_path, START) == (False, [])
    write_status(tmp_path, [VALLEY, RIDGE], START)
    assert read_status(tmp_path, START + timedelta(seconds=3)) == (True, [VALLEY, RIDGE])
    serves, links = read_status(tmp_path, START + timedelta(minutes=3))
    assert not serves
    assert links == [replace(VALLEY, connected=False, rate=0.0), RIDGE]
    write_status(tmp_path, [VALLEY], START, serves=False)
    assert read_status(tmp_path, START)[0] is False


@pytest.mark.parametrize(
    "damaged", [b"", b"[]", b"{}", b'{"at": 7}', b'{"at": "2026-03-04T12:00:00Z", "serves": true, "links": [1]}']
)
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, damaged: bytes) -> None:
    (tmp_path / FILE).write_bytes(damaged)
    assert read_status(tmp_path, START) == (False, [])


def test_every_clinic_has_its_row() -> None:
    shown = StringIO()
    table = links_table(True, [VALLEY, RIDGE], [VALLEY.site, SiteName("west-bank")], START)
    Console(file=shown, width=110).print(table)
    rows = [line.split() for line in shown.getvalue().splitlines()]
    words = shown.getvalue()
    assert "connected 1 h" in words
    assert "8.0 KB/s" in words
    assert "30,000 of 90,000 (33 %)" in words
    assert "disconnected 2 d" in words
    assert ["west-bank", "never", "connected"] in rows


def test_a_rate_follows_what_comes() -> None:
    meter = RateMeter(at=0.0)
    assert meter.read(0.1, 500) == 0.0  # too soon to say
    assert meter.read(1.0, 8_000) == 8_000.0
    assert meter.read(2.0, 16_000) == 8_000.0
    for second in range(3, 40):
        last = meter.read(float(second), 16_000)
    assert last == 0.0
