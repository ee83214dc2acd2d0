"""The fourteen labels of CheXpert (arXiv 1901.07031), which MIMIC-CXR and CheXpert Plus share, as our five."""

import math
from collections.abc import Mapping

from thinwire.receiver.training.corpus import FINDINGS

COLUMNS: dict[str, tuple[str, ...]] = {
    "consolidation": ("Consolidation", "Pneumonia"),
    "effusion": ("Pleural Effusion",),
    "pneumothorax": ("Pneumothorax",),
    "cardiomegaly": ("Cardiomegaly",),
    "nodule": ("Lung Lesion",),
}
NAMES = tuple(name for finding in FINDINGS for name in COLUMNS[finding])


def labels_of(row: Mapping[str, object]) -> tuple[float, ...]:
    """In the order of FINDINGS: 1 where a label is 1, else nan where one is -1 (uncertain), else 0.

    A label that is blank (not named in the report) counts as 0, as in the labels of NIH ChestX-ray14. Raises
    ValueError.
    """
    return tuple(_merged([_value(row[name]) for name in COLUMNS[finding]]) for finding in FINDINGS)


def _value(raw: object) -> float:
    value = 0.0 if raw is None or raw == "" else float(str(raw))
    if math.isnan(value):
        return 0.0
    if value not in (-1.0, 0.0, 1.0):
        raise ValueError("a label that is not 1, 0, -1 or blank")
    return value


def _merged(values: list[float]) -> float:
    return 1.0 if 1.0 in values else math.nan if -1.0 in values else 0.0
