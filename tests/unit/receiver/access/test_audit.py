"""The audit log: messages in the form of PS3.15, a chain that shows every change."""

import hashlib
import os
from base64 import urlsafe_b64encode
from xml.etree import ElementTree

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from typer.testing import CliRunner

from tests.support.clock import START, FakeClock
from tests.support.hub_folder import join
from thinwire.receiver.access.audit import GENESIS, Head, read_head
from thinwire.receiver.access.audit_message import Act, AuditOutcome, Message
from thinwire.receiver.cli.main import app
from thinwire.receiver.hub import Hub
from thinwire.receiver.store.tables import audit, audit_anchors
from thinwire.shared.errors import BadFormat, Forged
from thinwire.shared.identifiers import SiteName, StudyKey

SITE = SiteName("north-valley")
STUDY = StudyKey(bytes(range(16)))
LOG = ("audit", "audit_signatures")


def fill(hub: Hub, count: int = 5) -> None:
    for n in range(count):
        hub.audit.record(Message(Act.VIEWED, START, f"reader-{n}", "10.0.0.7", SiteName("north-valley"), STUDY))


def by_hand(hub: Hub, *statements: str) -> None:
    """Changes that somebody with the database can make."""
    with hub.database.write() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def unguarded(hub: Hub, *statements: str) -> None:
    """The same, with the triggers dropped that keep the log from changes."""
    guards = [f"DROP TRIGGER IF EXISTS {name}_no_{act}" for name in LOG for act in ("update", "delete")]
    if hub.database.shared:
        guards = [f"DROP TRIGGER IF EXISTS {name}_only_added ON {name}" for name in LOG]
    by_hand(hub, *guards, *statements)


def test_a_message_has_the_standard_s_form() -> None:
    text = Message(Act.VIEWED, START, "a.lund", "10.0.0.7", SiteName("north-valley"), STUDY).xml()
    root = ElementTree.fromstring(text)
    assert root.tag == "AuditMessage"
    assert [child.tag for child in root] == [
        "EventIdentification",
        "ActiveParticipant",
        "AuditSourceIdentification",
        "ParticipantObjectIdentification",
    ]
    event = root[0]
    assert event.attrib == {
        "EventActionCode": "R",
        "EventDateTime": "2026-03-04T12:00:00Z",
        "EventOutcomeIndicator": "0",
    }
    (id,) = event.findall("EventID")
    assert (id.get("csd-code"), id.get("codeSystemName")) == ("110103", "DCM")
    assert root[1].attrib["UserID"] == "a.lund"
    assert root[1].attrib["NetworkAccessPointTypeCode"] == "2"
    assert root[3].attrib["ParticipantObjectID"] == f"north-valley/{STUDY.hex()}"


@pytest.mark.parametrize("act", list(Act))
def test_every_act_is_one_well_formed_message(act: Act) -> None:
    text = Message(act, START, "<a&b>", detail='"</AuditMessage>', outcome=AuditOutcome.REFUSED, account="x").xml()
    assert len(ElementTree.fromstring(text).findall("EventIdentification")) == 1


def test_the_chain_holds_and_its_head_can_be_noted(hub: Hub) -> None:
    assert hub.audit.verify() == Head(0, GENESIS)
    fill(hub)
    noted = hub.audit.verify()
    assert noted == hub.audit.head() == read_head(str(noted))
    fill(hub)
    assert hub.audit.verify([noted]).number == 10
    full_name = CliRunner().invoke(app, ["audit", "verify", "--data", str(hub.data), "--head", str(noted)])
    assert full_name.stdout.strip() == str(hub.audit.head())
    exported = CliRunner().invoke(app, ["audit", "export", "--data", str(hub.data)])
    assert len(exported.stdout.splitlines()) == 11
    assert [entry.number for entry in hub.audit.newest(None, 3)] == [11, 10, 9]


def test_the_database_itself_refuses_a_change(hub: Hub) -> None:
    fill(hub)
    for statement in ("UPDATE audit SET message = 'x' WHERE number = 2", "DELETE FROM audit WHERE number = 5"):
        with pytest.raises(IntegrityError, match="only added"):
            by_hand(hub, statement)


@pytest.mark.parametrize(
    ("change", "at"),
    [
        ("UPDATE audit SET message = replace(message, 'reader-2', 'reader-9') WHERE number = 3", 3),
        ("UPDATE audit SET digest = (SELECT digest FROM audit WHERE number = 1) WHERE number = 5", 5),
        ("DELETE FROM audit WHERE number = 2", 2),
        ("UPDATE audit SET number = number + 10 WHERE number = 4", 4),
    ],
)
def test_a_change_behind_the_trigger_is_found(hub: Hub, change: str, at: int) -> None:
    fill(hub)
    unguarded(hub, change)
    with pytest.raises(BadFormat, match=f"message {at}"):
        hub.audit.verify()


def test_an_end_that_was_cut_off_shows_beside_a_noted_head(hub: Hub) -> None:
    fill(hub)
    noted = hub.audit.head()
    unguarded(hub, "DELETE FROM audit WHERE number > 3")
    assert hub.audit.verify().number == 3
    with pytest.raises(BadFormat, match="missing"):
        hub.audit.verify([noted])


def anew(hub: Hub, *statements: str) -> None:
    """Messages are changed and every digest is made anew, without the hub's key."""
    unguarded(hub, *statements)
    with hub.database.write() as connection:
        last = bytes(GENESIS)
        for number, message in connection.execute(select(audit.c.number, audit.c.message).order_by(audit.c.number)):
            last = hashlib.sha256(last + message.encode()).digest()
            connection.execute(update(audit).where(audit.c.number == number).values(digest=last))


CHANGED = "UPDATE audit SET message = replace(message, 'reader-2', 'reader-9') WHERE number = 3"


@pytest.mark.parametrize(
    "signatures",
    [
        "SELECT 1",
        "DELETE FROM audit_signatures",
        "DELETE FROM audit_signatures WHERE number = 5",
        "UPDATE audit_signatures SET signature = (SELECT signature FROM audit_signatures WHERE number = 1)",
    ],
)
def test_a_chain_that_was_made_anew_has_no_signature(hub: Hub, signatures: str) -> None:
    fill(hub)
    unguarded(hub, signatures)
    anew(hub, CHANGED)
    with pytest.raises(BadFormat, match="signature of message 5"):
        hub.audit.verify()


def test_a_clinic_s_head_shows_a_log_that_was_cut_and_written_on(hub: Hub) -> None:
    join(hub, "north-valley")
    fill(hub)
    kept = hub.audit.signed_head()
    assert hub.audit.anchor(kept) == hub.audit.head()
    hub.audit.record_anchor(SITE, kept, START)
    assert hub.audit.verify().number == 5
    unguarded(hub, "DELETE FROM audit WHERE number > 3", "DELETE FROM audit_signatures WHERE number > 3")
    fill(hub)  # the hub itself writes on, and signs it
    with pytest.raises(BadFormat, match="clinic north-valley keeps") as caught:
        hub.audit.verify()
    assert "audit accept" in caught.value.remedy
    # Whoever removes the recorded head too: the clinic tells it again, and that is a message of its own.
    by_hand(hub, "DELETE FROM audit_anchors")
    assert hub.audit.verify().number == 8
    for _ in range(2):
        hub.audit.record_anchor(SITE, kept, START)
    assert "Messages missing from the audit log" in hub.audit.newest(None, 1)[0].message
    assert hub.audit.head().number == 9
    with pytest.raises(BadFormat, match="messages are missing"):
        hub.audit.verify()
    assert hub.audit.accept_loss(Message(Act.LOSS_ACCEPTED, START, "os:root", detail="restored")) == 1
    assert hub.audit.verify().number == 10


def test_a_loss_is_accepted_once_for_all_clinics_and_a_later_one_is_not(hub: Hub, clock: FakeClock) -> None:
    """As after a restore: each clinic keeps its later head, and tells it at every connection."""
    early, late = (join(hub, name).site for name in ("north-valley", "south-ridge"))
    fill(hub)
    cut = ("DELETE FROM audit WHERE number > {0}", "DELETE FROM audit_signatures WHERE number > {0}")
    lost = hub.audit.signed_head()
    unguarded(hub, *(each.format(3) for each in cut))
    clock.advance(60)
    hub.audit.record_anchor(early, lost, clock.now())
    with pytest.raises(BadFormat, match="messages are missing"):
        hub.audit.verify()
    assert hub.audit.accept_loss(Message(Act.LOSS_ACCEPTED, clock.now(), "os:root", detail="restored")) == 1
    clock.advance(60)
    for site in (early, late, early):
        hub.audit.record_anchor(site, lost, clock.now())
    assert hub.audit.verify() == hub.audit.head()
    assert hub.audit.head().number == 6  # one alert of each clinic

    hub.audit.record(Message(Act.VIEWED, clock.now(), "reader"))
    hub.audit.record(Message(Act.VIEWED, clock.now(), 'x"loss-accepted"', detail='"loss-accepted"'))
    again = hub.audit.signed_head()
    unguarded(hub, *(each.format(7) for each in cut))
    hub.audit.record_anchor(late, again, clock.now())
    # Whoever alters the recorded time does not hide it from the clinic's next connection.
    by_hand(hub, "UPDATE audit_anchors SET told_at = 0")
    hub.audit.record_anchor(late, again, clock.now())
    with pytest.raises(BadFormat, match="clinic south-ridge keeps"):
        hub.audit.verify()


def test_of_the_heads_that_hold_the_newest_is_recorded(hub: Hub) -> None:
    join(hub, "north-valley")
    heads = []
    for _ in range(3):
        fill(hub, 1)
        heads.append(hub.audit.signed_head())
    for head in (heads[1], heads[0], heads[2], os.urandom(len(heads[0])), b""):
        hub.audit.record_anchor(SITE, head, START)
    with hub.database.read() as connection:
        assert connection.execute(select(audit_anchors.c.number)).all() == [(3,)]


def test_a_clinic_s_head_can_be_given_by_hand(hub: Hub) -> None:
    fill(hub)
    anchor = urlsafe_b64encode(hub.audit.signed_head()).decode()
    told = CliRunner().invoke(app, ["audit", "verify", "--data", str(hub.data), "--anchor", anchor])
    assert (told.exit_code, told.stdout.strip()) == (0, str(hub.audit.head()))
    forged = urlsafe_b64encode(bytes(64) + hub.audit.signed_head()[64:]).decode()
    with pytest.raises(Forged):
        CliRunner().invoke(
            app, ["audit", "verify", "--data", str(hub.data), "--anchor", forged], catch_exceptions=False
        )
