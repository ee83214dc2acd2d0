"""The clinic takes newer keys of its hub from a signed list, whole and durable, and no others."""

from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.power import Fuse, LossyDisk, PowerCut
from tests.support.two_ends import AUTHORITY, HUB_KEY, HUB_SIGNING, TwoEnds
from thinwire.sender.outbox.hub_keys import HUB_SEALING, HubKeyFiles, sealing_key
from thinwire.shared.clock import SystemClock
from thinwire.shared.crypto.certificates import der, load
from thinwire.shared.crypto.envelope import peek_hub_key
from thinwire.shared.crypto.keys import HubPrivateKey, new_authority, new_signing_key
from thinwire.shared.errors import Forged
from thinwire.shared.formats.hub_keys import HubKeys, read_hub_keys, sign_hub_keys
from thinwire.shared.identifiers import digest
from thinwire.shared.wire.chunks import VERSION
from thinwire.shared.wire.v1 import link_pb2 as wire

NEW, NEWER = (HubPrivateKey(bytes([n]) * 96).public for n in (7, 8))
AUTHORITIES = tuple(der(load(each.certificate_pem)) for each in (AUTHORITY, new_authority(SystemClock())))
AT = SystemClock().now().replace(microsecond=0)


@pytest.fixture
def ends(tmp_path: Path) -> TwoEnds:
    return TwoEnds(tmp_path)


def signed(sealing: bytes = NEW.raw, days: int = 0, key: Ed25519PrivateKey = HUB_SIGNING) -> bytes:
    return sign_hub_keys(HubKeys(AT + timedelta(days=days), AUTHORITIES, sealing), key)


def files(keys: Path, fuse: Fuse | None = None) -> HubKeyFiles:
    keys.mkdir(exist_ok=True)
    return HubKeyFiles(keys, LossyDisk(fuse or Fuse()), HUB_SIGNING.public_key())


def test_a_list_that_is_not_the_hubs_or_is_older_changes_nothing(tmp_path: Path) -> None:
    kept = files(tmp_path)
    assert kept.taken() == b""
    assert kept.keep(signed())
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    broken = bytearray(signed(NEWER.raw, 2))
    broken[100] ^= 1
    for other in (signed(NEWER.raw, -1), signed(NEWER.raw, 1, new_signing_key()), bytes(broken), b"", bytes(20_000)):
        assert not kept.keep(other)
        assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == before
    assert kept.taken() == digest(signed())
    assert kept.keep(signed(NEWER.raw, 1))
    assert sealing_key(tmp_path) == NEWER
    assert (kept.authorities_pem() or b"").count(b"BEGIN CERTIFICATE") == 2


def test_a_power_cut_at_any_step_is_made_good_by_the_next_stream(tmp_path: Path) -> None:
    files(tmp_path / "whole", fuse := Fuse()).keep(signed())
    for n, step in enumerate(fuse.passed):
        folder = tmp_path / str(n)
        with pytest.raises(PowerCut):
            files(folder, Fuse((step, fuse.passed[: n + 1].count(step)))).keep(signed())
        again = files(folder)
        # The hub hears of the list only when all of it is in use.
        assert again.taken() in (b"", digest(signed()))
        if again.taken():
            assert sealing_key(folder) == NEW
            assert again.authorities_pem()
        assert again.keep(signed())
        assert sealing_key(folder) == NEW


def test_a_running_clinic_seals_its_next_epoch_to_the_new_key_and_confirms_the_list(ends: TwoEnds) -> None:
    uplink = ends.uplink()
    assert uplink.hello().hello.hub_keys.list == b""
    first = ends.outbox.epochs.current()
    assert peek_hub_key(ends.outbox.epochs.record(first.id)) == HUB_KEY.public.key_id
    (taken,) = uplink.receive(wire.Down(welcome=wire.Welcome(version=VERSION, hub_keys=signed())))
    assert taken.keys_taken.list == digest(signed())
    ends.clock.advance(25 * 3600)
    assert peek_hub_key(ends.outbox.epochs.record(ends.outbox.epochs.current().id)) == NEW.key_id
    assert ends.uplink().hello().hello.hub_keys.list == digest(signed())
    assert (ends.folder / "clinic" / "keys" / HUB_SEALING).read_bytes() == NEW.raw
    # An earlier hub tells no list.
    assert ends.uplink().receive(wire.Down(welcome=wire.Welcome(version=VERSION))) == []


def test_a_list_of_another_form_is_refused() -> None:
    keys = HubKeys(AT, AUTHORITIES, NEW.raw)
    assert read_hub_keys(sign_hub_keys(keys, HUB_SIGNING), HUB_SIGNING.public_key()) == keys
    for wrong in (
        HubKeys(AT, (), NEW.raw),
        HubKeys(AT, AUTHORITIES * 5, NEW.raw),
        HubKeys(AT, (b"no certificate",), NEW.raw),
        HubKeys(AT, AUTHORITIES, NEW.raw[:-1]),
    ):
        with pytest.raises(Forged):
            read_hub_keys(sign_hub_keys(wrong, HUB_SIGNING), HUB_SIGNING.public_key())
