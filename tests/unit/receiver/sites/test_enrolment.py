import sqlite3

import pytest

from tests.support.clock import FakeClock
from tests.support.hub_folder import join
from thinwire.receiver.hub import Hub, open_hub, serving_lock
from thinwire.shared.crypto.envelope import new_epoch
from thinwire.shared.crypto.keys import (
    TOKEN_LIFE,
    JoinTokenId,
    Site,
    fingerprint,
    new_request,
    new_signing_key,
    peer_identity,
    read_token,
)
from thinwire.shared.errors import BadConfiguration, Forged, NotEnrolled
from thinwire.shared.identifiers import Digest, EpochId, SiteName

SITE = SiteName("north-valley")
OTHER = SiteName("south-ridge")
FIRST, SECOND = (new_signing_key(lambda n, b=b: bytes([b]) * n).public_key().public_bytes_raw() for b in (1, 2))  # type: ignore[misc]


def token(hub: Hub, site: SiteName = SITE) -> JoinTokenId:
    return read_token(hub.enrolment.enrol(site)[0]).id


def request(site: SiteName = SITE) -> bytes:
    return new_request(site)[1]


def test_a_token_makes_a_site(hub: Hub) -> None:
    id = token(hub)
    with pytest.raises(NotEnrolled):
        hub.enrolment.check_site(SITE, Digest(b"?" * 32))
    joined = hub.enrolment.join(id, request(), FIRST)
    assert joined.site == SITE
    assert peer_identity(joined.certificate_pem) == Site(SITE)
    assert joined.sealing_key == hub.keys.sealing.public.raw
    hub.enrolment.check_site(SITE, fingerprint(joined.certificate_pem))
    assert hub.enrolment.site_names() == [SITE]


def test_the_first_key_uses_a_token_up_and_may_come_again(hub: Hub, clock: FakeClock) -> None:
    id = token(hub)
    hub.enrolment.join(id, request(), FIRST)
    assert hub.enrolment.join(id, request(), FIRST).site == SITE
    with pytest.raises(NotEnrolled):
        hub.enrolment.join(id, request(), SECOND)
    clock.advance(TOKEN_LIFE.total_seconds() + 1)
    with pytest.raises(NotEnrolled):
        hub.enrolment.join(id, request(), FIRST)


@pytest.mark.parametrize("bad", [JoinTokenId(bytes(8))])
def test_a_token_of_nobody_joins_nobody(hub: Hub, bad: JoinTokenId) -> None:
    with pytest.raises(NotEnrolled):
        hub.enrolment.join(bad, request(), FIRST)


def test_a_request_that_does_not_hold_leaves_the_token_unused(hub: Hub) -> None:
    id = token(hub)
    with pytest.raises(NotEnrolled):
        hub.enrolment.join(id, b"no request", FIRST)
    with pytest.raises(NotEnrolled):
        hub.enrolment.join(id, request(), b"short")
    assert hub.enrolment.join(id, request(), SECOND).site == SITE


def test_no_token_stands_in_the_database(hub: Hub) -> None:
    id = token(hub)
    with sqlite3.connect(hub.data / "thinwire.db") as connection:
        dump = "\n".join(connection.iterdump()).lower()
    connection.close()
    assert id.value.hex() not in dump


def test_an_epoch_belongs_to_the_site_that_announced_it(hub: Hub) -> None:
    clinic, other = join(hub), join(hub, OTHER)
    assert hub.enrolment.epoch_key(SITE, clinic.epoch.id) == clinic.epoch
    assert hub.enrolment.epoch_key(OTHER, clinic.epoch.id) is None
    assert hub.enrolment.epoch_key(SITE, EpochId(bytes(8))) is None
    with pytest.raises(Forged):
        hub.enrolment.admit_epoch(OTHER, clinic.record)
    hub.enrolment.admit_epoch(SITE, clinic.record)
    assert other.epoch.id != clinic.epoch.id


def test_the_first_record_of_an_epoch_wins(hub: Hub) -> None:
    clinic = join(hub)
    fixed = iter([bytes(clinic.epoch.id), bytes(32)])
    _, second = new_epoch(SITE, hub.keys.sealing.public, clinic.signing, hub.clock, lambda _: next(fixed))
    hub.enrolment.admit_epoch(SITE, second)
    assert hub.enrolment.epoch_key(SITE, clinic.epoch.id) == clinic.epoch


def test_a_site_that_joins_anew_keeps_its_old_epochs(hub: Hub) -> None:
    before = join(hub)
    after = join(hub)
    assert hub.enrolment.verify_key(SITE, before.epoch.id) == before.signing.public_key()
    assert hub.enrolment.verify_key(SITE, after.epoch.id) == after.signing.public_key()
    with pytest.raises(Forged):
        hub.enrolment.admit_epoch(SITE, new_epoch(SITE, hub.keys.sealing.public, before.signing, hub.clock)[1])


def test_a_dismissed_site_is_served_no_more_until_it_joins_again(hub: Hub) -> None:
    first = fingerprint(hub.enrolment.join(token(hub), request(), FIRST).certificate_pem)
    hub.enrolment.check_site(SITE, first)
    waiting = token(hub)
    hub.enrolment.dismiss(SITE)
    with pytest.raises(NotEnrolled):
        hub.enrolment.check_site(SITE, first)
    with pytest.raises(NotEnrolled):
        hub.enrolment.join(waiting, request(), SECOND)
    fresh = token(hub)
    with pytest.raises(NotEnrolled):
        hub.enrolment.check_site(SITE, first)
    joined = hub.enrolment.join(fresh, request(), SECOND)
    hub.enrolment.check_site(SITE, fingerprint(joined.certificate_pem))
    with pytest.raises(NotEnrolled, match="joined anew"):
        hub.enrolment.check_site(SITE, first)
    with pytest.raises(NotEnrolled):
        hub.enrolment.dismiss(SiteName("nobody"))


def test_one_process_serves_a_hub(hub: Hub) -> None:
    with serving_lock(hub.data), pytest.raises(BadConfiguration), serving_lock(hub.data):
        pass
    with serving_lock(hub.data):
        pass


def test_a_database_of_another_version_is_refused(hub: Hub, clock: FakeClock) -> None:
    with sqlite3.connect(hub.data / "thinwire.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    connection.close()
    with pytest.raises(BadConfiguration, match="version 1"), open_hub(hub.data, clock):
        pass


def test_a_damaged_key_is_named(hub: Hub, clock: FakeClock) -> None:
    (hub.data / "keys" / "sealing.key").write_bytes(b"short")
    with pytest.raises(BadConfiguration) as caught, open_hub(hub.data, clock):
        pass
    assert "backup" in caught.value.remedy


def test_keys_are_for_their_owner_alone(hub: Hub) -> None:
    assert {path.stat().st_mode & 0o777 for path in (hub.data / "keys").iterdir()} == {0o600}
    assert hub.data.stat().st_mode & 0o777 == 0o700
    assert (hub.data / "thinwire.db").stat().st_mode & 0o777 == 0o600
