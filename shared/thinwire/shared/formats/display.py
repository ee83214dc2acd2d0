"""Display facts: how the frontal image was displayed; the manifest carries them to the reader.

Format: docs/envelope-format.md, field 8 of the manifest.
"""

import math
import struct
from dataclasses import dataclass
from enum import IntEnum

from thinwire.shared.errors import BadManifest
from thinwire.shared.formats.crops import Photometric
from thinwire.shared.formats.window import WINDOW_BYTES, Window

_FACTS = struct.Struct(f">BB???dd?iiBdd{WINDOW_BYTES}s")
DISPLAY_BYTES = _FACTS.size
_LARGEST_SPACING = 100.0


class SpacingKind(IntEnum):
    """The plane in which the spacing is measured (PS3.3 10.7.1.3)."""

    UNKNOWN = 0
    """The file states no spacing, or an impossible one."""
    PATIENT = 1
    """At the patient: the file states that it was calibrated or corrected for magnification."""
    DETECTOR = 2
    """At the detector's front plane: distances in the patient are shorter."""
    FILM = 3
    """On a scanned film (Nominal Scanned Pixel Spacing)."""


@dataclass(frozen=True)
class Display:
    """The header values that were applied for display. An implausible value was ignored, with a warning."""

    photometric: Photometric
    bits_stored: int
    """1 to 16."""
    signed: bool
    inverted: bool
    """Whether the least value is the brightest."""
    rescale: tuple[float, float] | None
    """Slope and intercept of the modality transform; None for a Modality LUT."""
    window: Window
    """The VOI transform."""
    padding: tuple[int, int] | None
    """Least and greatest stored value of the pixel padding (PS3.3 C.7.5.1.1.2)."""
    spacing_mm: tuple[float, float] | None
    """Millimetres between rows, between columns."""
    spacing_kind: SpacingKind
    orientation: str = ""
    r"""Patient Orientation (0020,0020) of the pixels as displayed, such as "L\F"; empty if it is not stated."""

    def to_bytes(self) -> bytes:
        """DISPLAY_BYTES bytes; the orientation is not among them."""
        return _FACTS.pack(
            self.photometric,
            self.bits_stored,
            self.signed,
            self.inverted,
            self.rescale is not None,
            *(self.rescale or (0.0, 0.0)),
            self.padding is not None,
            *(self.padding or (0, 0)),
            self.spacing_kind,
            *(self.spacing_mm or (0.0, 0.0)),
            self.window.to_bytes(),
        )

    @classmethod
    def from_bytes(cls, data: bytes, orientation: str) -> "Display":
        """Read `to_bytes`. Raises BadManifest for invalid values and for a non-canonical form."""
        if len(data) != DISPLAY_BYTES:
            raise BadManifest("the display facts of a manifest have another length")
        photometric, bits, signed, inverted, scaled, slope, intercept, padded, low, high, *rest = _FACTS.unpack(data)
        kind, row, column, window = rest
        if photometric > max(Photometric) or kind > max(SpacingKind) or not 1 <= bits <= 16:
            raise BadManifest("the display facts of a manifest have an unknown code")
        if not all(math.isfinite(each) for each in (slope, intercept, row, column)):
            raise BadManifest("the display facts of a manifest hold a number that is not finite")
        spacing = (row, column) if kind else None
        if spacing is not None and not all(0 < each < _LARGEST_SPACING for each in spacing):
            raise BadManifest("the spacing in a manifest is not possible")
        found = cls(
            Photometric(photometric),
            bits,
            signed,
            inverted,
            (slope, intercept) if scaled else None,
            Window.from_bytes(window, BadManifest),
            (low, high) if padded else None,
            spacing,
            SpacingKind(kind),
            orientation,
        )
        if found.to_bytes() != data:
            raise BadManifest("the display facts of a manifest are not in canonical form")
        return found
