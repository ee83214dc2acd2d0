"""The newest signed head of the hub's audit log, which the clinic keeps for the hub. Format: docs/outbox-format.md."""

import logging
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import select

from thinwire.sender.outbox.tables import controls
from thinwire.shared.errors import Forged
from thinwire.shared.formats.audit_head import parse_signed_head, read_signed_head
from thinwire.shared.storage.database import Database, insert_new

log = logging.getLogger(__name__)

_NAME = "audit_head"


@dataclass(frozen=True)
class AuditHeads:
    """hub: the hub's signing key. Safe from any thread and process."""

    database: Database
    hub: Ed25519PublicKey

    def text(self) -> str:
        """The kept head as the hub's administrator gives it to `audit verify --anchor`; empty before the first."""
        with self.database.read() as connection:
            return connection.scalar(select(controls.c.value).where(controls.c.name == _NAME)) or ""

    def kept(self) -> bytes:
        """The same as it is sent."""
        return urlsafe_b64decode(self.text())

    def keep(self, signed: bytes) -> None:
        """Keep a head; durable when this returns. An earlier head does not replace a later one, which shows the hub
        that messages were removed. One that is not the hub's is ignored. Raises DiskFull, DatabaseBusy."""
        if not signed:
            return
        before = self.kept()
        try:
            head = read_signed_head(signed, self.hub)
            if before and head.number < parse_signed_head(before).number:
                log.warning("the hub's audit log is shorter than it was; this clinic keeps the later head")
                return
        except Forged as error:
            log.warning("the hub sent a head of its audit log that does not hold: %s", error)
            return
        if signed != before:
            row = {"name": _NAME, "value": urlsafe_b64encode(signed).decode()}
            with self.database.write() as connection:
                connection.execute(
                    insert_new(controls).values(row).on_conflict_do_update(index_elements=["name"], set_=row)
                )
