"""Where the pixels of a radiograph lie: their spacing and the plane in which it holds, and which side of the patient
stands at which edge of the image."""

import re
from dataclasses import dataclass

from thinwire.shared.formats.display import SpacingKind
from thinwire.shared.imaging.header import DicomHeader

_POSSIBLE = 0.01, 10.0
"""Millimetres that a pixel of a radiograph can have; beyond them a header is wrong."""
_MAGNIFICATION = 1.0, 4.0
_SAME = 1e-3
"""Relative difference up to which two spacings are the same number, written with fewer digits."""
_NOT_SQUARE = 0.01

_OPPOSITE = {"L": "R", "R": "L", "A": "P", "P": "A", "H": "F", "F": "H"}
_WORDS = {"LEFT": "L", "RIGHT": "R", "ANTERIOR": "A", "POSTERIOR": "P", "HEAD": "H", "FOOT": "F", "FEET": "F"}
_TURNS_OF_HUNG = frozenset((("L", "F"), ("H", "L"), ("R", "H"), ("F", "R")))

Pair = tuple[float, float]


@dataclass(frozen=True)
class Spacing:
    """mm: between rows, between columns; None where none is known. notes: what was not believed, for a reader."""

    mm: Pair | None
    kind: SpacingKind
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sides:
    """What stands at each edge of the image: one of L, R (the patient's left, right), A, P (front, back), H, F."""

    left: str
    right: str
    top: str
    bottom: str

    @property
    def hung(self) -> bool:
        """Whether a frontal image is hung as usual: the patient's left at the right edge, feet down."""
        return (self.right, self.bottom) == ("L", "F")

    @property
    def mirrored(self) -> bool:
        """Whether a frontal image is a mirror image: no turn of it is hung as usual."""
        return {self.right, self.bottom} & {"A", "P"} == set() and (self.right, self.bottom) not in _TURNS_OF_HUNG


def sides(orientation: str) -> Sides | None:
    r"""The edges by Patient Orientation (PS3.3 C.7.6.1.1.1), which names where rows and columns run to.

    orientation: such as "L\F", as `Display.orientation` has it. None where it is empty or no orientation: unknown.
    """
    pair = _pair(orientation)
    if pair is None:
        return None
    right, bottom = pair[0][0], pair[1][0]
    return Sides(_OPPOSITE[right], right, _OPPOSITE[bottom], bottom)


def orientation(header: DicomHeader) -> tuple[str, tuple[str, ...]]:
    r"""Patient Orientation (0020,0020) in its one form, such as "L\F", and what a reader is told of it.

    Empty where it is absent or names no two directions: then nothing is claimed.
    """
    stated = header.text("PatientOrientation").strip(" \\")
    if not stated:
        return "", ()
    pair = _pair(stated)
    if pair is None:
        return "", ("Patient Orientation names no two directions; the sides of the image are not known from it",)
    found = "\\".join(pair)
    note = _hanging(found)
    return found, (note,) if note else ()


def _hanging(found: str) -> str:
    """The warning for an image that is not hung as a frontal chest; empty where it is."""
    edges = sides(found)
    if edges is None or edges.hung:
        return ""
    said = f"Patient Orientation is {found.replace(chr(92), '/')}"
    if {edges.right, edges.bottom} & {"A", "P"}:
        return f"{said}, not that of a frontal image; it is shown as stored"
    places = {edge: at for at, edge in vars(edges).items()}
    wrong = []
    if places["R"] != "left":
        wrong.append(f"the patient's right is at the {places['R']} edge")
    if places["H"] != "top":
        wrong.append(f"the head is at the {places['H']} edge")
    return f"{said}: {' and '.join(wrong)}; the image is shown as stored{', mirrored' if edges.mirrored else ''}"


def _pair(stated: str) -> tuple[str, str] | None:
    """Row and column direction, each of one to three letters; words, small letters and other separators occur."""
    words = [word.strip() for word in re.split(r"[\\/,]", stated.upper())]
    if len(words) == 1 and len(words[0]) == 2:
        words = list(words[0])
    words = [_WORDS.get(word, word) for word in words]
    if len(words) != 2 or not all(map(_direction, words)) or _axis(words[0]) == _axis(words[1]):
        return None
    return words[0], words[1]


def _direction(word: str) -> bool:
    """Whether a word is of one to three letters, of which no two are of one axis."""
    return 1 <= len(word) <= 3 and all(each in _OPPOSITE for each in word) and len(set(map(_axis, word))) == len(word)


def _axis(word: str) -> str:
    return min(word[0], _OPPOSITE[word[0]])


def spacing(header: DicomHeader) -> Spacing:
    """The distance between pixels, and where it holds (PS3.3 10.7.1.1 to 10.7.1.3, C.8.11.7).

    Pixel Spacing that differs from the detector's (or the film's), or has a calibration type, is the patient's. Equal
    to it, or alone, it is the detector's. Imager Pixel Spacing over a stated magnification is the patient's.
    """
    notes: list[str] = []
    at_patient = _stated(header, "PixelSpacing", notes)
    at_detector = _stated(header, "ImagerPixelSpacing", notes)
    on_film = _stated(header, "NominalScannedPixelSpacing", notes)
    measured = at_detector or on_film
    kind = SpacingKind.FILM if at_detector is None and on_film is not None else SpacingKind.DETECTOR
    found = measured
    if at_patient is not None and not (measured is not None and _same(at_patient, measured)):
        found = at_patient
        kind = SpacingKind.PATIENT
        if header.code("PixelSpacingCalibrationType") not in ("GEOMETRY", "FIDUCIAL"):
            if measured is None:
                kind = SpacingKind.DETECTOR
                notes.append("the file does not say where its pixel spacing holds; it is taken for the detector's")
            elif not _same(at_patient, _corrected(header, measured)):
                notes.append("the pixel spacing was corrected or calibrated, the file does not say how")
    elif at_detector is not None and _corrected(header, at_detector) != at_detector:
        found, kind = _corrected(header, at_detector), SpacingKind.PATIENT
    elif at_patient is not None and header.code("PixelSpacingCalibrationType"):
        notes.append("the pixel spacing is called calibrated, but is the detector's; it is taken for the detector's")
    if found is None:
        return Spacing(None, SpacingKind.UNKNOWN, (*notes, *(() if notes else ("the file states no pixel spacing",))))
    if abs(found[0] / found[1] - 1) > _NOT_SQUARE:
        notes.append("the pixels are not square; the image is shown as if they were")
    return Spacing(found, kind, tuple(notes))


def _stated(header: DicomHeader, keyword: str, notes: list[str]) -> Pair | None:
    stated = header.numbers(keyword)
    if not stated:
        return None
    low, high = _POSSIBLE
    if len(stated) != 2 or not all(low <= each <= high for each in stated):
        notes.append(f"{keyword} is not a possible spacing; it was left out")
        return None
    return stated[0], stated[1]


def _corrected(header: DicomHeader, measured: Pair) -> Pair:
    """Imager Pixel Spacing over Estimated Radiographic Magnification Factor (0018,1114), where that is possible."""
    factor = header.number("EstimatedRadiographicMagnificationFactor") or 1.0
    factor = factor if _MAGNIFICATION[0] <= factor <= _MAGNIFICATION[1] else 1.0
    return measured[0] / factor, measured[1] / factor


def _same(one: Pair, other: Pair) -> bool:
    return all(abs(a / b - 1) < _SAME for a, b in zip(one, other, strict=True))
