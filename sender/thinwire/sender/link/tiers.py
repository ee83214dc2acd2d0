"""Which parts a study has, which of them go unasked, and which goes first."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from thinwire.shared.envelope import Kind


class When(StrEnum):
    """When a part of a study is sent."""

    ALWAYS = "always"
    ON_REQUEST = "on request"
    """Made and kept at the clinic; sent when a reader asks for it."""
    NEVER = "never"
    """Not made."""


ORDER = (Kind.GRAPH, Kind.MANIFEST, Kind.PREVIEW, Kind.EVIDENCE, Kind.PIXELS)
"""In which order a reader needs them: the manifest is small and says whose the study is and when it is complete."""


def _today() -> Mapping[Kind, When]:
    return MappingProxyType(
        {
            Kind.GRAPH: When.ALWAYS,
            Kind.MANIFEST: When.ALWAYS,
            Kind.PREVIEW: When.ALWAYS,
            Kind.EVIDENCE: When.ON_REQUEST,
            Kind.PIXELS: When.ALWAYS,
        }
    )


@dataclass(frozen=True)
class TierPolicy:
    """A clinic's choice. The graph, the pixels and the manifest are always made: they are the study."""

    when: Mapping[Kind, When] = field(default_factory=_today)

    def __post_init__(self) -> None:
        for kind in (Kind.GRAPH, Kind.MANIFEST, Kind.PIXELS):
            if self.when.get(kind, When.NEVER) is When.NEVER:
                raise ValueError(f"a study without its {kind.name.lower()} is not kept whole")

    @property
    def plan(self) -> tuple[Kind, ...]:
        """The parts that are made, in the order in which they go."""
        return tuple(kind for kind in ORDER if self.when.get(kind, When.NEVER) is not When.NEVER)

    def held(self, kind: Kind) -> bool:
        """Whether this part waits at the clinic until a reader asks."""
        return self.when.get(kind) is When.ON_REQUEST
