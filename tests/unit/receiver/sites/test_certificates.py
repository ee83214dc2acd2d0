"""The next certificate of a site: both are accepted until it has connected, and the old one never again."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.clock import FakeClock
from tests.support.hub_end import used
from thinwire.receiver.hub import Hub
from thinwire.receiver.sites.certificates import in_force
from thinwire.shared.crypto.certificates import expiry, load
from thinwire.shared.crypto.keys import fingerprint, new_request, new_signing_key, prove_renewal
from thinwire.shared.errors import NotEnrolled
from thinwire.shared.identifiers import SiteName

SITE, OTHER = SiteName("north-valley"), SiteName("south-ridge")
SIGNING, STRANGER = new_signing_key(), new_signing_key()


def joined(hub: Hub, site: SiteName = SITE) -> bytes:
    """The certificate of a site that has connected."""
    certificate = used(hub.enrolment, hub.enrolment.enrol(site)[0], new_request(site)[1], SIGNING).certificate_pem
    hub.enrolment.connect(site, certificate)
    return certificate


def renewed(hub: Hub, present: bytes, request: bytes, signing: Ed25519PrivateKey = SIGNING) -> bytes:
    proof = prove_renewal(signing, fingerprint(present), request)
    return hub.enrolment.renew(SITE, fingerprint(present), request, proof)


def accepts(hub: Hub, certificate: bytes) -> bool:
    return not hub.enrolment.refused({SITE: fingerprint(certificate)})


def test_the_next_certificate_replaces_the_present_one_when_it_connects(hub: Hub, clock: FakeClock) -> None:
    first, other = joined(hub), joined(hub, OTHER)
    clock.advance(500 * 86_400)
    request = new_request(SITE)[1]
    second = renewed(hub, first, request)
    assert renewed(hub, first, request) == second  # the answer was lost
    assert (accepts(hub, first), accepts(hub, second)) == (True, True)
    hub.enrolment.connect(SITE, first)  # the clinic had no time to use it
    assert (accepts(hub, first), accepts(hub, second)) == (True, True)
    hub.enrolment.connect(SITE, second)
    assert (accepts(hub, first), accepts(hub, second)) == (False, True)
    with pytest.raises(NotEnrolled):
        hub.enrolment.connect(SITE, first)
    assert (accepts(hub, first), accepts(hub, second)) == (False, True)
    with pytest.raises(NotEnrolled):
        renewed(hub, first, new_request(SITE)[1])
    north, south = in_force(hub.database)
    assert (north.fingerprint, north.next_offered) == (fingerprint(second), False)
    assert north.expires == expiry(load(second)) > clock.now()
    assert (south.site, south.fingerprint) == (OTHER, fingerprint(other))


def test_another_request_replaces_one_whose_key_was_lost(hub: Hub) -> None:
    first = joined(hub)
    lost, second = (renewed(hub, first, new_request(SITE)[1]) for _ in range(2))
    assert (accepts(hub, first), accepts(hub, lost), accepts(hub, second)) == (True, False, True)
    assert in_force(hub.database)[0].next_offered
    with pytest.raises(NotEnrolled, match="in force alone"):
        renewed(hub, second, new_request(SITE)[1])


def test_the_key_of_tls_alone_renews_nothing(hub: Hub) -> None:
    first, request = joined(hub), new_request(SITE)[1]
    elsewhere = prove_renewal(SIGNING, fingerprint(first), new_request(SITE)[1])
    for proof in (b"", bytes(64), prove_renewal(STRANGER, fingerprint(first), request), elsewhere):
        with pytest.raises(NotEnrolled, match="signing key"):
            hub.enrolment.renew(SITE, fingerprint(first), request, proof)
    assert not in_force(hub.database)[0].next_offered


def test_revocation_and_a_new_token_end_both(hub: Hub) -> None:
    first = joined(hub)
    second = renewed(hub, first, new_request(SITE)[1])
    hub.enrolment.dismiss(SITE)
    assert (accepts(hub, first), accepts(hub, second)) == (False, False)
    with pytest.raises(NotEnrolled):
        renewed(hub, first, new_request(SITE)[1])
    third = joined(hub)
    assert [accepts(hub, each) for each in (first, second, third)] == [False, False, True]
