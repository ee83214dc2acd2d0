"""Accounts, one-time links and sessions."""

import pytest

from tests.support.clock import FakeClock
from tests.support.reading_room import PASSWORD, quick_accounts, quiet
from thinwire.receiver.access.accounts import IDLE, INVITATION, LONGEST, Accounts, Role
from thinwire.receiver.access.attempts import FIRST_PAUSE, FREE, FREE_IN_ALL, LONGEST_PAUSE, Attempts
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


def failures(attempts: Attempts, count: int, account: str | None, address: str, *device: str) -> None:
    for _ in range(count):
        attempts.failed(account, address, *device)


def test_tries_are_slowed_and_never_locked(clock: FakeClock) -> None:
    attempts = Attempts(clock)
    for _ in range(FREE):
        assert attempts.wait("a", "10.0.0.1") == 0
        attempts.failed("a", "10.0.0.1")
    assert attempts.wait("a", "10.0.0.1") == FIRST_PAUSE
    assert attempts.wait("b", "10.0.0.1") == 0
    clock.advance(FIRST_PAUSE)
    assert attempts.wait("a", "10.0.0.1") == 0
    failures(attempts, 30, "a", "10.0.0.1")
    assert attempts.wait("a", "10.0.0.1") == LONGEST_PAUSE
    clock.advance(LONGEST_PAUSE)
    assert attempts.wait("a", "10.0.0.1") == 0
    attempts.succeeded("a", "10.0.0.1")
    failures(attempts, FREE - 1, "a", "10.0.0.1")
    assert attempts.wait("a", "10.0.0.1", "her browser") == 0


def test_whoever_guesses_elsewhere_delays_no_reader(clock: FakeClock) -> None:
    attempts = Attempts(clock)
    attempts.succeeded("anna", "10.0.0.1")
    failures(attempts, FREE, "anna", "203.0.113.9")
    assert attempts.wait("anna", "203.0.113.9") == FIRST_PAUSE
    assert attempts.wait("anna", "10.0.0.2") == 0
    for n in range(100):
        failures(attempts, 3, "anna", f"203.0.113.{n}")
    assert attempts.wait("anna", "10.0.0.2") > FIRST_PAUSE  # a place that is not known
    assert attempts.wait("anna", "10.0.0.1") == 0
    assert attempts.wait("anna", "10.0.0.2", "her browser") == 0


def test_wrong_one_time_links_from_anywhere_keep_no_holder_of_one_out(clock: FakeClock) -> None:
    attempts = Attempts(clock)
    for n in range(100):
        failures(attempts, 3, None, f"203.0.113.{n}")
    assert attempts.wait(None, "10.0.0.1") == 0
    failures(attempts, FREE_IN_ALL, None, "10.0.0.9")
    assert attempts.wait(None, "10.0.0.9") == FIRST_PAUSE


def test_one_address_is_slowed_with_any_names_and_her_browser_behind_it_is_not(clock: FakeClock) -> None:
    attempts = Attempts(clock)
    for n in range(FREE_IN_ALL):
        attempts.failed(f"name-{n}", f"2001:db8::{n}")
    assert attempts.wait("anna", "2001:db8::ffff") == FIRST_PAUSE
    assert attempts.wait("anna", "2001:db8:0:1::1") == 0
    assert attempts.wait("anna", "2001:db8::ffff", "her browser") == 0
    failures(attempts, FREE, "anna", "2001:db8::ffff", "her browser")
    assert attempts.wait("anna", "2001:db8::ffff", "her browser") == FIRST_PAUSE
