"""The context of all pages: the hub's components, the settings of the pages, and the log of accesses."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from thinwire.receiver.access.accounts import Account, Accounts, Also
from thinwire.receiver.access.attempts import Attempts
from thinwire.receiver.access.audit import Audit
from thinwire.receiver.access.audit_message import Act, AuditOutcome, Message
from thinwire.receiver.access.merging import Refusals
from thinwire.receiver.export.best_image import StudyImages
from thinwire.receiver.hub import Hub
from thinwire.receiver.pipeline import HubPipeline
from thinwire.receiver.store.records import StoredStudy
from thinwire.receiver.store.store import Store
from thinwire.receiver.transport import link_status
from thinwire.receiver.transport.link_status import SiteLink
from thinwire.receiver.web.device import Devices
from thinwire.receiver.web.frame import Frames
from thinwire.shared.clock import Clock
from thinwire.shared.formats.manifest import Manifest
from thinwire.shared.identifiers import SiteName, StudyKey

AGAIN_AFTER = 600.0
"""Seconds after which the automatic requests of an open page are logged as another access."""
_MAX_RECORDED = 4096

OfStudy = Callable[[SiteName, StudyKey], bytes | None]


def nothing(_site: SiteName, _study: StudyKey) -> bytes | None:
    """No draft, for a hub without a report decoder."""
    return None


@dataclass(frozen=True)
class Provider:
    """An OpenID provider and the roles of its groups."""

    issuer: str
    client: str
    secret: str = field(repr=False)
    readers: str | None = None
    administrators: str | None = None


@dataclass(frozen=True)
class WebContext:
    hub: Hub = field(repr=False)
    pipeline: HubPipeline = field(repr=False)
    secure: bool
    """Whether browsers use HTTPS: cookies are then sent only with it."""
    origin: str | None = None
    """The public origin of a proxy before the page; None: the Host of each request."""
    provider: Provider | None = None
    hosts: tuple[str, ...] = ()
    """Names and addresses by which browsers call the page."""
    draft: OfStudy = nothing
    """The draft on a study as JSON (`inference/draft.py`), or None."""
    attempts: Attempts = field(init=False, repr=False)
    devices: Devices = field(init=False, repr=False)
    refusals: Refusals = field(init=False, repr=False)
    frames: Frames = field(init=False, repr=False)
    _recorded: "OrderedDict[tuple[str, str], float]" = field(default_factory=OrderedDict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "attempts", Attempts(self.hub.clock))
        object.__setattr__(self, "devices", Devices(self.hub.keys.signing))
        object.__setattr__(self, "refusals", Refusals(self.hub.audit, self.hub.clock))
        object.__setattr__(self, "frames", Frames(self.hub.study_images(), self.hub.bundles))

    @property
    def store(self) -> Store:
        return self.hub.store

    @property
    def study_images(self) -> StudyImages:
        return self.frames.study_images

    @property
    def accounts(self) -> Accounts:
        return self.hub.accounts

    @property
    def audit(self) -> Audit:
        return self.hub.audit

    @property
    def clock(self) -> Clock:
        return self.hub.clock

    @property
    def cap(self) -> timedelta:
        return self.hub.settings.cap

    def links(self) -> dict[SiteName, SiteLink]:
        return {link.site: link for link in link_status.read_status(self.hub.data, self.clock.now())[1]}

    def manifest(self, study: StoredStudy) -> Manifest | None:
        """The study's manifest, with its patient's identity. Raises BadManifest if it is damaged."""
        return self.study_images.manifest(study.site, study.study)

    def message(
        self,
        act: Act,
        user: str,
        address: str,
        study: StoredStudy | None = None,
        account: str | None = None,
        outcome: AuditOutcome = AuditOutcome.SUCCESS,
        detail: str = "",
    ) -> Message:
        """A message for the audit log, with the present time."""
        site, id = (None, None) if study is None else (study.site, study.study)
        return Message(act, self.clock.now(), user, address, site, id, account, outcome, detail)

    def also(self, message: Message) -> Also:
        """Records the message in the transaction of what it is about."""
        return lambda connection: self.audit.append(connection, message)

    def record_access(self, account: Account, address: str, act: Act, study: StoredStudy | None, by_user: bool) -> None:
        """Log an access to a study or to the worklist; durable when this returns. by_user: False for automatic requests
        of an open page, which are logged once in AGAIN_AFTER seconds."""
        accessed = "" if study is None else f"{study.site}/{study.study.hex()}"
        key, now = (account.name, f"{act.name} {accessed}"), self.clock.monotonic()
        with self._lock:
            last = self._recorded.get(key)
            if not by_user and last is not None and now - last < AGAIN_AFTER:
                return
        self.audit.record(self.message(act, account.name, address, study))
        with self._lock:
            self._recorded[key] = now
            self._recorded.move_to_end(key)
            while len(self._recorded) > _MAX_RECORDED:
                self._recorded.popitem(last=False)
