"""The clinic's settings: DATA/config.toml, overridden by THINWIRE_SENDER_* in the environment; one frozen value."""

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from thinwire.sender.graph.pruning import KeepAbove, KeepPercent, Policy
from thinwire.shared.bundle import default_bundle_folder
from thinwire.shared.errors import BadConfiguration

FILE = "config.toml"


class SenderConfig(BaseSettings):
    """What a clinic may set; each has a default that works."""

    model_config = SettingsConfigDict(env_prefix="THINWIRE_SENDER_", frozen=True, extra="forbid")

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
    keep_days: float = 30.0
    """Days after which a study that arrived whole is forgotten here."""
    preview_bytes: int = Field(default=12_000, ge=2_000, le=1 << 20)
    """Most bytes of a preview on the link."""
    send_identity: bool = True
    """Whether the sealed manifest names the patient and the study; the pixels tier carries the files as they are."""

    def policy(self, bundle_percent: float) -> Policy:
        """The pruning policy. Raises BadConfiguration."""
        try:
            if self.tau is not None:
                return KeepAbove(self.tau)
            return KeepPercent(bundle_percent if self.keep_percent is None else self.keep_percent)
        except ValueError as error:
            raise BadConfiguration(str(error), f"Correct keep_percent or tau in {FILE}.") from error


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
