"""Rotation of the hub's authority and sealing key: registered, announced, in use, retired."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import delete, insert
from typer.testing import CliRunner

from tests.support.clock import FakeClock
from tests.support.hub_folder import join
from tests.support.power import Fuse, LossyDisk, PowerCut
from thinwire.receiver.cli.main import app
from thinwire.receiver.hub import Hub, open_hub
from thinwire.receiver.sites import rotation
from thinwire.receiver.sites.enrolment import SiteRegistry
from thinwire.receiver.sites.keyring import (
    AUTHORITY_KEY,
    INDEX,
    SEALING,
    KeyGeneration,
    KeyKind,
    load_keyring,
    make_keyring,
    remove_retired,
    rotate,
)
from thinwire.receiver.sites.rotation import STICK_LIFE, advance, check_running, in_use, register, states
from thinwire.receiver.store.tables import hub_keys
from thinwire.receiver.transport.inbox import FolderInbox
from thinwire.receiver.transport.ingest import IngestSession
from thinwire.shared.crypto.envelope import new_epoch
from thinwire.shared.crypto.keys import Authority, new_request, new_signing_key, prove_join, read_token
from thinwire.shared.errors import BadConfiguration
from thinwire.shared.formats.hub_keys import read_hub_keys
from thinwire.shared.formats.positional import micros
from thinwire.shared.identifiers import SiteName, digest
from thinwire.shared.wire.chunks import VERSION
from thinwire.shared.wire.v1 import link_pb2 as wire

SITE = SiteName("north-valley")
DAY = 86_400.0


def rotated(hub: Hub, kind: KeyKind) -> None:
    rotate(hub.data / "keys", kind, hub.disk, hub.clock)
    register(load_keyring(hub.data / "keys"), hub.database, hub.clock)


def started(hub: Hub) -> Hub:
    """The hub after another start of `serve`."""
    with open_hub(hub.data, hub.clock, serves=True) as opened:
        keys = opened.keys
    return replace(hub, keys=keys, enrolment=SiteRegistry(hub.database, keys, hub.clock))


def settled(hub: Hub, clock: FakeClock) -> Hub:
    """Started again when every replica has the keys."""
    clock.advance(rotation.SETTLING.total_seconds())
    return started(hub)


def number(hub: Hub, secret: object) -> int:
    return next(each.number for each in hub.keys.generations if each.secret == secret)


@pytest.fixture
def served(hub: Hub) -> Hub:
    return started(hub)


def test_an_authority_is_used_when_every_clinic_has_confirmed_it(served: Hub, clock: FakeClock) -> None:
    join(served)
    assert served.keys.announcement.signed == b""
    rotated(served, KeyKind.AUTHORITY)
    hub = started(served)
    told = read_hub_keys(hub.keys.announcement.signed, hub.keys.signing.public_key())
    assert len(told.authorities) == 2
    assert hub.keys.trusted_pem.count(b"BEGIN CERTIFICATE") == 2
    clock.advance(8 * DAY)  # its join token has ended
    assert number(started(hub), started(hub).keys.authority) == 1
    assert states(hub.keys, hub.database, clock)[1].waits_for == (f"not confirmed by {SITE}",)
    hub.enrolment.record_keys_taken(SITE, digest(b"another list"))
    assert number(started(hub), started(hub).keys.authority) == 1
    hub.enrolment.record_keys_taken(SITE, digest(hub.keys.announcement.signed))
    assert rotation.holders(hub.database) == {SITE: (2, 1)}
    again = started(hub)
    assert number(again, again.keys.authority) == 2
    # Its certificate is of the first, which stays until that has ended.
    assert rotation.retire(again.keys, again.database, clock) == set()
    clock.advance(731 * DAY)
    assert len(rotation.retire(again.keys, again.database, clock)) == 1
    last = started(again)
    assert last.keys.trusted_pem == last.keys.authority.certificate_pem


def test_a_clinic_of_an_earlier_version_is_served_until_its_certificate_ends(served: Hub, clock: FakeClock) -> None:
    given = served.enrolment.enrol(SITE)[0]
    joined_by_earlier(served, given)
    rotated(served, KeyKind.AUTHORITY)
    clock.advance(9 * 365 * DAY)
    assert number(started(served), started(served).keys.authority) == 1
    clock.advance(366 * DAY)
    assert number(started(served), started(served).keys.authority) == 2


def joined_by_earlier(hub: Hub, token: str) -> None:
    id, request, key = read_token(token).id, new_request(SITE)[1], new_signing_key()
    hub.enrolment.join(id, request, key.public_key().public_bytes_raw(), prove_join(key, id, request), renews=False)


def test_the_last_two_years_of_an_authority_wait_for_nobody(served: Hub, clock: FakeClock) -> None:
    joined_by_earlier(served, served.enrolment.enrol(SITE)[0])
    clock.advance(9 * 365 * DAY)
    joined_by_earlier(served, served.enrolment.enrol(SITE)[0])
    clock.advance(9 * 365 * DAY - 30 * DAY)
    rotated(served, KeyKind.AUTHORITY)
    assert number(started(served), started(served).keys.authority) == 1
    clock.advance(60 * DAY)
    assert number(started(served), started(served).keys.authority) == 2


def test_a_clinic_of_an_earlier_version_is_told_no_list(served: Hub, clock: FakeClock) -> None:
    join(served)
    rotated(served, KeyKind.AUTHORITY)
    hub = started(served)

    def welcome(keys: wire.KeysTaken | None) -> wire.Welcome:
        session = IngestSession(SITE, FolderInbox(hub.data / "inbox", hub.disk, clock), hub.pipeline(), clock, hub.disk)
        return session.receive(wire.Up(hello=wire.Hello(version=VERSION, hub_keys=keys)))[0].welcome

    told = hub.keys.announcement.signed
    assert welcome(None).hub_keys == b""
    assert welcome(wire.KeysTaken()).hub_keys == told
    assert rotation.holders(hub.database) == {}
    assert welcome(wire.KeysTaken(list=digest(told))).hub_keys == b""
    assert rotation.holders(hub.database) == {SITE: (2, 1)}


def test_old_epochs_open_after_the_sealing_key_was_rotated(served: Hub, clock: FakeClock) -> None:
    clinic = join(served)
    rotated(served, KeyKind.SEALING)
    assert number(started(served), started(served).keys.sealing) == (1 if served.database.shared else 2)
    hub = settled(served, clock)
    assert number(hub, hub.keys.sealing) == 2
    assert hub.enrolment.epoch_key(SITE, clinic.epoch.id) == clinic.epoch
    late, record = new_epoch(SITE, served.keys.sealing.public, clinic.signing, clock)  # from a drive
    hub.enrolment.admit_epoch(SITE, record)
    assert hub.enrolment.epoch_key(SITE, late.id) == late
    _, record = new_epoch(SITE, hub.keys.sealing.public, clinic.signing, clock)
    hub.enrolment.admit_epoch(SITE, record)
    waits = " ".join(states(hub.keys, hub.database, clock)[1].waits_for)
    assert "not confirmed by north-valley" in waits
    assert "2 epochs" in waits
    assert "a drive" in waits
    hub.enrolment.record_keys_taken(SITE, digest(hub.keys.announcement.signed))
    clock.advance(STICK_LIFE.total_seconds() + DAY)
    assert rotation.retire(hub.keys, hub.database, clock) == set()
    hub.enrolment.admit_epoch(SITE, new_epoch(SITE, hub.keys.sealing.public, clinic.signing, clock)[1])  # they expire
    done = rotation.retire(hub.keys, hub.database, clock)
    assert done == {load_keyring(hub.data / "keys").generations[1].digest}
    # A power cut before its files are removed: it is not used any more, and the command is repeated.
    assert started(hub).keys.generations[1].retired
    assert rotation.retire(hub.keys, hub.database, clock) == done
    remove_retired(hub.data / "keys", done, hub.disk)
    assert not (hub.data / "keys" / SEALING).exists()
    assert number(started(hub), started(hub).keys.sealing) == 2


def test_half_of_a_cluster_does_not_start_without_the_other_half_s_keys(served: Hub, clock: FakeClock) -> None:
    other = served.data.parent / "keys-of-another-replica"
    shutil.copytree(served.data / "keys", other)
    running = in_use(load_keyring(other), served.database)
    rotated(served, KeyKind.SEALING)
    with pytest.raises(BadConfiguration, match="older than the hub's database") as refused:
        advance(load_keyring(other), served.database, clock)
    assert "Copy keys/" in refused.value.remedy
    check_running(running, served.database)  # until it is used
    hub = settled(served, clock)
    with pytest.raises(BadConfiguration, match="rotated since"):
        check_running(running, served.database)
    check_running(hub.keys, served.database)
    shutil.copytree(served.data / "keys", other, dirs_exist_ok=True)
    advance(load_keyring(other), served.database, clock)


def test_a_database_from_before_a_rotation_learns_the_keys_again(served: Hub, clock: FakeClock) -> None:
    rotated(served, KeyKind.SEALING)
    hub = settled(served, clock)
    clock.advance(STICK_LIFE.total_seconds() + DAY)
    old = {each.digest for each in hub.keys.generations if each.kind is KeyKind.SEALING and each.number == 1}
    for retired in (set(), old):
        with hub.database.write() as connection:
            connection.execute(delete(hub_keys))  # as a restored backup
            for each in [each for each in hub.keys.generations if each.number == 1]:
                connection.execute(insert(hub_keys).values(row_of(each, clock)))
        if retired:
            remove_retired(hub.data / "keys", retired, hub.disk)
        hub = settled(hub, clock)
        hub = settled(hub, clock)
        assert number(hub, hub.keys.sealing) == 2
        assert hub.keys.generations[1].retired is bool(retired)


def row_of(generation: KeyGeneration, clock: FakeClock) -> dict[str, object]:
    at = micros(clock.now())
    public = {"digest": generation.digest, "kind": str(generation.kind), "number": generation.number}
    return {**public, "made_at": at, "registered_at": at, "in_use_at": at}


def test_a_power_cut_at_any_step_of_a_rotation_leaves_whole_keys(tmp_path: Path, clock: FakeClock) -> None:
    fuse, first = Fuse(), tmp_path / "first"
    make_keyring(first, LossyDisk(fuse), clock)
    before = load_keyring(first)
    whole = tmp_path / "whole"
    shutil.copytree(first, whole)
    rotate(whole, KeyKind.AUTHORITY, LossyDisk(fuse := Fuse()), clock)
    for n, step in enumerate(list(fuse.passed)):
        folder = tmp_path / str(n)
        shutil.copytree(first, folder)
        with pytest.raises(PowerCut):
            rotate(folder, KeyKind.AUTHORITY, LossyDisk(Fuse((step, fuse.passed[: n + 1].count(step)))), clock)
        left = load_keyring(folder)
        assert (left.authority, left.sealing) == (before.authority, before.sealing)
        rotate(folder, KeyKind.AUTHORITY, LossyDisk(Fuse()), clock)
        assert isinstance(load_keyring(folder).generations[-2].secret, Authority)


def test_a_folder_of_before_has_the_first_generation(served: Hub) -> None:
    folder = served.data / "keys"
    before = {each.digest for each in load_keyring(folder).generations}
    (folder / INDEX).unlink()
    assert {each.digest for each in load_keyring(folder).generations} == before
    assert {each.number for each in load_keyring(folder).generations} == {1}


def test_an_index_that_does_not_hold_is_refused(served: Hub) -> None:
    path = served.data / "keys" / INDEX
    index = json.loads(path.read_text())
    cases: tuple[object, ...] = (
        index | {"version": 2},
        index | {"keys": []},
        index | {"keys": [row | {"digest": "00" * 32} for row in index["keys"]]},
        [],
    )
    for broken in cases:
        path.write_text(json.dumps(broken))
        with pytest.raises(BadConfiguration):
            load_keyring(served.data / "keys")


def test_the_commands(served: Hub) -> None:
    def run(*words: str) -> str:
        done = CliRunner().invoke(app, [*words, "--data", str(served.data)])
        assert done.exit_code == 0, done.output
        return done.output

    assert "authority 2 is made" in run("keys", "rotate", "authority")
    shown = run("keys", "list")
    assert "authority 1" in shown
    assert "in use" in shown
    assert "new" in shown
    (row,) = [each for each in json.loads(run("keys", "list", "--json")) if each["number"] == 2]
    assert (row["key"], row["in_use"]) == ("authority", None)
    run("keys", "retire")
    assert (served.data / "keys" / AUTHORITY_KEY).exists()
    assert (served.data / "keys" / SEALING).exists()
