"""The hub's settings: DATA/config.toml, over it the environment (THINWIRE_RECEIVER_*), over it the command line."""

import json
import re
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from thinwire.receiver.targets import ForwardSettings
from thinwire.shared.errors import BadConfiguration
from thinwire.shared.identifiers import SiteName
from thinwire.shared.listening.guard import Limits
from thinwire.shared.logs import LogFormat

FILE = "config.toml"
TEMPLATE = """\
## Settings of this hub. Remove the leading "# " of a line to set it; a setting belongs to the [table] above it.
## The environment (THINWIRE_RECEIVER_LISTEN, ...) overrides this file.
# listen = "127.0.0.1:7443"
# database = "postgresql+psycopg://hub:PASSWORD@db.example.org/thinwire"
# batch = 32
# largest_study = 2147483648
# disk_reserve = 67108864
# web = "127.0.0.1:8443"
# waiting_cap = 240
# log = "json"
# reflection = true

# [draft]
# enabled = true
# beams = 4

## Which work `serve` does itself, beside processes of `work`
# [work]
# predict = true
# draft = true
# forward = true

# [metrics]
# listen = "127.0.0.1:9464"

## What each clinic may use; of one clinic alone: thinwire-receiver site quota
# [quota]
# bytes = 1000000000000
# studies = 2000
# partials = 64
# epochs = 512

## What may be removed, and when: docs/administration.md, Retention
# [retention]
# waiting_days = 14
# signed_reports = "keep"

# [[retention.rules]]
# name = "ten-years"
# days = 3653
# sites = ["north-valley"]
# read = true
# forwarded = true

## Limits of each port, against floods and silent connections; the tables are link, web, commitment and metrics
# [limits.link]
# connections = 4096
# by_address = 1024
# pending = 256
# seconds = 300
# addresses = ["0.0.0.0/0", "::/0"]

## Hospital systems: docs/conformance.md
# [forward]
# listen = "0.0.0.0:11112"

# [[forward.targets]]
# name = "pacs"
# kind = "c-store"
# host = "pacs.example.org"
# port = 104
# called = "PACS"
"""
"""A new hub's file. Valid TOML as it is, and with every "# " removed."""


class DraftSettings(BaseModel):
    """Whether the hub drafts reports, and how. Format and reasons: docs/report-decoder.md."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = False
    beams: int = Field(default=4, ge=1, le=16)
    """Texts that are followed at once for each study; 1 is greedy, faster, and finds fewer of the true findings."""
    batch: int = Field(default=8, ge=1, le=256)
    """Studies that are drafted at once."""


class WorkKind(StrEnum):
    """Work that `serve` does beside the link, and `work` without it."""

    PREDICT = "predict"
    DRAFT = "draft"
    FORWARD = "forward"


class WorkSettings(BaseModel):
    """Table [work]: which work `serve` does itself. Without `predict` it loads no model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    predict: bool = True
    draft: bool = True
    """Where [draft] enables it."""
    forward: bool = True
    """To the targets of [forward], and the port for their reports."""


class MetricsSettings(BaseModel):
    """Table [metrics]."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    listen: str | None = None
    """HOST:PORT of /metrics, /healthz and /readyz; none where it is not given. Neither asks who calls."""


class QuotaSettings(BaseModel):
    """Table [quota]: the share of the hub that each site may use, unless it has its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int = Field(default=10**12, ge=0)
    """Bytes of all its stored and partial objects."""
    studies: int = Field(default=2000, ge=0)
    """New studies in a day (UTC)."""
    partials: int = Field(default=64, ge=0)
    """Objects in transfer, on disk."""
    epochs: int = Field(default=512, ge=1)
    """Epochs kept at a time, and new ones in an hour."""


class RetentionRule(BaseModel):
    """Table [[retention.rules]]: studies that may be removed by their age."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern="^[a-z0-9-]{1,32}$")
    days: int = Field(ge=1, le=36_525)
    """Since the study arrived."""
    sites: tuple[SiteName, ...] = ()
    """Of these clinics alone; of all where it is empty."""
    read: bool = True
    """Only with a signed report."""
    forwarded: bool = True
    """Only where every target has all of it; so none where no target is configured."""


class RetentionSettings(BaseModel):
    """Table [retention]."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    waiting_days: int = Field(default=14, ge=0, le=3653)
    """Between the mark of a study and its removal; until then the mark can be taken back."""
    signed_reports: Literal["keep", "remove"] = "keep"
    """Whether a signed report stays where its study is removed, as the law may ask."""
    rules: tuple[RetentionRule, ...] = ()

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [rule.name for rule in self.rules]
        if len(set(names)) < len(names):
            raise ValueError("two rules have the same name")
        return self


class LinkLimits(Limits):
    """Of the port for clinics, which may share an address. A handshake may wait behind a bulk transfer on a link of
    16 kbit/s."""

    connections: int = Field(default=4096, ge=1, le=100_000)
    by_address: int = Field(default=1024, ge=1, le=100_000)
    pending: int = Field(default=256, ge=1, le=100_000)
    seconds: float = Field(default=300.0, gt=0, le=3600)


class WebLimits(Limits):
    """Of the reading room. An open worklist holds a connection, and a browser opens up to six."""

    connections: int = Field(default=512, ge=1, le=100_000)
    by_address: int = Field(default=128, ge=1, le=100_000)
    pending: int = Field(default=64, ge=1, le=100_000)
    seconds: float = Field(default=20.0, gt=0, le=3600)


class CommitmentLimits(Limits):
    """Of the port for storage commitment reports."""

    connections: int = Field(default=16, ge=1, le=100_000)
    by_address: int = Field(default=8, ge=1, le=100_000)
    pending: int = Field(default=8, ge=1, le=100_000)
    seconds: float = Field(default=30.0, gt=0, le=3600)


class MetricsLimits(Limits):
    """Of /metrics, /healthz and /readyz."""

    connections: int = Field(default=64, ge=1, le=100_000)
    by_address: int = Field(default=16, ge=1, le=100_000)
    pending: int = Field(default=32, ge=1, le=100_000)
    seconds: float = Field(default=10.0, gt=0, le=3600)


class HubLimits(BaseModel):
    """Tables [limits.link] and so on: limits of each port."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    link: LinkLimits = LinkLimits()
    web: WebLimits = WebLimits()
    commitment: CommitmentLimits = CommitmentLimits()
    metrics: MetricsLimits = MetricsLimits()


class Settings(BaseSettings):
    """Frozen; every value has a default, so that the file may be empty."""

    model_config = SettingsConfigDict(
        env_prefix="THINWIRE_RECEIVER_", env_nested_delimiter="__", frozen=True, extra="forbid"
    )

    listen: str = "127.0.0.1:7443"
    """HOST:PORT; port 0 takes any free one."""
    batch: int = Field(default=32, ge=1, le=1024)
    """Graphs that are read at once."""
    largest_study: int = Field(default=2 << 30, ge=1 << 20)
    """Bytes that a study's archive may restore to; it is restored in memory."""
    database: SecretStr | None = None
    """postgresql+psycopg://USER:PASSWORD@HOST/DATABASE; an SQLite file in the data folder where it is not given."""
    blobs: str | None = None
    """URL of an object store, such as s3://BUCKET/PREFIX; the folder `blobs` where it is not given."""
    web: str | None = None
    """HOST:PORT of the reading room's page; none where it is not given."""
    web_certificate: Path | None = None
    web_key: Path | None = None
    """PEM files of the page's own certificate; else the hub's authority issues one."""
    web_names: tuple[str, ...] = ()
    """DNS names or IP addresses by which browsers reach the page, for the certificate that the hub issues."""
    web_proxy: str | None = None
    """The public origin of a proxy that ends TLS before the page, such as https://reading.example.org."""
    waiting_cap: int = Field(default=240, ge=1, le=100_000)
    """Minutes after which an unread study stands before all that is not immediate."""
    oidc_issuer: str | None = None
    """An OpenID provider's issuer, such as https://login.example.org/realms/hospital; people may then sign in there."""
    oidc_client: str | None = None
    oidc_secret: SecretStr | None = None
    oidc_readers: str | None = None
    """Value of the claim `groups` that makes a reader."""
    oidc_administrators: str | None = None
    """Value of the claim `groups` that makes an administrator."""
    disk_reserve: int = Field(default=64 << 20, ge=0)
    """Bytes that stay free on the disk; below them nothing is acknowledged."""
    draft: DraftSettings = DraftSettings()
    """Table [draft]; in the environment THINWIRE_RECEIVER_DRAFT__ENABLED and so on."""
    forward: ForwardSettings = ForwardSettings()
    """Tables [forward] and [[forward.targets]]: the hospital's systems to which studies and results go on."""
    work: WorkSettings = WorkSettings()
    metrics: MetricsSettings = MetricsSettings()
    quota: QuotaSettings = QuotaSettings()
    retention: RetentionSettings = RetentionSettings()
    limits: HubLimits = HubLimits()
    reflection: bool = False
    """Whether the gRPC server lists its services to callers (gRPC server reflection)."""
    log: LogFormat = LogFormat.TEXT
    """Lines for people, or one JSON object a line."""

    @property
    def served_work(self) -> frozenset[WorkKind]:
        """The work that `serve` does."""
        does = {
            WorkKind.PREDICT: self.work.predict,
            WorkKind.DRAFT: self.work.draft and self.draft.enabled,
            WorkKind.FORWARD: self.work.forward,
        }
        return frozenset(kind for kind, done in does.items() if done)

    @property
    def cap(self) -> timedelta:
        return timedelta(minutes=self.waiting_cap)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del settings_cls, dotenv_settings, file_secret_settings
        # The values that `load_settings` passes in come from the file, which the environment overrides.
        return env_settings, init_settings


def load_settings(data: Path) -> Settings:
    """The settings of the hub in `data`. Raises BadConfiguration that names the wrong setting."""
    path = data / FILE
    try:
        with path.open("rb") as file:
            return settings_of(tomllib.load(file))
    except FileNotFoundError:
        raise BadConfiguration("the folder holds no hub", "Create one: thinwire-receiver init --data DIR.") from None
    except tomllib.TOMLDecodeError as error:
        raise BadConfiguration(f"{FILE} is no TOML ({error})", f"Correct {FILE} in the data folder.") from error


def settings_of(values: Mapping[str, Any]) -> Settings:
    """The settings of a file with these values. Raises BadConfiguration that names the wrong setting."""
    try:
        return Settings(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        variable = f"THINWIRE_RECEIVER_{where.upper().replace('.', '__')}"
        raise BadConfiguration(
            f"setting {where!r}: {first['msg']}", f"Correct it in {FILE} or in {variable}."
        ) from error


def new_file(**values: str | None) -> str:
    """A new hub's file, with these settings; those that are None stay comments."""
    lines = [
        f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in values.items() if value is not None
    ]
    head, first, tail = TEMPLATE.partition("# listen = ")
    return head + "".join(lines) + first + tail


STATE = ("database", "blobs")
"""The settings that tell where the hub's state is."""


def with_state(text: str, **values: str) -> str:
    """The text of a settings file with these of STATE, and without others of them, comments too: they may hold a
    password."""
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in values.items()]
    return "".join(lines) + _OF_STATE.sub("", text)


_OF_STATE = re.compile(
    rf"""^[ \t#]*["']?(?:{"|".join(STATE)})["']?[ \t]*=[ \t]*(?:\"{{3}}.*?\"{{3}}|'{{3}}.*?'{{3}}|)[^\n]*\n?""",
    re.MULTILINE | re.DOTALL,
)
