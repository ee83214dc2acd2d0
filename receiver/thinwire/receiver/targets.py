"""The targets of forwarding: the tables [forward] and [[forward.targets]] of config.toml."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AnyHttpUrl, BaseModel, ConfigDict, Field, model_validator

Title = Annotated[str, Field(pattern=r"^[!-\[\]-~](?:[ -\[\]-~]{0,14}[!-\[\]-~])?$")]
"""A DICOM application entity title: 1 to 16 characters of ASCII, no backslash (PS3.5 6.2, AE)."""


class _Target(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")
    """Its name in status, logs and metrics: 1 to 32 of a-z, 0-9 and '-'."""
    since: datetime | None = None
    """Only studies received at this time or later are sent; None: all."""


class DicomTarget(_Target):
    """A PACS by C-STORE (PS3.4 B)."""

    kind: Literal["c-store"]
    host: str
    port: int = Field(ge=1, le=65535)
    called: Title
    """The peer's application entity title."""


class _WebTarget(_Target):
    url: AnyHttpUrl
    auth_file: Path | None = None
    """A file whose first line is the Authorization header, such as "Bearer ..."; read before each use."""
    ca_file: Path | None = None
    """PEM certificates that are trusted instead of the system's."""

    @property
    def base(self) -> str:
        return str(self.url).rstrip("/")


class StowTarget(_WebTarget):
    """A PACS by DICOMweb STOW-RS (PS3.18 10.5). url: of the service, such as https://pacs.example.org/dicom-web."""

    kind: Literal["stow"]


class FhirTarget(_WebTarget):
    """A FHIR R4 server. url: its base."""

    kind: Literal["fhir"]


Target = Annotated[DicomTarget | StowTarget | FhirTarget, Field(discriminator="kind")]


class ForwardSettings(BaseModel):
    """Table [forward]."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: Title = "THINWIRE"
    """The hub's own application entity title."""
    listen: str | None = None
    """HOST:PORT for storage commitment reports; None: commitment is not requested."""
    targets: tuple[Target, ...] = ()

    @model_validator(mode="after")
    def _names_are_unique(self) -> "ForwardSettings":
        if len({each.name for each in self.targets}) != len(self.targets):
            raise ValueError("two targets have one name")
        return self
