"""The clinic's process at rest asks its database nothing; a change by another process wakes workers and link."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from tests.support.dicoms import chest, dicom
from tests.support.real_link import PATIENCE, serving, site_identity, until
from tests.support.two_ends import AUTHORITY, TwoEnds, open_clinic, sealed_file
from thinwire.sender import pipeline, service
from thinwire.sender.config import SenderConfig
from thinwire.sender.outbox.entries import OutboxEntry, PartState
from thinwire.sender.outbox.quarantine import Quarantine
from thinwire.sender.outbox.tables import FILE
from thinwire.sender.outbox.tiers import TierPolicy, When
from thinwire.sender.pipeline import Pipeline
from thinwire.sender.service import Service
from thinwire.sender.transport import connection
from thinwire.sender.transport.connection import HubAddress, Uplink
from thinwire.sender.transport.session import UplinkSession
from thinwire.shared.clock import SystemClock
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.formats.originals import Member, pack
from thinwire.shared.identifiers import StudyKey, digest, study_key
from thinwire.shared.storage.database import Changes, Database, engine_of

NEVER = 1e6


@pytest.fixture(autouse=True)
def only_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """No timer wakes anything within the test."""
    monkeypatch.setattr(service, "STUCK_SECONDS", NEVER)
    monkeypatch.setattr(connection, "IDLE_SECONDS", NEVER)
    monkeypatch.setattr(connection, "POLICY_SECONDS", NEVER)


def accept_elsewhere(ends: TwoEnds, seed: int, *more: Kind) -> OutboxEntry:
    """As `send` does in another process, with another connection to the database. No graph, which needs models."""
    file = dicom(chest(400, 420, seed=seed))
    plan = (Kind.MANIFEST, Kind.ORIGINALS, *more)
    return ends.new_outbox().accept(study_key([digest(file)]), pack([Member("0000.dcm", file)], "fast"), plan)


def is_stored(ends: TwoEnds, study: StudyKey, kind: Kind = Kind.ORIGINALS) -> bool:
    return ends.outbox.entry(study).part(kind).state is PartState.STORED


class Looks:
    """Counts the looks for changes, and lets them follow each other quickly."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, _: float) -> None:
        self.count += 1
        time.sleep(0.0005)


@contextlib.asynccontextmanager
async def running(ends: TwoEnds, port: int) -> AsyncIterator[Service]:
    address = HubAddress(f"127.0.0.1:{port}", AUTHORITY.certificate_pem, site_identity())
    uplink = Uplink(ends.outbox, address, SystemClock(), ends.disk, uniform=lambda: -0.99)
    quarantine = Quarantine(ends.folder / "quarantine", ends.outbox.database, ends.disk, ends.clock)
    found = Service(Pipeline(ends.outbox, SenderConfig(provider="cpu")), uplink, quarantine, SystemClock())
    stop = asyncio.Event()
    task = asyncio.ensure_future(found.run(stop))
    try:
        yield found
    finally:
        stop.set()
        await task


def test_a_study_of_another_process_is_made_and_sent_at_once(tmp_path: Path) -> None:
    asyncio.run(_sent_at_once(TwoEnds(tmp_path)))


async def _sent_at_once(ends: TwoEnds) -> None:
    async with serving(ends) as (_, port), running(ends, port):
        for seed in range(2):  # the second while the first stream stands and rests
            study = accept_elsewhere(ends, seed).study
            await until(partial(is_stored, ends, study))


@pytest.mark.parametrize("when", [When.ALWAYS, When.ON_REQUEST])
def test_bytes_that_were_damaged_before_a_start_are_made_again(tmp_path: Path, when: When) -> None:
    """Waiting ones before their first offer, held ones beside the making of parts."""
    ends = TwoEnds(tmp_path)
    study = accept_elsewhere(ends, 0, Kind.PREVIEW).study
    policy = TierPolicy({**TierPolicy().when, Kind.PREVIEW: when})
    Pipeline(ends.outbox, SenderConfig(provider="cpu"), policy).make_all()
    sealed_file(ends.outbox, study, Kind.PREVIEW).write_bytes(b"damaged")
    ends.switch_on()
    asyncio.run(_sent(ends, study))


async def _sent(ends: TwoEnds, study: StudyKey) -> None:
    # With the usual policy, by which a preview that is made again is sent.
    async with serving(ends) as (_, port), running(ends, port):
        await until(partial(is_stored, ends, study, Kind.PREVIEW))


def test_at_rest_nothing_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = TwoEnds(tmp_path)
    path, asked = tmp_path / "clinic" / FILE, list[str]()
    engine = engine_of(path)
    event.listen(engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
    ends.outbox = open_clinic(path.parent, ends.disk, ends.clock, ends.random, Database(path, engine))
    asyncio.run(_at_rest(ends, asked, monkeypatch))


async def _at_rest(ends: TwoEnds, asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(ends) as (_, port), running(ends, port) as found:
        study = accept_elsewhere(ends, 0).study
        await until(partial(is_stored, ends, study))
        await until(lambda: not found.uplink.status.transfers)
        looks = Looks()
        monkeypatch.setattr(service, "sleep", looks)

        async def looks_without_a_question() -> bool:
            """Receipts may still come, and the policy decides again every few seconds."""
            asked.clear()
            begun = looks.count
            await until(lambda: looks.count > begun + 500)
            return not asked

        async with asyncio.timeout(PATIENCE):
            while not await looks_without_a_question():
                pass
        # The same looks see a change.
        accept_elsewhere(ends, 1)
        await until(lambda: bool(asked))


def test_an_error_that_nobody_foresaw_stops_one_thing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "STUCK_SECONDS", 0.05)
    monkeypatch.setattr(connection, "IDLE_SECONDS", 0.05)
    monkeypatch.setattr(connection, "POLICY_SECONDS", 0.05)
    asyncio.run(_one_thing(TwoEnds(tmp_path), monkeypatch))


async def _one_thing(ends: TwoEnds, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = accept_elsewhere(ends, 0)
    falls = set[str]()

    def unless_bad(members: list[Member], *rest: Any) -> bytes:
        if study_key([digest(each.data) for each in members]) == bad.study:
            raise RuntimeError("of Jane Doe")
        return pack(members, *rest)

    def once(name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*given: Any) -> Any:
            if name not in falls:
                falls.add(name)
                raise ValueError("of Jane Doe")
            return act(*given)

        return instead

    monkeypatch.setattr(pipeline, "pack", unless_bad)
    monkeypatch.setattr(UplinkSession, "receive", once("link", UplinkSession.receive))
    monkeypatch.setattr(Changes, "seen", once("look", Changes.seen))
    async with serving(ends) as (_, port), running(ends, port):
        for seed in (1, 2):
            study = accept_elsewhere(ends, seed).study
            await until(partial(is_stored, ends, study))
        await until(lambda: bool(ends.outbox.entry(bad.study).part(Kind.ORIGINALS).reason))
        assert falls == {"link", "look"}
        part = ends.outbox.entry(bad.study).part(Kind.ORIGINALS)
        assert part.state is PartState.MISSING
        assert part.reason.startswith("unexpected error (RuntimeError, test_wakes.py:")
        monkeypatch.setattr(pipeline, "pack", pack)
        assert ends.new_outbox().retry(bad.study) == (Kind.ORIGINALS,)  # as the command does
        await until(partial(is_stored, ends, bad.study))
        assert ends.outbox.entry(bad.study).part(Kind.ORIGINALS).reason == ""
