"""Does a thumbnail give a phantom's findings away? Logistic regression on 24 x 24 pixels, five folds.

    python -m benchmarks.bench_phantom_leak [--phantoms 1500]

All figures are of synthetic images.
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

from benchmarks.machine import machine
from benchmarks.provenance import phantoms_digest
from thinwire.receiver.training.phantoms.phantom import FINDINGS, describe, render

FIRST = 1_000_000_000
SIDE = 24


def thumbnail(seed: int) -> NDArray[np.float32]:
    phantom = describe(seed)
    scale = 192 / max(phantom.height, phantom.width)
    pixels = render(phantom, round(phantom.height * scale), round(phantom.width * scale))
    small = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32).ravel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--phantoms", type=int, default=1500)
    count = parser.parse_args().phantoms
    seeds = range(FIRST, FIRST + count)
    images = np.stack([thumbnail(seed) for seed in seeds])
    found = [{f.name for f in describe(seed).findings} for seed in seeds]
    random = np.random.default_rng(0)
    out = {}
    for name in FINDINGS:
        labels = np.array([name in names for names in found], dtype=int)
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        score = cross_val_predict(model, images, labels, cv=folds, method="predict_proba")[:, 1]
        drawn = []
        for _ in range(500):
            pick = random.integers(0, count, count)
            drawn.append(roc_auc_score(labels[pick], score[pick]))
        low, high = np.percentile(drawn, [2.5, 97.5])
        auc = float(roc_auc_score(labels, score))
        out[name] = {"auc": round(auc, 3), "low": round(float(low), 3), "high": round(float(high), 3)}
        print(name, out[name])
    result = {
        "command": f"python -m benchmarks.bench_phantom_leak --phantoms {count}",
        "machine": machine(),
        "synthetic": True,
        "phantoms_digest": phantoms_digest(),
        "images": count,
        "reader": f"logistic regression on {SIDE} x {SIDE} pixels, 5-fold",
        "interval": "95 %, 500 bootstrap resamples",
        "auc": out,
    }
    path = Path(__file__).parent / "results" / "phantom_leak.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
