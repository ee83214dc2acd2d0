"""What the pages stand on: one hub's parts, and what follows from its settings."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from thinwire.receiver.access.accounts import Account, Accounts
from thinwire.receiver.access.attempts import Attempts
from thinwire.receiver.access.audit import Audit
from thinwire.receiver.access.audit_message import Act, AuditOutcome, Message
from thinwire.receiver.export.best_image import StudyImages
from thinwire.receiver.hub import Hub
from thinwire.receiver.pipeline import HubPipeline
from thinwire.receiver.store.records import StoredStudy
from thinwire.receiver.store.store import Store
from thinwire.receiver.transport import link_status
from thinwire.receiver.transport.link_status import SiteLink
from thinwire.receiver.web.frame import Frames
from thinwire.shared.clock import Clock
from thinwire.shared.formats.manifest import Manifest
from thinwire.shared.identifiers import SiteName, StudyKey

AGAIN_AFTER = 600.0
"""Seconds after which the parts that a page fetches by itself are written down as another view."""
_MAX_RECORDED = 4096

OfStudy = Callable[[SiteName, StudyKey], bytes | None]


def nothing(_site: SiteName, _study: StudyKey) -> bytes | None:
    """No report decoder has drafted anything."""
    return None


@dataclass(frozen=True)
class Provider:
    """An OpenID provider and what its groups may."""

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
    """Browsers reach the page by HTTPS alone: cookies are never sent without."""
    origin: str | None = None
    """The public origin where a proxy stands before the page; else that of each request's own Host."""
    provider: Provider | None = None
    draft: OfStudy = nothing
    """The machine's draft on a study as JSON (`inference/draft.py`), where there is one."""
    attempts: Attempts = field(init=False, repr=False)
    frames: Frames = field(init=False, repr=False)
    _recorded: "OrderedDict[tuple[str, str], float]" = field(default_factory=OrderedDict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "attempts", Attempts(self.hub.clock))
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
        """The study's manifest, with its patient's identity. Raises BadManifest where the disk damaged it."""
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
        """A line for the audit log, of this moment."""
        site, id = (None, None) if study is None else (study.site, study.study)
        return Message(act, self.clock.now(), user, address, site, id, account, outcome, detail)

    def record_access(self, account: Account, address: str, act: Act, study: StoredStudy | None, anew: bool) -> None:
        """Write down, durably, that somebody sees a study or the list. anew: False for what an open page fetches by
        itself, which is written down where nothing was for a while."""
        what = "" if study is None else f"{study.site}/{study.study.hex()}"
        key, now = (account.name, f"{act.name} {what}"), self.clock.monotonic()
        with self._lock:
            last = self._recorded.get(key)
            if not anew and last is not None and now - last < AGAIN_AFTER:
                return
        self.audit.record(self.message(act, account.name, address, study))
        with self._lock:
            self._recorded[key] = now
            self._recorded.move_to_end(key)
            while len(self._recorded) > _MAX_RECORDED:
                self._recorded.popitem(last=False)
