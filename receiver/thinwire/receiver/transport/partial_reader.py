"""The readable beginning of parts in transfer: every complete chunk is verified separately."""

import logging
from dataclasses import dataclass

from thinwire.receiver.sites.enrolment import SiteRegistry
from thinwire.receiver.transport.inbox import Inbox
from thinwire.receiver.transport.ingest_store import key_lookup
from thinwire.shared.crypto.envelope import Kind, open_prefix, peek
from thinwire.shared.errors import Forged
from thinwire.shared.identifiers import SiteName, StudyKey

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PartialReader:
    """Read-only, so it may be used while `serve` runs."""

    inbox: Inbox
    enrolment: SiteRegistry

    def prefix(self, site: SiteName, study: StudyKey, kind: Kind) -> bytes:
        """The received and verified first bytes of a part's plaintext; empty before the first chunk.

        If the part is in transfer twice, sealed again at the clinic, the longer one.
        """

        def wanted(head: bytes) -> bool:
            try:
                header = peek(head)
            except Forged:
                return False
            return (header.study, header.kind) == (study, kind)

        found = b""
        for file in self.inbox.received(site, wanted):
            try:
                found = max(found, open_prefix(file, key_lookup(self.enrolment, site))[1], key=len)
            except Forged as error:
                log.info("site %s: a part in transfer cannot be read: %s", site, error)
        return found
