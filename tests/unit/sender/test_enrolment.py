"""A clinic joins once, and again only the same hub under the same name."""

from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.real_link import write_keys
from tests.support.two_ends import AUTHORITY, HUB_KEY, HUB_SIGNING, SITE
from thinwire.sender.config import FILE, template
from thinwire.sender.enrolment import join, load_enrolment
from thinwire.sender.transport.credentials import REQUEST
from thinwire.shared.clock import SystemClock
from thinwire.shared.crypto.keys import (
    JoinToken,
    issue_client,
    make_token,
    new_authority,
    new_request,
    new_signing_key,
)
from thinwire.shared.errors import BadConfiguration
from thinwire.shared.identifiers import SiteName
from thinwire.shared.storage.durable import Disk
from thinwire.shared.wire.v1 import link_pb2 as wire

OTHER = new_signing_key()


def answer(hub: Ed25519PrivateKey, token: JoinToken, request: bytes, _: Ed25519PrivateKey) -> wire.JoinReply:
    """As a hub with this signing key answers."""
    return wire.JoinReply(
        certificate=issue_client(AUTHORITY, token.site, request, SystemClock()),
        sealing_key=HUB_KEY.public.raw,
        signing_key=hub.public_key().public_bytes_raw(),
        site=token.site,
    )


def test_a_joined_folder_joins_its_hub_again_under_a_new_authority(tmp_path: Path) -> None:
    write_keys(tmp_path)
    (tmp_path / FILE).write_text(template("hub.example.org:7443"), encoding="utf-8")
    authority, before = new_authority(SystemClock()), load_enrolment(tmp_path)
    token = make_token(authority, SITE, SystemClock())
    assert join(tmp_path, token, "hub:1", Disk(), SystemClock(), partial(answer, HUB_SIGNING)) == SITE
    after = load_enrolment(tmp_path)
    assert after.authority_pem == authority.certificate_pem
    assert after.signing.private_bytes_raw() == before.signing.private_bytes_raw()
    assert after.identity != before.identity


@pytest.mark.parametrize(("signing", "site"), [(OTHER, SITE), (HUB_SIGNING, SiteName("ridge"))], ids=["hub", "name"])
def test_a_joined_folder_joins_no_other_hub_and_under_no_other_name(
    tmp_path: Path, signing: Ed25519PrivateKey, site: SiteName
) -> None:
    write_keys(tmp_path)
    (tmp_path / FILE).write_text(template("hub.example.org:7443"), encoding="utf-8")
    (tmp_path / "keys" / REQUEST).write_bytes(new_request(SITE)[1])
    before = {each: each.read_bytes() for each in tmp_path.rglob("*") if each.is_file()}
    token = make_token(new_authority(SystemClock()), site, SystemClock())
    with pytest.raises(BadConfiguration, match="already joined"):
        join(tmp_path, token, "127.0.0.1:1", Disk(), SystemClock(), partial(answer, signing))
    assert {each: each.read_bytes() for each in tmp_path.rglob("*") if each.is_file()} == before
