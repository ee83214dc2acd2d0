"""The readable beginning of parts in transfer: every complete chunk is verified separately."""

import logging
from dataclasses import dataclass
from pathlib import Path

from thinwire.receiver.sites.enrolment import SiteRegistry
from thinwire.receiver.transport.ingest_store import key_lookup
from thinwire.shared.crypto.envelope import HEADER_BYTES, Kind, open_prefix, peek
from thinwire.shared.errors import Forged
from thinwire.shared.identifiers import SiteName, StudyKey

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PartialReader:
    """folder: DATA/inbox. Read-only, so it may be used while `serve` runs."""

    folder: Path
    enrolment: SiteRegistry

    def prefix(self, site: SiteName, study: StudyKey, kind: Kind) -> bytes:
        """The received and verified first bytes of a part's plaintext; empty before the first chunk.

        If the part is in transfer twice, sealed again at the clinic, the longer one.
        """
        found = b""
        for path in sorted((self.folder / site).glob("?" * 64)):
            try:
                with path.open("rb") as file:
                    header = peek(file.read(HEADER_BYTES))
                    if (header.study, header.kind) == (study, kind):
                        found = max(found, open_prefix(file, key_lookup(self.enrolment, site))[1], key=len)
            except FileNotFoundError:
                continue  # it was completed just now
            except Forged as error:
                log.info("site %s: a part in transfer cannot be read: %s", site, error)
        return found
