"""How much a 24x24 thumbnail gives away of a phantom's findings: logistic regression, 5-fold, AUC with a 95 % interval.

python benchmarks/bench_phantom_leak.py [--phantoms 1500] [--out benchmarks/results/phantom_leak.json]
"""

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from thinwire.sender.intake.phantom import FINDINGS, describe, render

SIDE = 24
LIMITS = {"consolidation": 0.70, "nodule": 0.70, "pneumothorax": 0.70, "effusion": 0.80, "cardiomegaly": 0.80}
STRENGTHS = (0.001, 0.01, 0.1)
"""Regularisation: the most telling of these counts, so that the figure errs to the worse side."""


def thumbnail(seed: int) -> tuple[NDArray[np.float32], list[bool]]:
    """float32 [24 * 24] and which findings are present."""
    phantom = describe(seed)
    scale = 192 / max(phantom.height, phantom.width)
    pixels = render(phantom, round(phantom.height * scale), round(phantom.width * scale))
    small = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BOX)
    present = {finding.name for finding in phantom.findings}
    return np.asarray(small, dtype=np.float32).ravel(), [name in present for name in FINDINGS]


def auc(labels: NDArray[np.bool_], features: NDArray[np.float32]) -> tuple[float, float, float]:
    """AUC out of fold with the percentile interval of 1000 bootstrap samples."""
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    best, scores = -1.0, np.zeros(len(labels))
    for strength in STRENGTHS:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=500))
        tried = cross_val_predict(model, features, labels, cv=folds, method="decision_function")
        if (value := float(roc_auc_score(labels, tried))) > best:
            best, scores = value, tried
    rng = np.random.default_rng(0)
    draws = (rng.integers(len(labels), size=len(labels)) for _ in range(1000))
    values = [roc_auc_score(labels[rows], scores[rows]) for rows in draws if labels[rows].any()]
    low, high = np.quantile(values, (0.025, 0.975))
    return best, float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phantoms", type=int, default=1500)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/phantom_leak.json"))
    options = parser.parse_args()
    pairs = [thumbnail(seed) for seed in range(options.phantoms)]
    features = np.stack([pair[0] for pair in pairs])
    labels = np.array([pair[1] for pair in pairs])
    rows = {}
    for i, name in enumerate(FINDINGS):
        value, low, high = auc(labels[:, i], features)
        rows[name] = {
            "auc": round(value, 3),
            "interval_95": [round(low, 3), round(high, 3)],
            "at_most": LIMITS[name],
            "prevalence": round(float(labels[:, i].mean()), 3),
        }
        print(f"{name:14} {value:.3f} ({low:.3f}-{high:.3f}), aim at most {LIMITS[name]:.2f}", flush=True)
    result = {
        "command": f"python benchmarks/bench_phantom_leak.py --phantoms {options.phantoms}",
        "phantoms": options.phantoms,
        "normal_share": round(float((~labels.any(axis=1)).mean()), 3),
        "thumbnail": SIDE,
        "findings": rows,
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
