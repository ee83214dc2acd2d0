"""Geometry of a radiograph: the spacing of its pixels and the plane of the spacing, and the patient's sides at the
edges of the image."""

import re
from dataclasses import dataclass

from thinwire.shared.formats.display import SpacingKind
from thinwire.shared.imaging.header import DicomHeader

_POSSIBLE = 0.01, 10.0
"""Least and greatest plausible spacing of a radiograph, in millimetres."""
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
    """mm: between rows, between columns; None if unknown. notes: the warnings for the reader."""

    mm: Pair | None
    kind: SpacingKind
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sides:
    """The patient's side at each edge of the image: L, R (left, right), A, P (front, back), H, F (head, foot)."""

    left: str
    right: str
    top: str
    bottom: str

    @property
    def hung(self) -> bool:
        """Whether a frontal image has the usual orientation: the patient's left at the right edge, feet down."""
        return (self.right, self.bottom) == ("L", "F")

    @property
    def mirrored(self) -> bool:
        """Whether a frontal image is a mirror image: no rotation gives the usual orientation."""
        return {self.right, self.bottom} & {"A", "P"} == set() and (self.right, self.bottom) not in _TURNS_OF_HUNG


def sides(orientation: str) -> Sides | None:
    r"""The edges by Patient Orientation (PS3.3 C.7.6.1.1.1), the directions of rows and columns.

    orientation: such as "L\F", as `Display.orientation` has it. None if it is empty or not valid.
    """
    pair = _pair(orientation)
    if pair is None:
        return None
    right, bottom = pair[0][0], pair[1][0]
    return Sides(_OPPOSITE[right], right, _OPPOSITE[bottom], bottom)


def orientation(header: DicomHeader) -> tuple[str, tuple[str, ...]]:
    r"""Patient Orientation (0020,0020) in canonical form, such as "L\F", and the warnings.

    Empty if it is absent or does not name two directions: the sides are then unknown.
    """
    stated = header.text("PatientOrientation").strip(" \\")
    if not stated:
        return "", ()
    pair = _pair(stated)
    if pair is None:
        return "", ("Patient Orientation does not name two directions; the sides of the image are unknown",)
    found = "\\".join(pair)
    note = _hanging(found)
    return found, (note,) if note else ()


def _hanging(found: str) -> str:
    """The warning for an unusual orientation of a frontal chest; empty for the usual one."""
    edges = sides(found)
    if edges is None or edges.hung:
        return ""
    stated = f"Patient Orientation is {found.replace(chr(92), '/')}"
    if {edges.right, edges.bottom} & {"A", "P"}:
        return f"{stated}, not that of a frontal image; the image is displayed as stored"
    places = {edge: at for at, edge in vars(edges).items()}
    wrong = []
    if places["R"] != "left":
        wrong.append(f"the patient's right is at the {places['R']} edge")
    if places["H"] != "top":
        wrong.append(f"the head is at the {places['H']} edge")
    return f"{stated}: {' and '.join(wrong)}; the image is displayed as stored{', mirrored' if edges.mirrored else ''}"


def _pair(stated: str) -> tuple[str, str] | None:
    """Row and column direction, each of one to three letters; words, lower case and other separators occur in files."""
    words = [word.strip() for word in re.split(r"[\\/,]", stated.upper())]
    if len(words) == 1 and len(words[0]) == 2:
        words = list(words[0])
    words = [_WORDS.get(word, word) for word in words]
    if len(words) != 2 or not all(map(_direction, words)) or _axis(words[0]) == _axis(words[1]):
        return None
    return words[0], words[1]


def _direction(word: str) -> bool:
    """Whether a word has one to three letters, each of another axis."""
    return 1 <= len(word) <= 3 and all(each in _OPPOSITE for each in word) and len(set(map(_axis, word))) == len(word)


def _axis(word: str) -> str:
    return min(word[0], _OPPOSITE[word[0]])


def spacing(header: DicomHeader) -> Spacing:
    """The distance between pixels, and its plane (PS3.3 10.7.1.1 to 10.7.1.3, C.8.11.7).

    Pixel Spacing that differs from the detector's (or the film's), or has a calibration type, is that of the
    patient. Equal to it, or alone, it is that of the detector. Imager Pixel Spacing over a stated magnification is that
    of the patient.
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
                notes.append("the file does not state the plane of its pixel spacing; the detector is assumed")
            elif not _same(at_patient, _corrected(header, measured)):
                notes.append("the pixel spacing was corrected or calibrated in an unstated way")
    elif at_detector is not None and _corrected(header, at_detector) != at_detector:
        found, kind = _corrected(header, at_detector), SpacingKind.PATIENT
    elif at_patient is not None and header.code("PixelSpacingCalibrationType"):
        notes.append("the pixel spacing is stated as calibrated, but equals the detector's; the detector is assumed")
    if found is None:
        return Spacing(None, SpacingKind.UNKNOWN, (*notes, *(() if notes else ("the file states no pixel spacing",))))
    if abs(found[0] / found[1] - 1) > _NOT_SQUARE:
        notes.append("the pixels are not square; the image is displayed as if they were")
    return Spacing(found, kind, tuple(notes))


def _stated(header: DicomHeader, keyword: str, notes: list[str]) -> Pair | None:
    stated = header.numbers(keyword)
    if not stated:
        return None
    low, high = _POSSIBLE
    if len(stated) != 2 or not all(low <= each <= high for each in stated):
        notes.append(f"{keyword} is an impossible spacing; it was ignored")
        return None
    return stated[0], stated[1]


def _corrected(header: DicomHeader, measured: Pair) -> Pair:
    """Imager Pixel Spacing over Estimated Radiographic Magnification Factor (0018,1114), if it is plausible."""
    factor = header.number("EstimatedRadiographicMagnificationFactor") or 1.0
    factor = factor if _MAGNIFICATION[0] <= factor <= _MAGNIFICATION[1] else 1.0
    return measured[0] / factor, measured[1] / factor


def _same(one: Pair, other: Pair) -> bool:
    return all(abs(a / b - 1) < _SAME for a, b in zip(one, other, strict=True))
