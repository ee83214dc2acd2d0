"""After a restore nothing opens the hub that was valid at the time of the backup and used or ended since."""

from pathlib import Path

import pytest

from tests.support.clock import FakeClock
from tests.support.hub_folder import join
from thinwire.receiver.access.accounts import Accounts, Role
from thinwire.receiver.hub import open_hub
from thinwire.receiver.operations.backup import back_up, restore
from thinwire.shared.crypto.keys import new_request, new_signing_key, prove_join, read_token
from thinwire.shared.errors import NotEnrolled
from thinwire.shared.identifiers import SiteName


def no_message(_connection: object) -> None:
    """For acts whose messages are not looked at here."""


def quiet(_what: str, _done: int, _total: int) -> None:
    """For progress that is not looked at here."""


def test_links_sessions_and_tokens_of_a_backup_are_ended(data: Path, clock: FakeClock, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    with open_hub(data, clock) as hub:
        site = join(hub).site
        token = read_token(hub.enrolment.enrol(SiteName("south-ridge"))[0])
        accounts = Accounts(hub.database, clock)
        link = accounts.add("a.lund", "Dr. Anna Lund", Role.READER, no_message)
        accounts.accept(link, "correct horse battery", "a.lund", "Dr. Anna Lund", no_message)
        session = accounts.start("a.lund", no_message)
        again = accounts.link("a.lund", no_message)
        back_up(hub.database, hub.blobs, data, backup, hub.disk, clock, no_message, quiet)
        disk = hub.disk
    restore(data, backup, disk, clock, no_message, quiet)
    with open_hub(data, clock) as restored:
        accounts = Accounts(restored.database, clock)
        assert accounts.invited(again) == (False, None)
        assert accounts.session(session) is None
        signing, (_, request) = new_signing_key(), new_request(SiteName("south-ridge"))
        public = signing.public_key().public_bytes_raw()
        with pytest.raises(NotEnrolled):
            restored.enrolment.join(token.id, request, public, prove_join(signing, token.id, request))
        assert restored.enrolment.served() == [site]
