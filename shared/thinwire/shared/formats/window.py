"""The VOI transform from stored values to displayed grey levels; part of two formats (docs/preview-format.md)."""

import math
import struct
from dataclasses import dataclass
from enum import IntEnum

from thinwire.shared.errors import BadFormat


class Function(IntEnum):
    """The VOI transform between the modality transform and the stretch between percentiles of the image."""

    PERCENTILES = 0
    """No VOI transform: the file has no window, or none that is plausible."""
    LUT = 1
    """The file's first VOI LUT (PS3.3 C.11.2.1.1)."""
    LINEAR = 2
    """The file's first window (PS3.3 C.11.2.1.2)."""
    LINEAR_EXACT = 3
    SIGMOID = 4


_WINDOW = struct.Struct(">Bdd")
WINDOW_BYTES = _WINDOW.size
_WITHOUT_NUMBERS = (Function.PERCENTILES, Function.LUT)


@dataclass(frozen=True)
class Window:
    """center, width: of a window, in the values that the modality transform gives; 0 where there is none."""

    function: Function
    center: float = 0.0
    width: float = 0.0

    def to_bytes(self) -> bytes:
        return _WINDOW.pack(self.function, self.center, self.width)

    @classmethod
    def from_bytes(cls, data: bytes, broken: type[BadFormat]) -> "Window":
        """Read WINDOW_BYTES bytes. broken: the error class of the format; it is raised for any invalid value."""
        number, center, width = _WINDOW.unpack(data)
        if number > max(Function) or not (math.isfinite(center) and math.isfinite(width)):
            raise broken("its VOI function code is unknown")
        function = Function(number)
        if width <= 0 if function not in _WITHOUT_NUMBERS else data[1:] != bytes(WINDOW_BYTES - 1):
            raise broken("its window center or width does not fit its VOI function")
        return cls(function, center, width)
