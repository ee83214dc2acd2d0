"""The limits of a site at the hub."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from thinwire.shared.crypto.envelope import Kind


def _sizes() -> Mapping[Kind, int]:
    return MappingProxyType(
        {
            Kind.GRAPH: 1 << 20,
            Kind.PREVIEW: 4 << 20,
            Kind.CROPS: 64 << 20,
            Kind.ORIGINALS: 2 << 30,
            Kind.MANIFEST: (1 << 20) + (64 << 10),
        }
    )


@dataclass(frozen=True)
class SiteLimits:
    """Limits of one site at the hub."""

    sizes: Mapping[Kind, int] = field(default_factory=_sizes)
    """Bytes of a sealed object by kind; other kinds are refused."""
    under_way: int = 64
    """Open transfers in one session."""
    again_after: float = 30.0
    """Seconds until the clinic may repeat a temporarily refused object."""
