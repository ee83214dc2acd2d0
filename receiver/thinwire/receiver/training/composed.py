"""Texts of our own for real images that have labels and boxes but no report: composed, and named so everywhere.

They use the language of the phantoms' reports. They state a side, a zone and a size only where a box gives them.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thinwire.receiver.training.phantoms.chest import FINDINGS
from thinwire.receiver.training.phantoms.report import ALL_CLEAR, HEART_NORMAL, INDICATIONS

Sentence = tuple[str, str | None]
Box = tuple[str, float, float, float, float]

_CONSOLIDATION = (
    "consolidation",
    "consolidation",
    "airspace consolidation",
    "airspace opacity",
    "airspace opacification",
    "airspace disease",
    "infiltrate",
    "opacity",
)
_NODULE = ("nodule", "nodule", "pulmonary nodule", "nodular density")
_NODULES = ("nodules", "nodules", "pulmonary nodules", "nodular densities")
# {size}, {side} and {lead} are empty or end in a space, {where} and {on} are empty or begin with one; {a} is an
# article for one and {s} an s for two; {wide} and {deep} are {size} behind a comma and as an adverb.
_PATTERNS: dict[str, tuple[str, ...]] = {
    "consolidation": (
        "There is {size}{noun}{where}.",
        "{size}{noun} is seen{where}.",
        "{lead}{noun}{wide}.",
        "{size}{lead}{noun}.",
        "{noun}{where}, suspicious for pneumonia.",
        "The film shows {size}{noun}{where}.",
        "{lead}{noun} is present, in keeping with infection.",
    ),
    "effusion": (
        "There {are} {size}{side}pleural effusion{s}.",
        "{size}{side}pleural effusion{s}.",
        "{side}pleural effusion{s}{wide}.",
        "{size}{side}pleural effusion{s} blunting the costophrenic angle{s}.",
        "Blunting of the {side}costophrenic angle{s} consistent with {size}pleural effusion.",
        "{size}pleural effusion is present{on}.",
        "Pleural fluid is noted{on}.",
    ),
    "pneumothorax": (
        "There {are} {size}{side}{pneumothorax}.",
        "{size}{side}{pneumothorax} with a visible pleural line.",
        "{side}{pneumothorax}{wide}.",
        "{size}pneumothorax is present{on}.",
        "A pleural line is seen{on}, consistent with pneumothorax.",
    ),
    "cardiomegaly": (
        "The heart is enlarged, consistent with {size}cardiomegaly.",
        "{size}cardiomegaly.",
        "There is {size}cardiomegaly.",
        "The heart is {deep}enlarged.",
        "The cardiac silhouette is {deep}enlarged.",
        "Enlarged heart.",
    ),
    "nodule": (
        "{a}{size}{noun} {verb} seen{where}.",
        "There {are} {size}{noun}{where}.",
        "{lead}{noun}{wide}.",
        "{size}{lead}{noun}.",
        "The film shows {a}{size}{noun}{where}.",
        "{noun} projecting over the {over}.",
    ),
}
_SIZES: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "consolidation": (("subtle", "mild", "small"), ("moderate",), ("extensive", "large")),
    "effusion": (("small", "minimal"), ("moderate",), ("large",)),
    "pneumothorax": (("small", "subtle"), ("moderate",), ("large",)),
    "cardiomegaly": (("mild",), ("moderate",), ("marked", "severe")),
    "nodule": (("small",), ("",), ("large",)),
}
# Shares of the image's area up to which a box is small, and up to which it is moderate.
_AREAS = {
    "consolidation": (0.03, 0.09),
    "effusion": (0.03, 0.09),
    "pneumothorax": (0.02, 0.06),
    "cardiomegaly": (0.14, 0.19),
    "nodule": (0.004, 0.012),
}
_ADVERBS = {"mild": "mildly ", "moderate": "moderately ", "marked": "markedly ", "severe": "markedly "}
_DENIED: dict[str, tuple[str, ...]] = {
    "consolidation": ("focal consolidation", "consolidation", "airspace consolidation", "airspace opacity"),
    "effusion": ("pleural effusion", "effusion"),
    "pneumothorax": ("pneumothorax",),
    "cardiomegaly": ("cardiomegaly",),
    "nodule": ("nodule", "pulmonary nodule", "suspicious nodule"),
}
_DENIALS = ("No {}.", "There is no {}.", "No evidence of {}.", "No {} is seen.", "Negative for {}.")
_OTHERS: dict[str, tuple[str, ...]] = {
    "Atelectasis": ("There is atelectasis.", "Atelectatic change.", "Some atelectasis is noted.", "Volume loss."),
    "Edema": ("Pulmonary oedema.", "There is interstitial oedema.", "Vascular congestion with oedema."),
    "Emphysema": ("Emphysematous change.", "The lungs are hyperinflated with emphysema.", "Emphysema."),
    "Fibrosis": ("Fibrotic change.", "There is pulmonary fibrosis.", "Reticular markings from fibrosis."),
    "Pleural_Thickening": ("Pleural thickening.", "There is thickening of the pleura.", "Pleural thickening noted."),
    "Hernia": ("Hiatal hernia.", "There is a hiatus hernia.", "A hernia is noted behind the heart."),
}
"""Other labels of NIH ChestX-ray14, by its names: in the texts, but none of our findings."""
_LUNGS_CLEAR = ("The lungs are clear.", "Lungs are clear.", "Both lungs are clear.")
_BONES_NORMAL = ("The bones are intact.", "No acute bony abnormality.", "Bony thorax is unremarkable.")
_OF_A_CHILD = ("Paediatric chest radiograph.", "Chest radiograph of a child.", "AP view of a child.")
_INDICATIONS_OF_CHILDREN = ("Cough and fever.", "Fever.", "Fast breathing.", "Poor feeding.", "Cough.", "Follow-up.")

_MIDLINE = 0.03
"""A box whose centre is nearer to the middle of the image than this has no side."""
_WIDE = 0.5
"""A box wider than this share of the image lies in both lungs; one box alone does not say bilateral."""
_ZONE_ENDS = 0.34, 0.54
"""Where the upper and the mid zone of a frontal film end as a rule: shares of its height, our reading of NIH films."""
_TALL = 0.45
"""A box taller than this share of the image spans zones, so the text states none."""


@dataclass(frozen=True)
class Place:
    """Side, zone and size of one finding by its boxes; empty or None where the boxes do not give them."""

    side: str = ""
    """right, left, bilateral or empty."""
    zone: str = ""
    size: int | None = None
    """0 small, 1 moderate, 2 large."""


def compose(
    key: str,
    labels: Sequence[float],
    boxes: Sequence[Box],
    others: Sequence[str],
    paediatric: bool = False,
) -> tuple[tuple[Sentence, ...], str]:
    """(sentences with the finding that each asserts, or None; an indication that states none of the labels).

    key: gives the wording, always the same for the same key. labels: in the order of FINDINGS, 1, 0 or nan for unknown
    (left out of the texts). boxes: (finding, x, y, width, height) in unit image coordinates. others: further labels by
    their NIH names; unknown ones are left out.
    """
    rng = _stream(key, "report")
    known = dict(zip(FINDINGS, labels, strict=True))
    present = [name for name in FINDINGS if known[name] == 1]
    rest = [name for name in others if name in _OTHERS]
    said = [_assert(name, place_of(name, boxes), rng) for name in _shuffled(present, rng)]
    said += [(_pick(_OTHERS[name], rng), None) for name in _shuffled(rest, rng)]
    normal = _denials(known, clear_lungs=not rest, rng=rng)
    if rng.random() < 0.3:
        normal.append(_pick(_BONES_NORMAL, rng))
    if not present and not rest and known["consolidation"] == 0 and rng.random() < 0.5:
        normal.append(_pick(ALL_CLEAR, rng))
    denied: list[Sentence] = [(sentence, None) for sentence in normal]
    said = [*denied[:1], *said, *denied[1:]] if rng.random() < 0.2 else [*said, *denied]
    if paediatric and rng.random() < 0.3:
        said.insert(0, (_pick(_OF_A_CHILD, rng), None))
    indications = _INDICATIONS_OF_CHILDREN if paediatric else INDICATIONS
    return tuple(said), _pick(indications, _stream(key, "indication"))


def _assert(name: str, place: Place, rng: np.random.Generator) -> Sentence:
    size = "" if place.size is None else _pick(_SIZES[name][place.size], rng)
    both = place.side == "bilateral"
    one = place.side if not both else ""
    zone = f"{place.zone} zone" if place.zone else "lung"
    fields = f"both {zone}s" if both else f"the {one} {zone}"
    lead = " ".join(w for w in (place.side, f"{place.zone} zone" if place.zone else "") if w)
    nouns = {"consolidation": _CONSOLIDATION, "nodule": _NODULES if both else _NODULE}.get(name, (name,))
    text = _pick(_PATTERNS[name], rng).format(
        size=f"{size} " if size else "",
        side=f"{place.side} " if place.side else "",
        lead=f"{lead} " if lead else "",
        where=f" in {fields}" if place.side else "",
        over=fields.removeprefix("the ") if one else "lungs" if not both else f"{zone}s bilaterally",
        on=" on both sides" if both else f" on the {one}" if one else "",
        wide=f", {size}" if size else "",
        deep=_ADVERBS.get(size, ""),
        noun=_pick(nouns, rng),
        pneumothorax="pneumothoraces" if both else "pneumothorax",
        s="s" if both else "",
        a="" if both else "a ",
        are="are" if both else "is a",
        verb="are" if both else "is",
    )
    return text[0].upper() + text[1:], name


def place_of(name: str, boxes: Sequence[Box]) -> Place:
    """Side, zone and size by the boxes of a finding; the image's left is the patient's right."""
    found = [box[1:] for box in boxes if box[0] == name]
    if not found:
        return Place()
    sides = {_side(x + width / 2, width) for x, _, width, _ in found}
    side = "bilateral" if sides >= {"right", "left"} else next(iter(sides)) if len(sides) == 1 else ""
    zones = {_zone(y + height / 2) for _, y, _, height in found}
    zone = next(iter(zones)) if side and len(zones) == 1 and all(h < _TALL for *_, h in found) else ""
    area = math.fsum(width * height for _, _, width, height in found)
    size = sum(area > up_to for up_to in _AREAS[name])
    return Place(side, zone, size)


def _side(centre: float, width: float) -> str:
    if abs(centre - 0.5) < _MIDLINE or width > _WIDE:
        return ""
    return "right" if centre < 0.5 else "left"


def _zone(centre: float) -> str:
    return "upper" if centre < _ZONE_ENDS[0] else "mid" if centre < _ZONE_ENDS[1] else "lower"


def _denials(known: dict[str, float], clear_lungs: bool, rng: np.random.Generator) -> list[str]:
    """Sentences on the absent findings: in any order, one by one or together, not always of each."""
    said = []
    absent = _shuffled([name for name in FINDINGS if known[name] == 0], rng)
    if "cardiomegaly" in absent and rng.random() < 0.6:
        absent.remove("cardiomegaly")
        said.append(_pick(HEART_NORMAL, rng))
    if clear_lungs and "consolidation" in absent and known["nodule"] != 1 and rng.random() < 0.3:
        absent.remove("consolidation")
        said.append(_pick(_LUNGS_CLEAR, rng))
    if not absent:
        return said
    kept = absent[: max(2, round(len(absent) * rng.uniform(0.6, 1.0)))]
    words = [_pick(_DENIED[name], rng) for name in kept]
    if len(words) > 1 and rng.random() < 0.75:
        listed = f"{', '.join(words[:-1])} or {words[-1]}"
        return [*said, _pick(_DENIALS, rng).format(listed)]
    return said + [_pick(_DENIALS[:3], rng).format(word) for word in words]


def _stream(key: str, purpose: str) -> np.random.Generator:
    return np.random.default_rng(list(hashlib.sha256(f"thinwire composed {purpose} {key}".encode()).digest()))


def _pick(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]


def _shuffled(names: Sequence[str], rng: np.random.Generator) -> list[str]:
    return [names[i] for i in rng.permutation(len(names))]
