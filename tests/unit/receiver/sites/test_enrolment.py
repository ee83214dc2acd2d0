import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select, update

from tests.support.clock import FakeClock
from tests.support.hub_folder import Clinic, join
from thinwire.receiver.config import FILE
from thinwire.receiver.hub import DATABASE, Hub, open_hub, serving_lock
from thinwire.receiver.sites import enrolment
from thinwire.receiver.sites.enrolment import EPOCH_LIFE, JoinResult
from thinwire.receiver.store.shares import Limit
from thinwire.receiver.store.tables import TABLES, epoch_uses
from thinwire.shared.crypto.envelope import new_epoch
from thinwire.shared.crypto.keys import (
    TOKEN_LIFE,
    JoinTokenId,
    Site,
    fingerprint,
    new_request,
    new_signing_key,
    peer_identity,
    prove_join,
    read_token,
)
from thinwire.shared.errors import BadConfiguration, Forged, HubBusy, LimitReached, NotEnrolled
from thinwire.shared.formats.positional import micros
from thinwire.shared.identifiers import EpochId, SiteName

SITE = SiteName("north-valley")
OTHER = SiteName("south-ridge")
FIRST, SECOND = (new_signing_key(lambda n, b=b: bytes([b]) * n) for b in (1, 2))  # type: ignore[misc]


def token(hub: Hub, site: SiteName = SITE) -> JoinTokenId:
    return read_token(hub.enrolment.enrol(site)[0]).id


def request(site: SiteName = SITE) -> bytes:
    return new_request(site)[1]


def joined_by(hub: Hub, id: JoinTokenId, request: bytes, signing: Ed25519PrivateKey) -> JoinResult:
    public = signing.public_key().public_bytes_raw()
    return hub.enrolment.join(id, request, public, prove_join(signing, id, request))


def test_a_token_makes_a_site(hub: Hub) -> None:
    id = token(hub)
    with pytest.raises(NotEnrolled):
        hub.enrolment.check_site(SITE)
    joined = joined_by(hub, id, request(), FIRST)
    assert joined.site == SITE
    assert peer_identity(joined.certificate_pem) == Site(SITE)
    assert joined.sealing_key == hub.keys.sealing.public.raw
    hub.enrolment.connect(SITE, joined.certificate_pem)
    assert hub.enrolment.site_names() == [SITE]


def test_the_first_request_uses_a_token_up_and_is_answered_alike(hub: Hub, clock: FakeClock) -> None:
    id, asked = token(hub), request()
    first = joined_by(hub, id, asked, FIRST)
    assert joined_by(hub, id, asked, FIRST) == first
    for other, key in ((request(), FIRST), (asked, SECOND), (request(), SECOND)):
        with pytest.raises(NotEnrolled):
            joined_by(hub, id, other, key)
    assert not hub.enrolment.refused({SITE: fingerprint(first.certificate_pem)})
    clock.advance(TOKEN_LIFE.total_seconds() + 1)
    with pytest.raises(NotEnrolled):
        joined_by(hub, id, asked, FIRST)


def test_the_first_connection_ends_a_token(hub: Hub) -> None:
    id, asked = token(hub), request()
    joined = joined_by(hub, id, asked, FIRST)
    hub.enrolment.connect(SITE, joined.certificate_pem)
    with pytest.raises(NotEnrolled, match="used"):
        joined_by(hub, id, asked, FIRST)
    another = token(hub)
    hub.enrolment.connect(SITE, joined.certificate_pem)
    assert joined_by(hub, another, request(), SECOND).site == SITE


def test_whoever_does_not_have_the_signing_key_does_not_join(hub: Hub) -> None:
    id, other, asked = token(hub), token(hub), request()
    public = FIRST.public_key().public_bytes_raw()
    for proof in (
        b"",
        bytes(64),
        prove_join(SECOND, id, asked),
        prove_join(FIRST, other, asked),
        prove_join(FIRST, id, request()),
    ):
        with pytest.raises(NotEnrolled, match="prove"):
            hub.enrolment.join(id, asked, public, proof)
    assert joined_by(hub, id, asked, FIRST).site == SITE


@pytest.mark.parametrize("bad", [JoinTokenId(bytes(8))])
def test_a_token_of_nobody_joins_nobody(hub: Hub, bad: JoinTokenId) -> None:
    with pytest.raises(NotEnrolled):
        joined_by(hub, bad, request(), FIRST)


def test_a_request_that_does_not_hold_leaves_the_token_unused(hub: Hub) -> None:
    id, asked = token(hub), request()
    with pytest.raises(NotEnrolled):
        joined_by(hub, id, b"no request", FIRST)
    with pytest.raises(NotEnrolled):
        hub.enrolment.join(id, asked, b"short", prove_join(FIRST, id, asked))
    assert joined_by(hub, id, asked, SECOND).site == SITE


def test_no_token_stands_in_the_database(hub: Hub) -> None:
    id = token(hub)
    with hub.database.read() as connection:
        rows = [row for table in TABLES.sorted_tables for row in connection.execute(select(table)).all()]
    assert len(rows) > 1
    assert all(id.value not in each for row in rows for each in row if isinstance(each, bytes))
    assert all(id.value.hex() not in str(each) for row in rows for each in row)


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


def announce(hub: Hub, clinic: Clinic) -> EpochId:
    epoch, record = new_epoch(SITE, hub.keys.sealing.public, clinic.signing, hub.clock)
    hub.enrolment.admit_epoch(SITE, record)
    return epoch.id


def test_new_epochs_are_limited_and_the_least_used_makes_room(hub: Hub, clock: FakeClock) -> None:
    clinic = join(hub)
    hub.enrolment.set_limits(SITE, {Limit.EPOCHS: 3}, lambda _: None)
    ids = [clinic.epoch.id, announce(hub, clinic), announce(hub, clinic)]
    for _ in range(3):
        with pytest.raises(LimitReached, match="within the hour") as caught:
            announce(hub, clinic)
    assert "site quota" in caught.value.remedy
    hub.enrolment.admit_epoch(SITE, clinic.record)  # a known one is no new one
    clock.advance(3601)
    with hub.database.write() as connection:
        connection.execute(update(epoch_uses).where(epoch_uses.c.epoch == ids[0]).values(used_at=micros(clock.now())))
    clock.advance(1)
    ids.append(announce(hub, clinic))
    known = [hub.enrolment.epoch_key(SITE, each) is not None for each in ids]
    assert known.count(True) == 3
    assert (known[0], known[3]) == (True, True)
    lost = ids[known.index(False)]
    with pytest.raises(HubBusy):
        hub.enrolment.verify_key(SITE, lost)


def test_an_epoch_that_is_not_used_expires_and_may_come_again(hub: Hub, clock: FakeClock) -> None:
    clinic = join(hub)
    clock.advance(EPOCH_LIFE.total_seconds() + 1)
    announce(hub, clinic)
    assert hub.enrolment.epoch_key(SITE, clinic.epoch.id) is None
    hub.enrolment.admit_epoch(SITE, clinic.record)
    assert hub.enrolment.epoch_key(SITE, clinic.epoch.id) == clinic.epoch


def test_a_site_that_joins_anew_keeps_its_old_epochs(hub: Hub) -> None:
    before = join(hub)
    after = join(hub)
    assert hub.enrolment.verify_key(SITE, before.epoch.id) == before.signing.public_key()
    assert hub.enrolment.verify_key(SITE, after.epoch.id) == after.signing.public_key()
    with pytest.raises(Forged):
        hub.enrolment.admit_epoch(SITE, new_epoch(SITE, hub.keys.sealing.public, before.signing, hub.clock)[1])


def test_a_dismissed_site_is_served_no_more_until_it_joins_again(hub: Hub) -> None:
    first = joined_by(hub, token(hub), request(), FIRST).certificate_pem
    hub.enrolment.connect(SITE, first)
    waiting = token(hub)
    hub.enrolment.dismiss(SITE)
    with pytest.raises(NotEnrolled):
        hub.enrolment.connect(SITE, first)
    with pytest.raises(NotEnrolled):
        joined_by(hub, waiting, request(), SECOND)
    fresh = token(hub)
    with pytest.raises(NotEnrolled):
        hub.enrolment.connect(SITE, first)
    joined = joined_by(hub, fresh, request(), SECOND)
    hub.enrolment.connect(SITE, joined.certificate_pem)
    with pytest.raises(NotEnrolled, match="another certificate"):
        hub.enrolment.connect(SITE, first)
    with pytest.raises(NotEnrolled):
        hub.enrolment.dismiss(SiteName("nobody"))


def test_one_process_serves_a_hub(hub: Hub) -> None:
    with serving_lock(hub.data), pytest.raises(BadConfiguration), serving_lock(hub.data):
        pass
    with serving_lock(hub.data):
        pass


def test_a_database_of_another_version_is_refused(hub: Hub, clock: FakeClock) -> None:
    with hub.database.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
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
    assert (hub.data / (FILE if hub.database.shared else DATABASE)).stat().st_mode & 0o777 == 0o600


def test_the_epochs_in_use_stay_opened(hub: Hub, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrolment, "_MOST_OPENED", 2)
    used, rare, new = (join(hub, name) for name in ("north-valley", "south-ridge", "west-hill"))
    for clinic in (used, rare, used, new):
        clock.advance(enrolment.FRESH_SECONDS)
        assert hub.enrolment.epoch_key(clinic.site, clinic.epoch.id) is not None
    assert [site for site, _ in hub.enrolment._opened] == [used.site, new.site]
