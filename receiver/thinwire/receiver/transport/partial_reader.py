"""What can be read of parts that are still arriving: every whole chunk of them is verified by itself."""

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
    """folder: DATA/inbox. Only reads, and so may be used beside `serve`."""

    folder: Path
    enrolment: SiteRegistry

    def prefix(self, site: SiteName, study: StudyKey, kind: Kind) -> bytes:
        """The first bytes of a part's plaintext, as far as they are here and hold; empty where none are.

        Where the part is on its way twice, sealed anew at the clinic, the one of which more is here.
        """
        found = b""
        for path in sorted((self.folder / site).glob("?" * 64)):
            try:
                with path.open("rb") as file:
                    header = peek(file.read(HEADER_BYTES))
                    if (header.study, header.kind) == (study, kind):
                        found = max(found, open_prefix(file, key_lookup(self.enrolment, site))[1], key=len)
            except FileNotFoundError:
                continue  # it came whole in this moment
            except Forged as error:
                log.info("site %s: what is arriving cannot be read: %s", site, error)
        return found
