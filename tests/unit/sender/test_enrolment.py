"""A clinic joins once, and again only the same hub under the same name."""

from pathlib import Path

import pytest

from tests.support.real_link import write_keys
from tests.support.two_ends import AUTHORITY, SITE
from thinwire.sender.config import FILE, template
from thinwire.sender.enrolment import join
from thinwire.shared.clock import SystemClock
from thinwire.shared.crypto.keys import Authority, make_token, new_authority
from thinwire.shared.errors import BadConfiguration
from thinwire.shared.identifiers import SiteName
from thinwire.shared.storage.durable import Disk


@pytest.mark.parametrize(
    ("authority", "site"), [(new_authority(SystemClock()), SITE), (AUTHORITY, SiteName("ridge"))], ids=["hub", "name"]
)
def test_a_joined_folder_joins_no_other_hub_and_under_no_other_name(
    tmp_path: Path, authority: Authority, site: SiteName
) -> None:
    write_keys(tmp_path)
    (tmp_path / FILE).write_text(template("hub.example.org:7443"), encoding="utf-8")
    before = {each: each.read_bytes() for each in tmp_path.rglob("*") if each.is_file()}
    token = make_token(authority, site, SystemClock())
    with pytest.raises(BadConfiguration, match="already joined"):
        join(tmp_path, token, "127.0.0.1:1", Disk(), SystemClock())
    assert {each: each.read_bytes() for each in tmp_path.rglob("*") if each.is_file()} == before
