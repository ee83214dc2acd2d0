"""Administrative acts at the command line in the audit log: each command states what it does before it does it."""

import contextlib
import os
import pwd
from collections.abc import Callable, Iterator
from dataclasses import replace

from sqlalchemy import Connection

from thinwire.receiver.access.audit_message import Act, AuditOutcome, Message
from thinwire.receiver.hub import Hub
from thinwire.receiver.store.records import StoredStudy


def operator() -> str:
    """The user of the operating system that runs this process, not a name from the environment."""
    try:
        return f"os:{pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:
        return f"os:{os.getuid()}"


def act_of(
    hub: Hub,
    act: Act,
    object: str | None = None,
    study: StoredStudy | None = None,
    account: str | None = None,
    detail: str = "",
) -> Message:
    """A message about an act of this process's user."""
    site, key = (None, None) if study is None else (study.site, study.study)
    return Message(act, hub.clock.now(), operator(), "", site, key, account, detail=detail, object=object)


def also(hub: Hub, message: Message) -> Callable[[Connection], object]:
    """For an act that is one transaction: its message is in the same one."""
    return lambda connection: hub.audit.append(connection, message)


@contextlib.contextmanager
def audited(hub: Hub, message: Message) -> Iterator[None]:
    """For an act of several steps: its message is durable before it begins, and a second one says that it failed."""
    hub.audit.record(message)
    try:
        yield
    except BaseException as error:
        # The error's text may name a patient.
        failed = replace(message, at=hub.clock.now(), outcome=AuditOutcome.FAILED, detail=type(error).__name__)
        hub.audit.record(failed)
        raise
