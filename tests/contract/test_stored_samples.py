"""Folders that an earlier version left behind: this version loses and hides nothing of them."""

import json
import logging
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from tests.support.clock import START, FakeClock
from tests.support.two_ends import SITE, TwoEnds, blobs_of
from thinwire.sender.outbox.earlier import bring_forward
from thinwire.sender.outbox.entries import EntryState, OutboxEntry, PartState
from thinwire.sender.outbox.tables import studies
from thinwire.sender.outbox.tiers import When
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.formats import crops
from thinwire.shared.formats.originals import pack, unpack
from thinwire.shared.identifiers import StudyKey
from thinwire.shared.storage.durable import Disk

OUTBOX_3 = Path(__file__).parent / "samples" / "outbox-3"
TIERS = (Kind.GRAPH, Kind.PREVIEW, Kind.CROPS, Kind.ORIGINALS)
KINDS = {*TIERS, Kind.MANIFEST}


def named(study: str) -> StudyKey:
    return StudyKey(bytes.fromhex(study))


DELIVERED = named("c50c00331407c03259a2c9a142601ab4")
ESCALATED = named("1d472257b75a8c177bd4138a6f6b1317")
"""It became urgent, and its crops were requested, when all else of it was at the hub."""
WAITING = named("3d00816b471006a52758a3f8f718d972")
HELD = named("53b5f1d552424ac0b85bc85ae10475e9")
"""Its crops and originals go on request alone, and a person paused it."""
URGENT = named("7341d3e2e9a66fb350e0c2c443ed43cb")
ACCEPTED = named("fea72a71d169383d7febbe2a8c6e449a")
"""Nothing of it was made."""


@pytest.fixture
def ends(tmp_path: Path) -> TwoEnds:
    """The clinic as its earlier version left it, and a hub that has its epoch and no study yet."""
    shutil.copytree(OUTBOX_3, tmp_path / "clinic")
    clock = FakeClock(START + timedelta(hours=1))
    assert bring_forward(tmp_path / "clinic", Disk(), clock).studies == 6
    ends = TwoEnds(tmp_path, clock)
    for record in (OUTBOX_3 / "outbox" / "epochs").glob("*.record"):
        ends.hub.enrolment.admit_epoch(SITE, record.read_bytes())
    return ends


def states(entry: OutboxEntry) -> dict[Kind, PartState]:
    return {part.kind: part.state for part in entry.parts}


def test_every_study_is_listed_as_it_was(ends: TwoEnds) -> None:
    waiting, stored = dict.fromkeys(KINDS, PartState.WAITING), dict.fromkeys(KINDS, PartState.STORED)
    assert {entry.study: states(entry) for entry in ends.outbox.entries()} == {
        DELIVERED: stored,
        ESCALATED: {**stored, Kind.CROPS: PartState.WAITING},
        WAITING: waiting,
        HELD: {**waiting, Kind.CROPS: PartState.HELD, Kind.ORIGINALS: PartState.HELD},
        URGENT: waiting,
        ACCEPTED: dict.fromkeys(KINDS, PartState.MISSING),
    }
    on_request = When.ON_REQUEST
    assert ends.outbox.entry(HELD).overrides == {Kind.CROPS: on_request, Kind.ORIGINALS: on_request}
    assert [entry.study for entry in ends.outbox.entries() if entry.paused] == [HELD]
    assert {entry.study for entry in ends.outbox.entries() if entry.urgent} == {ESCALATED, URGENT}
    assert ends.outbox.pending_escalations() == [ESCALATED]
    assert len(ends.outbox.receipts(DELIVERED)) == len(KINDS)


def test_no_byte_is_called_damaged_and_every_part_is_sent(ends: TwoEnds, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert [entry.study for entry in ends.outbox.recover()] == [ACCEPTED]
    assert caplog.records == []
    ends.outbox.resume(HELD)
    for study, kind in ((WAITING, Kind.CROPS), (HELD, Kind.CROPS), (HELD, Kind.ORIGINALS)):
        ends.outbox.request(study, kind)
    for study in (WAITING, HELD, URGENT):
        (file,) = unpack(ends.outbox.source(study), 1 << 16)
        assert len(file.data) == 64 * 64 * 2

    ends.carry()

    parts = ends.parts()
    assert parts.keys() == {(ESCALATED, Kind.CROPS)} | {(s, k) for s in (WAITING, HELD, URGENT) for k in KINDS}
    for study in (WAITING, HELD, URGENT):
        assert ends.outbox.entry(study).state is EntryState.ARRIVED
        assert unpack(parts[study, Kind.ORIGINALS], 1 << 16)
        assert crops.decode(parts[study, Kind.CROPS], 1 << 16).rectangles
    assert len(blobs_of(ends)) == 1  # the source of ACCEPTED


def test_what_was_not_made_is_made_of_the_files_that_came(ends: TwoEnds) -> None:
    members = unpack(ends.outbox.source(ACCEPTED), 1 << 16)
    for kind in TIERS:
        ends.outbox.add(ACCEPTED, kind, pack(members, "small"))
    ends.outbox.add(ACCEPTED, Kind.MANIFEST, b"manifest")
    ends.carry()
    assert unpack(ends.parts()[ACCEPTED, Kind.ORIGINALS], 1 << 16) == members


def test_the_kinds_have_today_s_names(ends: TwoEnds) -> None:
    with ends.outbox.database.read() as connection:
        stored = connection.execute(select(studies.c.overrides).where(studies.c.study == HELD)).scalar_one()
    assert json.loads(stored).keys() == {"crops", "originals"}
    safe = ends.folder / "clinic" / "earlier" / "outbox" / HELD.hex()
    assert [path.name for path in safe.iterdir()] == ["state.json"]
