"""Accounts, one-time links and sessions."""

import pytest

from tests.support.clock import FakeClock
from tests.support.reading_room import PASSWORD, quick_accounts, quiet
from thinwire.receiver.access.accounts import IDLE, INVITATION, LONGEST, Accounts, Role
from thinwire.receiver.access.attempts import FIRST_PAUSE, FREE, LONGEST_PAUSE, Attempts
from thinwire.receiver.hub import Hub
from thinwire.shared.errors import BadInput


@pytest.fixture
def accounts(hub: Hub) -> Accounts:
    return quick_accounts(hub)


def entered(accounts: Accounts, name: str = "a.lund", role: Role = Role.READER) -> str:
    """An account whose password is set, and a session of it."""
    secret = accounts.add(name, "Dr. Anna Lund", role, quiet)
    accounts.accept(secret, PASSWORD, name, "", quiet)
    return accounts.start(name, quiet)


def test_the_first_link_makes_an_administrator_once(accounts: Accounts) -> None:
    lost, link = accounts.first(), accounts.first()
    assert lost is not None
    assert link is not None
    assert accounts.invited(lost) == (False, None)  # the newer one counts
    assert accounts.accept(link, PASSWORD, "root", "Ada Root", quiet) == "root"
    (account,) = accounts.all()
    assert (account.role, account.full_name, account.waits) == (Role.ADMINISTRATOR, "Ada Root", False)
    with pytest.raises(BadInput, match="used"):
        accounts.accept(link, PASSWORD, "again", "Again", quiet)
    assert accounts.first() is None


def test_a_password_is_its_holder_s_alone(accounts: Accounts) -> None:
    secret = accounts.add("a.lund", "Dr.  Anna   Lund", Role.READER, quiet)
    assert accounts.check("a.lund", "") is None
    with pytest.raises(BadInput, match="too short"):
        accounts.accept(secret, "short", "a.lund", "", quiet)
    accounts.accept(secret, PASSWORD, "a.lund", "", quiet)
    found = accounts.check("a.lund", PASSWORD)
    assert found is not None
    assert found.full_name == "Dr. Anna Lund"
    assert accounts.check("a.lund", PASSWORD + "x") is None
    assert accounts.check("nobody", PASSWORD) is None


@pytest.mark.parametrize("name", ["", "A.Lund", "../x", "a" * 65, "a b"])
def test_names_that_no_account_may_have(accounts: Accounts, name: str) -> None:
    with pytest.raises(BadInput, match="not allowed"):
        accounts.add(name, "Somebody", Role.READER, quiet)


def test_a_link_holds_for_a_day_and_a_new_one_ends_it(accounts: Accounts, clock: FakeClock) -> None:
    old = accounts.add("a.lund", "Dr. Anna Lund", Role.READER, quiet)
    new = accounts.link("a.lund", quiet)
    assert (accounts.invited(old), accounts.invited(new)) == ((False, None), (True, "a.lund"))
    clock.advance(INVITATION.total_seconds())
    assert accounts.invited(new) == (False, None)


def test_a_session_ends_idle_at_the_latest_or_with_its_account(accounts: Accounts, clock: FakeClock) -> None:
    secret = entered(accounts)
    assert accounts.session("forged") is None
    clock.advance(IDLE.total_seconds() - 1)
    assert accounts.session(secret, touch=False) is not None
    assert accounts.session(secret) is not None
    clock.advance(IDLE.total_seconds() - 1)
    assert accounts.session(secret, touch=False) is not None
    clock.advance(2)
    assert accounts.session(secret) is None
    long = accounts.start("a.lund", quiet)
    for _ in range(int(LONGEST / IDLE) * 2):
        clock.advance(IDLE.total_seconds() / 2)
        assert accounts.session(long) is not None
    clock.advance(1)
    assert accounts.session(long) is None
    last = accounts.start("a.lund", quiet)
    accounts.remove("a.lund", quiet)
    assert accounts.session(last) is None
    assert accounts.check("a.lund", PASSWORD) is None
    with pytest.raises(BadInput, match="no open account"):
        accounts.remove("a.lund", quiet)
    with pytest.raises(BadInput, match="exists"):
        accounts.add("a.lund", "Another", Role.READER, quiet)


def test_what_goes_wrong_beside_leaves_no_account(accounts: Accounts) -> None:
    def full(_: object) -> None:
        raise RuntimeError("no space for the audit log")

    with pytest.raises(RuntimeError):
        accounts.add("a.lund", "Dr. Anna Lund", Role.READER, full)
    assert accounts.all() == []


def test_tries_are_slowed_and_never_locked(clock: FakeClock) -> None:
    attempts = Attempts(clock)
    for _ in range(FREE):
        assert attempts.wait("account a", "address 1") == 0
        attempts.failed("account a")
    assert attempts.wait("account a", "address 1") == FIRST_PAUSE
    assert attempts.wait("account b") == 0
    clock.advance(FIRST_PAUSE)
    assert attempts.wait("account a") == 0
    for _ in range(30):
        attempts.failed("account a")
    assert attempts.wait("account a") == LONGEST_PAUSE
    attempts.succeeded("account a")
    assert attempts.wait("account a") == 0
