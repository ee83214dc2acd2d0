"""Attacks on authority and shares, against a real hub: revoked and greedy sites, used tokens, guesses, a forged log.

The short form runs always. THINWIRE_ATTACK=1 runs the long one, with its limits on time.
"""

import asyncio
import hashlib
import os
import re
import sqlite3
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest

from tests.support.foreign_clinic import ForeignClinic, manifest
from tests.support.programs import ReadingRoom, at_hub, call, reading_room
from thinwire.receiver.access.attempts import FREE_IN_ALL
from thinwire.receiver.access.audit import GENESIS
from thinwire.sender.transport.connection import join
from thinwire.shared.crypto.keys import new_request, new_signing_key
from thinwire.shared.errors import BadFormat, NotEnrolled
from thinwire.shared.formats.bundle import default_bundle_folder
from thinwire.shared.wire.v1 import link_pb2 as wire

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not default_bundle_folder().is_dir(), reason="needs the default bundle"),
]

LONG = os.environ.get("THINWIRE_ATTACK") == "1"
REVOKED_SECONDS = 1.0 if LONG else 30.0
"""In which a stream ends. The short form runs beside other tests, where only waiting for ever is a fault."""
EPOCHS, GUESSES = (3000, 3500) if LONG else (60, 80)
PASSWORD = "correct horse battery"
HERE, ELSEWHERE = "127.0.0.1", "127.0.0.9"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReadingRoom]:
    data = tmp_path_factory.mktemp("authority") / "hub"
    at_hub("init", "--data", data)
    with reading_room(data) as room:
        yield room


def clinic(hub: ReadingRoom, name: str) -> ForeignClinic:
    return ForeignClinic.joined(hub.target, at_hub("enrol", name, "--data", hub.data).strip())


def rows(hub: ReadingRoom, query: str) -> int:
    with closing(sqlite3.connect(hub.data / "thinwire.db")) as database:
        return int(database.execute(query).fetchone()[0])


def of(hub: ReadingRoom, table: str, site: str) -> int:
    return rows(hub, f"SELECT count(*) FROM {table} WHERE site = '{site}'")


# Sites.


def test_a_revoked_site_stores_nothing_more_and_its_stream_ends(hub: ReadingRoom) -> None:
    site = clinic(hub, "revoked")

    async def attack() -> float:
        mine, still = site.epoch(), site.epoch()
        async with site.stream() as stream:
            await stream.offer(mine.record)
            await stream.offer(still.record)
            assert (await stream.offer(manifest(mine, 0).sealed)).HasField("receipt")
            await asyncio.to_thread(call, "thinwire-receiver", "revoke", "revoked", "--data", hub.data)
            begun, number, last = time.monotonic(), 1, wire.Down()
            while last.refusal.code != wire.REFUSAL_CODE_NOT_ENROLLED or last.refusal.number:
                last = await stream.offer(manifest(mine, number).sealed)
                assert not last.HasField("receipt")
                number += 1
            ended = time.monotonic() - begun
        with pytest.raises(AssertionError, match="does not serve"):
            async with site.stream():
                pass
        return ended

    assert asyncio.run(attack()) < REVOKED_SECONDS
    assert of(hub, "objects", "revoked") == 1


def test_a_used_token_joins_nobody_and_locks_nobody_out(hub: ReadingRoom) -> None:
    text = at_hub("enrol", "spent", "--data", hub.data).strip()
    site = ForeignClinic.joined(hub.target, text)

    async def again(request: bytes, own: bool) -> bytes:
        signing = site.signing if own else new_signing_key()
        return bytes((await join(hub.target, site.token, request, signing)).certificate)

    async def attack() -> None:
        # The clinic's own repeat is answered as before; another request, or another's key, is not.
        assert await again(site.request, own=True) == site.identity.certificate_pem
        for request, own in ((new_request(site.site)[1], True), (site.request, False)):
            with pytest.raises(NotEnrolled):
                await again(request, own)
        async with site.stream():
            with pytest.raises(NotEnrolled):
                await again(site.request, own=True)
        async with site.stream():  # its certificate still counts
            pass

    asyncio.run(attack())


def test_a_greedy_site_is_told_its_limit_and_another_goes_on(hub: ReadingRoom) -> None:
    greedy, other = clinic(hub, "greedy"), clinic(hub, "other")
    at_hub("site", "quota", "greedy", "--studies", "3", "--partials", "2", "--epochs", "20", "--data", hub.data)

    async def attack() -> None:
        mine, theirs = greedy.epoch(), other.epoch()
        async with greedy.stream() as stream, other.stream() as honest:
            await stream.offer(mine.record)
            await honest.offer(theirs.record)
            partial = [manifest(mine, 100 + number).sealed for number in range(3)]
            limits = [(await stream.offer(each[:-1], len(each))).refusal.limit for each in partial]
            assert limits == ["", "", "partials"]
            answers = [await stream.offer(manifest(mine, number).sealed) for number in range(6)]
            assert [answer.HasField("receipt") for answer in answers] == [True] * 3 + [False] * 3
            assert {(each.refusal.code, each.refusal.limit) for each in answers[3:]} == {
                (wire.REFUSAL_CODE_BUSY, "studies")
            }
            assert "3 new studies" in answers[3].refusal.what
            assert "site quota" in answers[3].refusal.remedy
            # No byte is taken of an object of a study over the limit.
            assert (await stream.offer(partial[2][:-1], len(partial[2]))).refusal.limit == "studies"
            announced = [await stream.offer(greedy.epoch().record) for _ in range(EPOCHS)]
            assert sum(each.HasField("progress") for each in announced) == 19
            assert announced[-1].refusal.limit == "epochs"
            assert (await honest.offer(manifest(theirs, 0).sealed)).HasField("receipt")
            # The same process takes the new limit at once.
            at_hub("site", "quota", "greedy", "--studies", "100", "--bytes", "1000000", "--data", hub.data)
            assert (await stream.offer(manifest(mine, 3).sealed)).HasField("receipt")
            at_hub("site", "quota", "greedy", "--bytes", "1000", "--data", hub.data)
            assert (await stream.offer(manifest(mine, 4).sealed)).refusal.limit == "bytes"

    asyncio.run(attack())
    assert of(hub, "epochs", "greedy") == 20
    assert of(hub, "objects", "greedy") == 4


# Readers.


def browser(hub: ReadingRoom, address: str) -> httpx.Client:
    transport = httpx.HTTPTransport(local_address=address)
    return httpx.Client(base_url=hub.url, transport=transport, headers={"Origin": hub.url}, timeout=60)


def sign_in(client: httpx.Client, password: str) -> int:
    return client.post("/sign-in", data={"name": "anna", "password": password}).status_code


def test_guesses_elsewhere_lock_no_reader_out_and_do_not_fill_the_log(hub: ReadingRoom) -> None:
    link = at_hub("account", "add", "anna", "--name-on-reports", "Dr. Anna", "--data", hub.data).strip()
    with browser(hub, HERE) as anna, browser(hub, ELSEWHERE) as guesser, browser(hub, HERE) as new:
        fields = {"password": PASSWORD, "again": PASSWORD}
        assert anna.post(f"/welcome/{link.rpartition('/')[2]}", data=fields).status_code == 303
        assert sign_in(new, PASSWORD) == 303  # this address is hers from now on
        before = rows(hub, "SELECT count(*) FROM audit")
        answers = [sign_in(guesser, f"guess {number}") for number in range(GUESSES)]
        assert set(answers) == {401, 429}
        assert answers.count(401) <= FREE_IN_ALL + 10
        written = rows(hub, "SELECT count(*) FROM audit") - before
        assert written <= 3, "repeated refusals are one message with a count"
        with browser(hub, HERE) as same_place:
            assert sign_in(same_place, PASSWORD) == 303
        with browser(hub, ELSEWHERE) as same_browser:
            same_browser.cookies.update(anna.cookies)
            assert sign_in(same_browser, PASSWORD) == 303


# The log.


def made_anew(database: sqlite3.Connection) -> None:
    """The chain of digests as it follows from the messages."""
    last = bytes(GENESIS)
    for number, message in database.execute("SELECT number, message FROM audit ORDER BY number").fetchall():
        last = hashlib.sha256(last + message.encode()).digest()
        database.execute("UPDATE audit SET digest = ? WHERE number = ?", (last, number))


def changed(hub: ReadingRoom, *statements: str, anew: bool) -> None:
    with closing(sqlite3.connect(hub.data / "thinwire.db", isolation_level=None)) as database:
        triggers = database.execute("SELECT name, sql FROM sqlite_master WHERE name LIKE 'audit%no_%'").fetchall()
        database.execute("BEGIN IMMEDIATE")
        for name, _ in triggers:
            database.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            database.execute(statement)
        if anew:
            made_anew(database)
        for _, sql in triggers:
            database.execute(sql)
        database.execute("COMMIT")


def holds(hub: ReadingRoom, *words: str) -> bool:
    try:
        at_hub("audit", "verify", *words, "--data", hub.data)
    except BadFormat:
        return False
    return True


def test_a_log_that_was_cut_or_made_anew_shows(hub: ReadingRoom) -> None:
    site = clinic(hub, "witness")

    async def head(kept: bytes = b"") -> bytes:
        async with site.stream(kept) as stream:
            return stream.welcome.audit_head

    kept = asyncio.run(head())
    assert holds(hub, "--anchor", urlsafe_b64encode(kept).decode())
    number = rows(hub, "SELECT max(number) FROM audit")

    # Without the hub's key: a message is altered and every digest made anew.
    changed(hub, f"UPDATE audit SET message = message || ' ' WHERE number = {number}", anew=True)
    assert not holds(hub)
    changed(hub, f"UPDATE audit SET message = rtrim(message) WHERE number = {number}", anew=True)
    assert holds(hub)

    # The end is cut off: the rest is a whole log, but the clinic keeps a later head and tells it when it connects.
    changed(
        hub,
        f"DELETE FROM audit WHERE number > {number - 2}",
        f"DELETE FROM audit_signatures WHERE number > {number - 2}",
        anew=False,
    )
    assert holds(hub)
    assert not holds(hub, "--anchor", urlsafe_b64encode(kept).decode())
    asyncio.run(head(kept))
    assert not holds(hub)
    assert call("thinwire-receiver", "check", "--data", hub.data, code=70).count("clinic witness keeps") == 1
    asyncio.run(head(os.urandom(120)))  # a head that is not the hub's raises no alarm
    at_hub("audit", "accept", "--reason", "a test", "--data", hub.data)
    assert holds(hub)


def test_acts_at_the_command_line_are_in_the_log_with_their_user(hub: ReadingRoom) -> None:
    at_hub("enrol", "audited", "--data", hub.data)
    at_hub("site", "quota", "audited", "--studies", "7", "--data", hub.data)
    at_hub("revoke", "audited", "--data", hub.data)
    log = at_hub("audit", "export", "--data", hub.data)
    user = re.compile(r'UserID="os:\w')
    acts = [line for line in log.splitlines() if 'ParticipantObjectID="audited"' in line and user.search(line)]
    assert len(acts) == 3
    assert any("studies 7" in line for line in acts)
