"""A reading room over a real hub in a folder, its people, and a browser without a screen."""

import re
from dataclasses import dataclass, field, replace

from argon2 import PasswordHasher
from fastapi.testclient import TestClient

from tests.support.clock import FakeClock
from tests.support.hub_folder import Clinic, Sealed, StudyParts, manifest_of
from tests.support.tier_samples import sample_crops, sample_preview
from thinwire.receiver.access.accounts import Accounts, Role
from thinwire.receiver.hub import Hub
from thinwire.receiver.web.app import make_app
from thinwire.receiver.web.context import OfStudy, Provider, WebContext, nothing
from thinwire.shared.crypto.envelope import Kind

PASSWORD = "correct horse battery"
ORIGIN = "https://reading.example.org"


def quick_accounts(hub: Hub) -> Accounts:
    """Accounts whose passwords are hashed in no time."""
    return Accounts(hub.database, hub.clock, PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))


def quiet(_connection: object) -> None:
    """Nothing is written beside."""


@dataclass
class Browser:
    """One person's browser. Its forms carry the key of the page that was loaded last."""

    client: TestClient = field(repr=False)
    key: str = ""

    def get(self, path: str, status: int = 200) -> str:
        answer = self.client.get(path, follow_redirects=False)
        assert answer.status_code == status, answer.text
        found = re.search(r'name="form_key" value="([0-9a-f]+)"', answer.text)
        self.key = found[1] if found else self.key
        return str(answer.text)

    def post(self, path: str, status: int = 303, **fields: str) -> str:
        answer = self.client.post(path, data={"form_key": self.key, **fields}, follow_redirects=False)
        assert answer.status_code == status, answer.text
        return str(answer.text)


@dataclass
class ReadingRoom:
    hub: Hub
    draft: OfStudy = nothing
    provider: Provider | None = None
    room: WebContext = field(init=False)

    def __post_init__(self) -> None:
        self.hub = replace(self.hub, accounts=quick_accounts(self.hub))
        self.room = WebContext(self.hub, self.hub.pipeline(), secure=True, draft=self.draft, provider=self.provider)
        self.app = make_app(self.room)

    @property
    def clock(self) -> FakeClock:
        assert isinstance(self.hub.clock, FakeClock)
        return self.hub.clock

    def browser(self) -> Browser:
        return Browser(TestClient(self.app, base_url=ORIGIN, headers={"Origin": ORIGIN}))

    def person(self, name: str, role: Role = Role.READER) -> Browser:
        """Somebody with an account, signed in."""
        secret = self.room.accounts.add(name, f"Dr. {name.title()}", role, quiet)
        self.room.accounts.accept(secret, PASSWORD, name, "", quiet)
        browser = self.browser()
        browser.post("/sign-in", name=name, password=PASSWORD)
        browser.get("/")
        return browser

    def put(self, clinic: Clinic, *parts: Sealed) -> None:
        for part in parts:
            self.room.pipeline.put(clinic.site, part.object, part.header, part.plaintext, False)
        self.room.pipeline.predict_waiting()

    def put_study(self, clinic: Clinic, parts: StudyParts, *kinds: Kind) -> str:
        """Graph, manifest and these tiers; the address of the study's page."""
        tiers = {
            Kind.PREVIEW: lambda: clinic.seal(Kind.PREVIEW, parts.study, sample_preview()),
            Kind.CROPS: lambda: clinic.seal(Kind.CROPS, parts.study, sample_crops()),
        }
        more = [tiers[kind]() for kind in kinds if kind in tiers]
        originals = [parts.originals] if Kind.ORIGINALS in kinds else []
        self.put(clinic, parts.graph, manifest_of(clinic, parts, *more), *more, *originals)
        return f"/studies/{clinic.site}/{parts.study.hex()}"

    def audited(self) -> list[str]:
        return [entry.message for entry in self.hub.audit.entries()]


def rows(page: str) -> list[str]:
    """The keys of the rows, in their order."""
    return re.findall(r'data-key="([^"]+)"', page)
