"""The clinic's settings: DATA/config.toml, overridden by THINWIRE_SENDER_* in the environment; one frozen value."""

import json
import logging
from collections.abc import Mapping
from datetime import time
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from thinwire.sender.graph.pruning import KeepAbove, KeepPercent, Policy
from thinwire.sender.intake.deidentify import MEANINGS, Dates, Identity, Options, Uids
from thinwire.sender.intake.samples import Blanking, Rectangle
from thinwire.sender.outbox.hub_history import KeepUntil
from thinwire.sender.outbox.tiers import FORMER_NAMES, NIGHT, Hours, TierPolicy, When
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import BadConfiguration
from thinwire.shared.formats.bundle import default_bundle_folder
from thinwire.shared.listening.guard import Limits
from thinwire.shared.logs import LogFormat

log = logging.getLogger(__name__)

FILE = "config.toml"
_TEMPLATE = """\
## Settings of this clinic. Remove the leading "# " of a line to set it; a setting belongs to the [table] above it.
## The environment (THINWIRE_SENDER_HUB, ...) overrides this file.
hub = {hub}
# provider = "cpu"
# threads = 2
# graph_bytes = 1200
# keep_days = 30.0
# keep_originals_until = "backup"
# preview_bytes = 12000
# identity = "sealed"
# log = "json"

# [tiers]
# preview = "always"
# crops = "always"
# originals = "in window"
# window = "20:00-06:00"
# monthly_bytes = 2000000000
# time_zone = "Africa/Blantyre"

## X-ray machines: docs/technician.md
# [dicom]
# port = 11112
# aet = "THINWIRE"
# quiet_seconds = 10

# [dicom.machines.XRAY1]
# address = "192.168.1.20"
# report_port = 104

## De-identification: docs/deidentification.md
# [deidentify]
# dates = "shift"
# uids = "map"
# characteristics = true

# [[deidentify.blank]]
# model = "DRX-1"
# station = "ROOM1"
# rectangles = [[0, 0, 600, 80], [-600, -80, 600, 80]]

## The local page: docs/technician.md
# [page]
# port = 8080
# bind = "127.0.0.1"

## Limits of each port, against floods and silent connections; the tables are dicom and page: docs/technician.md
# [limits.dicom]
# connections = 16
# by_address = 8
# pending = 8
# seconds = 30
# addresses = ["0.0.0.0/0", "::/0"]
"""


def _renamed(section: str, given: object, names: Mapping[str, str]) -> object:
    """A section with its settings under today's names. names: former name to today's. Raises ValueError for both."""
    if not isinstance(given, dict):
        return given
    found = dict(given)
    for former in names.keys() & found.keys():
        today = names[former]
        if today in found:
            raise ValueError(
                f"{today} was called {former} and both are set; remove {former} from {FILE} and from the environment"
            )
        log.warning("setting %s.%s is read, but is now called %s.%s: rename it", section, former, section, today)
        found[today] = found.pop(former)
    return found


class TierSettings(BaseModel):
    """Section [tiers]: when the parts of a study go. Graph and manifest always go, urgent and requested parts too."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preview: When = TierPolicy().when[Kind.PREVIEW]
    """always, "when idle", "in window", "on request" or never (not made)."""
    crops: When = TierPolicy().when[Kind.CROPS]
    originals: When = TierPolicy().when[Kind.ORIGINALS]
    """The same, but not never."""
    window: Hours = NIGHT
    """Hours of each day by the clinic's clock, as "20:00-06:00"."""
    monthly_bytes: int | None = Field(default=None, ge=0)
    """Data budget of a calendar month, both ways; no limit where not set."""
    time_zone: str = ""
    """As "Africa/Blantyre"; the system's own where not set."""

    @model_validator(mode="before")
    @classmethod
    def _former_names(cls, given: object) -> object:
        return _renamed("tiers", given, {former: kind.name.lower() for kind, former in FORMER_NAMES.items()})

    @field_validator("preview", "crops", "originals", mode="before")
    @classmethod
    def _when(cls, value: object) -> object:
        return read_when(value) if isinstance(value, str) else value

    @field_validator("window", mode="before")
    @classmethod
    def _window(cls, value: object) -> object:
        return read_hours(value) if isinstance(value, str) else value

    @field_validator("time_zone")
    @classmethod
    def _zone(cls, value: str) -> str:
        if value:
            try:
                ZoneInfo(value)
            except (ValueError, OSError, ZoneInfoNotFoundError) as error:
                raise ValueError(
                    "no time zone of this system; leave it out, or name one such as Africa/Blantyre"
                ) from error
        return value

    def policy(self) -> TierPolicy:
        """Raises ValueError for a choice that would keep a study from its reader."""
        chosen = {Kind.PREVIEW: self.preview, Kind.CROPS: self.crops, Kind.ORIGINALS: self.originals}
        zone = ZoneInfo(self.time_zone) if self.time_zone else None
        return TierPolicy({**TierPolicy().when, **chosen}, self.window, zone, self.monthly_bytes)


def read_when(text: str) -> When:
    """A choice as a person writes it: "on request", on-request, on_request. Raises ValueError that names them all."""
    try:
        return When(text.strip().lower().replace("-", " ").replace("_", " "))
    except ValueError:
        raise ValueError(f"{text!r} is none of: {', '.join(When)}") from None


def read_hours(text: str) -> Hours:
    """Hours as 20:00-06:00. Raises ValueError."""
    start, _, end = text.partition("-")
    try:
        return Hours(time.fromisoformat(start.strip()), time.fromisoformat(end.strip()))
    except ValueError:
        raise ValueError(f"{text!r} is no span of hours such as 20:00-06:00") from None


class Machine(BaseModel):
    """One X-ray machine that may send, by its AE title: section [dicom.machines.AET]."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str = ""
    """The only IP address from which it may send; any where not set."""
    report_port: int | None = Field(default=None, ge=1, le=65535)
    """Where it takes storage commitment reports, at `address`; on its own association where not set."""

    @model_validator(mode="after")
    def _reachable(self) -> "Machine":
        if self.report_port is not None and not self.address:
            raise ValueError("a report_port needs the machine's address beside it")
        return self


class DicomSettings(BaseModel):
    """Section [dicom]: the port to which X-ray machines send. Closed where no port is set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    port: int | None = Field(default=None, ge=0, le=65535)
    """0 takes a free one, for tests."""
    bind: str = "0.0.0.0"
    aet: str = Field(default="THINWIRE", pattern=r"^[A-Z0-9_.-]{1,16}$")
    machines: dict[str, Machine] = {}
    """Who may send; nobody else can open an association."""
    quiet_seconds: float = Field(default=10.0, ge=0)
    """A study is taken over when nothing of it has come for so long: machines send each view by itself."""
    most_bytes: int = Field(default=256 << 20, ge=1 << 20)
    """Of one object: more is refused, and set aside."""

    @model_validator(mode="before")
    @classmethod
    def _former_names(cls, given: object) -> object:
        return _renamed("dicom", given, {"settle_seconds": "quiet_seconds"})

    @model_validator(mode="after")
    def _somebody(self) -> "DicomSettings":
        if self.port is not None and not self.machines:
            raise ValueError("nobody may send: name each X-ray machine in a section [dicom.machines.ITS-AE-TITLE]")
        return self


class BlankSettings(BaseModel):
    """Section [[deidentify.blank]]: regions in which a machine draws text, shown as black in what is released."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = ""
    """Manufacturer's Model Name (0008,1090); any machine where not set."""
    station: str = ""
    """Station Name (0008,1010); any where not set."""
    rectangles: tuple[tuple[int, int, int, int], ...] = Field(min_length=1)
    """Each left, top, width, height in pixels; a negative left or top counts from the right or lower edge."""

    @field_validator("rectangles")
    @classmethod
    def _sized(cls, value: tuple[tuple[int, int, int, int], ...]) -> tuple[tuple[int, int, int, int], ...]:
        if any(width < 1 or height < 1 for _, _, width, height in value):
            raise ValueError("a rectangle is [left, top, width, height], with a width and a height of at least 1")
        return value

    @property
    def blanking(self) -> Blanking:
        return Blanking(tuple(Rectangle(*each) for each in self.rectangles), self.model, self.station)


class DeidentifySettings(BaseModel):
    """Section [deidentify]: how files are de-identified (docs/deidentification.md)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dates: Dates = Dates.SHIFT
    """shift (by days of the patient's own) or remove."""
    uids: Uids = Uids.MAP
    """map (to keyed digests) or keep."""
    characteristics: bool = True
    """Whether sex, age, size and weight stay."""
    blank: tuple[BlankSettings, ...] = ()
    """Regions whose pixels are blanked."""


_OFF = frozenset(("false", "0", "no", "off", "n", "f"))
_POLICIES = ("none", "basic")


def _with_identity(given: object) -> object:
    """Settings with `identity` in place of its former names: send_identity and deidentify.policy.

    send_identity = false let the identity cross in the files; it is read as its words promised. Raises ValueError.
    """
    if not isinstance(given, dict):
        return given
    found, section = dict(given), given.get("deidentify")
    former = {}
    if (sent := found.pop("send_identity", None)) is not None:
        former["send_identity"] = str(sent).lower()
    if isinstance(section, dict) and "policy" in section:
        found["deidentify"] = {name: value for name, value in section.items() if name != "policy"}
        former["deidentify.policy"] = str(section["policy"])
        if former["deidentify.policy"] not in _POLICIES:
            raise ValueError("deidentify.policy was none or basic, and is now called identity: full, sealed or none")
    if not former:
        return found
    names = " and ".join(f"{name} = {value}" for name, value in former.items())
    word = Identity.FULL
    if former.get("send_identity") in _OFF or former.get("deidentify.policy") == "basic":
        word = Identity.NONE
    if "identity" in found and str(found["identity"]) != word:
        raise ValueError(f"identity replaces {names}; remove {'it' if len(former) == 1 else 'them'} from {FILE}")
    log.warning('setting %s is read as identity = "%s", which replaces it: %s', names, word, MEANINGS[word])
    return {**found, "identity": word}


LOOPBACK = ("127.0.0.1", "localhost")


class PageSettings(BaseModel):
    """Section [page]: the local page, with metrics and health. Closed where no port is set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    port: int | None = Field(default=None, ge=0, le=65535)
    """0 takes a free one, for tests."""
    bind: str = LOOPBACK[0]
    """Who reaches it may use it: there is no sign-in."""
    hosts: tuple[str, ...] = ()
    """Names by which it is called beside 127.0.0.1 and localhost; needed where it listens beyond this computer."""

    @model_validator(mode="after")
    def _named(self) -> "PageSettings":
        if self.bind not in LOOPBACK and not self.hosts:
            raise ValueError("a page that listens beyond this computer needs `hosts`: the names it is called by")
        return self


class DicomLimits(Limits):
    """Of the DICOM port. pynetdicom polls each association, at about a thirtieth of a core."""

    connections: int = Field(default=16, ge=1, le=100_000)
    by_address: int = Field(default=8, ge=1, le=100_000)
    pending: int = Field(default=8, ge=1, le=100_000)
    seconds: float = Field(default=30.0, gt=0, le=3600)


class PageLimits(Limits):
    """Of the local page."""

    connections: int = Field(default=128, ge=1, le=100_000)
    by_address: int = Field(default=64, ge=1, le=100_000)
    pending: int = Field(default=32, ge=1, le=100_000)
    seconds: float = Field(default=10.0, gt=0, le=3600)


class ClinicLimits(BaseModel):
    """Sections [limits.dicom] and [limits.page]: limits of each port."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dicom: DicomLimits = DicomLimits()
    page: PageLimits = PageLimits()


class SenderConfig(BaseSettings):
    """The settings of a clinic; each has a default."""

    model_config = SettingsConfigDict(
        env_prefix="THINWIRE_SENDER_", env_nested_delimiter="__", frozen=True, extra="forbid"
    )

    hub: str = ""
    """HOST:PORT of the hub; written by `join`."""
    bundle: Path = Field(default_factory=default_bundle_folder)
    """Folder of the model bundle."""
    provider: str = "auto"
    """onnxruntime's execution provider: auto, cpu, cuda or tensorrt."""
    threads: int | None = None
    """Threads of the models; all cores that the process may use where not set."""
    keep_percent: float | None = None
    """Share of the image's cells that is kept; the bundle's own where not set."""
    tau: float | None = None
    """Keep cells above this share of the attention instead."""
    graph_bytes: int | None = Field(default=None, ge=1)
    """Bytes that a graph may take on the link: more patches where there is room, coarser or fewer where there is
    not."""
    keep_days: float = 30.0
    """Days after which a study that arrived whole is forgotten here."""
    keep_originals_until: KeepUntil = KeepUntil.BACKUP
    """backup: a study's files stay until a backup of the hub holds it, if the hub has backups; stored: until the hub
    has stored it."""
    preview_bytes: int = Field(default=12_000, ge=2_000, le=1 << 20)
    """Most bytes of a preview on the link."""
    identity: Identity = Identity.FULL
    """Where the patient's identity goes: full (files and manifest), sealed (the sealed manifest alone) or none."""
    send_identity: bool | None = Field(default=None, exclude=True)
    """Former; read from the environment too, and replaced by `identity`."""

    tiers: TierSettings = TierSettings()
    """When the parts of a study go."""
    dicom: DicomSettings = DicomSettings()
    """The port to which X-ray machines send."""
    deidentify: DeidentifySettings = DeidentifySettings()
    """How files are de-identified, where identity is sealed or none."""
    page: PageSettings = PageSettings()
    """The local page."""
    limits: ClinicLimits = ClinicLimits()
    """Limits of the ports."""
    log: LogFormat = LogFormat.TEXT
    """How `run` logs: text, or json for one object a line."""

    @model_validator(mode="before")
    @classmethod
    def _former_identity(cls, given: object) -> object:
        return _with_identity(given)

    @model_validator(mode="after")
    def _blanks(self) -> "SenderConfig":
        if self.deidentify.blank and self.identity is Identity.FULL:
            raise ValueError('regions are blanked in released files alone; set identity to "sealed" or "none"')
        return self

    def released(self) -> Options:
        """How files are de-identified, where identity is sealed or none."""
        chosen = self.deidentify
        blank = tuple(each.blanking for each in chosen.blank)
        return Options(chosen.dates, chosen.uids, chosen.characteristics, blank, self.identity)

    def tier_policy(self) -> TierPolicy:
        """Raises BadConfiguration."""
        try:
            return self.tiers.policy()
        except ValueError as error:
            raise BadConfiguration(str(error), f"Correct section [tiers] in {FILE}.") from error

    def policy(self, bundle_percent: float) -> Policy:
        """The pruning policy. Raises BadConfiguration."""
        try:
            if self.tau is not None:
                return KeepAbove(self.tau)
            return KeepPercent(bundle_percent if self.keep_percent is None else self.keep_percent)
        except ValueError as error:
            raise BadConfiguration(str(error), f"Correct keep_percent or tau in {FILE}.") from error


def template(hub: str) -> str:
    """A joined clinic's new file: valid TOML as it is, and with every "# " removed. hub: HOST:PORT."""
    return _TEMPLATE.format(hub=json.dumps(hub))


def read_config(data: Path, **overrides: Any) -> SenderConfig:
    """The settings of a data folder. Raises BadConfiguration that names the setting."""

    class Configured(SenderConfig):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, data / FILE)

    try:
        return Configured(**overrides)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise BadConfiguration(f"setting {name}: {first['msg']}", f"Correct it in {data / FILE}.") from error
    except ValueError as error:
        raise BadConfiguration(f"{FILE} cannot be read: {error}", f"Correct {data / FILE}.") from error
