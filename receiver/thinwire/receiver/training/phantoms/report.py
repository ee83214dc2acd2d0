"""The texts of a phantom: a report in a radiologist's words, and an indication that names no finding."""

import numpy as np

from thinwire.receiver.training.phantoms.chest import FINDINGS, WORDS, Lesion, Plan, stream

Sentence = tuple[str, str | None]

_SIZE = {"subtle": ("subtle", "faint", "minimal"), "mild": ("mild", "small"), "moderate": ("moderate",)} | {
    "severe": ("extensive", "large")
}
_ASSERTED: dict[str, tuple[str, ...]] = {
    "consolidation": (
        "There is {size} consolidation in the {side} {zone} zone.",
        "{Size} airspace consolidation is seen in the {side} {zone} lung zone.",
        "{Size} {side} {zone} zone consolidation with air bronchograms.",
        "{Side} {zone} zone consolidation, {size}, suspicious for pneumonia.",
        "Focal consolidation projects over the {side} {zone} lung.",
    ),
    "effusion": (
        "There is a {size} {side} pleural effusion.",
        "{Size} {side} pleural effusion blunting the costophrenic angle.",
        "Blunting of the {side} costophrenic angle consistent with {size} pleural effusion.",
        "A {size} effusion is present on the {side}.",
    ),
    "pneumothorax": (
        "There is a {size} {side} apical pneumothorax.",
        "{Size} {side} pneumothorax with a visible pleural line.",
        "{Side} pneumothorax, {size}.",
        "A {size} pneumothorax is present on the {side}.",
    ),
    "cardiomegaly": (
        "The heart is enlarged, consistent with {size} cardiomegaly.",
        "{Size} cardiomegaly.",
        "Cardiomegaly with a cardiothoracic ratio of {ratio}.",
        "There is {size} cardiomegaly.",
    ),
    "nodule": (
        "A {mm} mm nodule is seen in the {side} {zone} zone.",
        "There is a {size} nodule in the {side} {zone} lung zone.",
        "{Side} {zone} zone pulmonary nodule measuring {mm} mm.",
        "Solitary nodule projecting over the {side} {zone} lung.",
    ),
}
_DENIED: dict[str, tuple[str, ...]] = {
    "consolidation": ("focal consolidation", "consolidation", "airspace consolidation"),
    "effusion": ("pleural effusion", "effusion"),
    "pneumothorax": ("pneumothorax",),
    "cardiomegaly": ("cardiomegaly",),
    "nodule": ("nodule", "pulmonary nodule", "suspicious nodule"),
}
ALL_CLEAR = ("No acute cardiopulmonary abnormality.", "No acute abnormality.", "Normal chest radiograph.")
HEART_NORMAL = ("Heart size is normal.", "The heart is not enlarged.", "Cardiac silhouette is within normal limits.")
INDICATIONS = (
    "Cough and fever.",
    "Shortness of breath.",
    "Chest pain.",
    "Follow-up.",
    "Preoperative assessment.",
    "Weight loss and night sweats.",
    "Fall from standing height.",
    "Employment screening.",
    "Dyspnoea on exertion, smoker.",
    "Persistent cough for three weeks.",
)


def indication_of(plan: Plan) -> str:
    return str(stream(plan.seed, WORDS, 1).choice(INDICATIONS))


def sentences_of(plan: Plan) -> tuple[Sentence, ...]:
    """The report: present findings, in varying words and order, then absent ones."""
    rng = stream(plan.seed, WORDS)
    said: list[Sentence] = [(_assert(plan, lesion, rng), lesion.name) for lesion in plan.lesions]
    present = {lesion.name for lesion in plan.lesions}
    absent = [name for name in FINDINGS if name not in present]
    if "cardiomegaly" in absent and rng.random() < 0.6:
        absent.remove("cardiomegaly")
        said.append((str(rng.choice(HEART_NORMAL)), None))
    order = [absent[i] for i in rng.permutation(len(absent))]
    keep = order[: max(2, round(len(order) * rng.uniform(0.6, 1.0)))] if order else []
    words = [str(rng.choice(_DENIED[name])) for name in keep]
    if words and rng.random() < 0.75:
        lead = str(rng.choice(("No", "There is no", "No evidence of")))
        listed = words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
        said.append((f"{lead} {listed}.", None))
    else:
        said += [(f"No {word}.", None) for word in words]
    if not present and rng.random() < 0.5:
        said.append((str(rng.choice(ALL_CLEAR)), None))
    return tuple(said)


def _assert(plan: Plan, lesion: Lesion, rng: np.random.Generator) -> str:
    size = str(rng.choice(_SIZE[lesion.severity]))
    side = lesion.side if lesion.side != "midline" else ""
    zone = lesion.zone if lesion.zone in ("upper", "mid", "lower") else ""
    template = str(rng.choice(_ASSERTED[lesion.name]))
    return template.format(
        size=size,
        Size=size.capitalize(),
        side=side,
        Side=side.capitalize(),
        zone=zone,
        mm=max(5, round(2 * lesion.size * 140)),
        ratio=f"{plan.cardiothoracic_ratio:.2f}",
    )
