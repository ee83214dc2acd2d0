"""The clinic's certificate is replaced so that a power cut at any step leaves one that the hub accepts."""

from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.clock import FakeClock
from tests.support.power import Fuse, LossyDisk, PowerCut
from thinwire.sender.transport.credentials import (
    CERTIFICATE,
    REQUEST,
    TLS_KEY,
    Credentials,
    read_identity,
    renewal_time,
    warned_time,
)
from thinwire.shared.crypto.certificates import expiry, key_from_pem, load
from thinwire.shared.crypto.keys import issue_client, new_authority, new_request, new_signing_key
from thinwire.shared.errors import NotEnrolled
from thinwire.shared.identifiers import SiteName

SITE = SiteName("north-valley")
CLOCK = FakeClock()
AUTHORITY, SIGNING = new_authority(CLOCK), new_signing_key()


def joined(keys: Path, together: bool = True) -> None:
    """As `join` leaves the folder. together: with the key in the certificate's file, unlike earlier versions."""
    key, request = new_request(SITE)
    certificate = issue_client(AUTHORITY, SITE, request, CLOCK)
    (keys / TLS_KEY).write_bytes(key)
    (keys / REQUEST).write_bytes(request)
    (keys / CERTIFICATE).write_bytes(certificate + key if together else certificate)


def credentials(keys: Path, fuse: Fuse | None = None, clock: FakeClock = CLOCK) -> Credentials:
    return Credentials(keys, SITE, SIGNING, LossyDisk(fuse or Fuse()), clock)


def renew(clinic: Credentials, answers: dict[bytes, bytes]) -> None:
    """One renewal with a hub that gives the same answer to the same request."""
    present = clinic.present()
    request, _ = clinic.request(present)
    clinic.take(answers.setdefault(request, issue_client(AUTHORITY, SITE, request, CLOCK)), present)


@pytest.mark.parametrize("together", [True, False])
def test_a_power_cut_at_any_step_leaves_a_certificate_with_its_key(tmp_path: Path, together: bool) -> None:
    keys, fuse = tmp_path / "whole", Fuse()
    keys.mkdir()
    joined(keys, together)
    before = read_identity(keys)
    renew(credentials(keys, fuse), {})
    assert read_identity(keys) != before
    steps = [(step, fuse.passed[: n + 1].count(step)) for n, step in enumerate(fuse.passed)]
    assert len(steps) > 20
    for n, step in enumerate(steps):
        keys, answers = tmp_path / str(n), dict[bytes, bytes]()
        keys.mkdir()
        joined(keys, together)
        first = read_identity(keys)
        with pytest.raises(PowerCut):
            renew(credentials(keys, Fuse(step)), answers)
        again = credentials(keys)
        left = again.present()
        assert load(left.certificate_pem).public_key() == _public(left.key_pem), step
        if left == first:
            asked = set(answers)
            renew(again, answers)
            # A request that the hub has seen is asked again, not another one.
            assert not asked or set(answers) == asked, step
        assert again.present() != first
        assert again.others(again.present()) == [first]


def _public(key_pem: bytes) -> object:
    return key_from_pem(key_pem).public_key()


def test_a_certificate_that_is_not_this_clinics_changes_nothing(tmp_path: Path) -> None:
    joined(tmp_path)
    clinic = credentials(tmp_path)
    present = clinic.present()
    request, _ = clinic.request(present)
    for wrong in (
        b"no certificate",
        issue_client(AUTHORITY, SiteName("south-ridge"), request, CLOCK),
        issue_client(AUTHORITY, SITE, new_request(SITE)[1], CLOCK),
        issue_client(AUTHORITY, SITE, request, FakeClock(CLOCK.now() - timedelta(days=900))),
    ):
        with pytest.raises(NotEnrolled):
            clinic.take(wrong, present)
    assert clinic.present() == present
    assert clinic.request(present)[0] == request


def test_when_a_certificate_is_renewed(tmp_path: Path) -> None:
    clock = FakeClock()
    joined(tmp_path)
    clinic = credentials(tmp_path, clock=clock)
    present = clinic.present()
    life = expiry(load(present.certificate_pem)) - clock.now()
    times = {renewal_time(issue_client(AUTHORITY, SITE, new_request(SITE)[1], CLOCK)) for _ in range(8)}
    assert max(times) - min(times) < life / 12 + timedelta(days=1)
    assert len(times) > 1
    assert not clinic.is_due(present)
    clock.advance((renewal_time(present.certificate_pem) - clock.now()).total_seconds())
    assert clinic.is_due(present)
    assert clock.now() < warned_time(present.certificate_pem)
    renew(clinic, {})
    assert clinic.is_due(present)  # connected with the one before, as after a restore of the hub
    clock.advance(life.total_seconds())
    assert clinic.others(clinic.present()) == []
