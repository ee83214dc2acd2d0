"""The audit log: messages in the form of PS3.15, a chain that shows every change."""

import sqlite3
from xml.etree import ElementTree

import pytest
from sqlalchemy.exc import IntegrityError
from typer.testing import CliRunner

from tests.support.clock import START
from thinwire.receiver.access.audit import GENESIS, Head, read_head
from thinwire.receiver.access.audit_message import Act, AuditOutcome, Message
from thinwire.receiver.cli.main import app
from thinwire.receiver.hub import DATABASE, Hub
from thinwire.shared.errors import BadFormat
from thinwire.shared.identifiers import SiteName, StudyKey

STUDY = StudyKey(bytes(range(16)))


def fill(hub: Hub, count: int = 5) -> None:
    for n in range(count):
        hub.audit.record(Message(Act.VIEWED, START, f"reader-{n}", "10.0.0.7", SiteName("north-valley"), STUDY))


def by_hand(hub: Hub, *statements: str) -> None:
    """Changes that somebody with the database's file can make."""
    with sqlite3.connect(hub.data / DATABASE) as connection:
        for statement in statements:
            connection.execute(statement)


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
        with pytest.raises(sqlite3.IntegrityError, match="only added"):
            by_hand(hub, statement)
    with pytest.raises(IntegrityError), hub.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM audit")


@pytest.mark.parametrize(
    ("change", "at"),
    [
        ("UPDATE audit SET message = replace(message, 'reader-2', 'reader-9') WHERE number = 3", 3),
        ("UPDATE audit SET digest = zeroblob(32) WHERE number = 5", 5),
        ("DELETE FROM audit WHERE number = 2", 2),
        ("UPDATE audit SET number = number + 10 WHERE number = 4", 4),
    ],
)
def test_a_change_behind_the_trigger_is_found(hub: Hub, change: str, at: int) -> None:
    fill(hub)
    by_hand(hub, "DROP TRIGGER audit_no_update", "DROP TRIGGER audit_no_delete", change)
    with pytest.raises(BadFormat, match=f"message {at}"):
        hub.audit.verify()


def test_an_end_that_was_cut_off_shows_beside_a_noted_head(hub: Hub) -> None:
    fill(hub)
    noted = hub.audit.head()
    by_hand(hub, "DROP TRIGGER audit_no_delete", "DELETE FROM audit WHERE number > 3")
    assert hub.audit.verify().number == 3
    with pytest.raises(BadFormat, match="missing"):
        hub.audit.verify([noted])
