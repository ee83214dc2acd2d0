"""Boxes that taught judge nothing; priors come from images that are not judged; circular rows say so."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from tests.support.tiny_model_outputs import tiny_model_outputs
from thinwire.receiver.inference.mpnn import load_predictor
from thinwire.receiver.training import corpus
from thinwire.receiver.training.corpus import Sample
from thinwire.receiver.training.evaluation import localisation
from thinwire.receiver.training.evaluation.localisation import (
    BOX_PRIOR,
    LUNG_PRIOR,
    OWN_BOXES,
    RSNA_BOXES,
    box_rows,
    gaze_table,
    lung_fields,
    own_prior,
    phantom_prior,
    spread,
)
from thinwire.receiver.training.evaluation.model_outputs import Guide, ModelOutputs
from thinwire.receiver.training.evaluation.tables import ALL, UNSEEN, Source, choice_table
from thinwire.sender.graph.pruning import KeepPercent, prune
from thinwire.shared.formats.bundle import Bundle

BOX = ("consolidation", 0.2, 0.3, 0.2, 0.3)
ROLES: Sequence[corpus.Role] = ("report", "graph", "validation", "calibration", "test", "test")


@pytest.fixture(autouse=True)
def _few_phantoms(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prior of few is a prior."""
    monkeypatch.setattr(localisation, "PHANTOMS_OF_PRIOR", 20)


def real(seen: ModelOutputs) -> ModelOutputs:
    """As of a real source with images of every role, a box of the data set and one of the RSNA on each."""
    samples = [
        replace(s, source="nih14", seed=-1, role=role, text_kind="composed", boxes=(BOX,), judge_boxes=(BOX,))
        for s, role in zip(seen.samples, ROLES, strict=True)
    ]
    return replace(seen, samples=samples)


def test_a_box_that_taught_never_judges() -> None:
    seen = real(tiny_model_outputs())
    rows = {drawn.label: drawn.row.tolist() for drawn in box_rows(seen)}
    assert rows == {OWN_BOXES: [2, 3, 4, 5], RSNA_BOXES: [0, 1, 2, 3, 4, 5]}


def test_rows_of_all_and_of_unseen_images_and_circular_ones(bundle: Bundle) -> None:
    source = Source("nih14", bundle, load_predictor(bundle), real(tiny_model_outputs()))
    rows = gaze_table(source, (Guide.GENERATED, Guide.GIVEN), phantom_prior(), seeds=1)
    shown = [r for r in rows if r["finding"] == "all" and r["measure"] == "box_touched"]
    assert {(r["boxes_by"], r["subset"]): r["boxes"] for r in shown} == {
        (RSNA_BOXES, ALL): 6,
        (RSNA_BOXES, UNSEEN): 4,
        (OWN_BOXES, ALL): 4,
        (OWN_BOXES, UNSEEN): 4,
    }
    assert {(r["guide"], r["boxes_by"]) for r in rows if r["circular"]} == {("given", OWN_BOXES)}
    assert {BOX_PRIOR, LUNG_PRIOR} <= {r["choice"] for r in rows}
    assert all(bool(r["prior"]) == (r["choice"] in (BOX_PRIOR, LUNG_PRIOR)) for r in rows)


def test_auc_rows_come_of_all_and_of_unseen_images(bundle: Bundle) -> None:
    seen = real(tiny_model_outputs())
    samples = [replace(s, labels=(float(n % 2),) * 5) for n, s in enumerate(seen.samples)]
    source = Source("nih14", bundle, load_predictor(bundle), replace(seen, samples=samples))
    rows = choice_table(source, (Guide.GENERATED,), seeds=2, full=False)
    assert {(r["subset"], r["images"]) for r in rows} == {(ALL, 6), (UNSEEN, 4)}
    only = Source("nih14", bundle, load_predictor(bundle), replace(seen, samples=samples).part([4, 5]))
    assert set(only.subsets) == {ALL}, "where nothing taught there is nothing to leave out"


def test_the_box_prior_is_of_images_that_are_not_judged() -> None:
    def sample(key: str, role: corpus.Role, **changes: object) -> Sample:
        made = replace(corpus.phantom(0), key=key, patient=key, source="nih14", seed=-1, role=role, boxes=(BOX,))
        return replace(made, **changes)  # type: ignore[arg-type]

    taught, judged = sample("a", "report"), sample("b", "report", judge_boxes=(BOX,))
    listed = [taught, judged, sample("c", "test"), sample("d", "graph", boxes=()), sample("e", "graph", source="x")]
    assert own_prior("nih14", listed, [judged]).label == "mean of 1 training boxes of nih14"
    assert own_prior("nih14", listed, []).label == "mean of 2 training boxes of nih14"
    assert own_prior("nih14", [judged], [judged]).label.endswith("boxes of training phantoms")


def test_the_lung_field_prior_is_spread_over_the_lungs() -> None:
    seen = tiny_model_outputs(2)
    lungs, _ = lung_fields(seen)
    share = seen.share[Guide.GENERATED]
    for percent in (2, 10, 25, 100):
        policy = KeepPercent(percent)
        for row, valid in enumerate(seen.valid):
            kept = spread(lungs)(row, valid, share[row], policy)
            assert len(kept) == len(prune(valid, share[row], policy))
            assert (np.diff(kept) > 0).all()
            assert valid[kept].all()
            if percent <= 10:
                assert (lungs[row, kept] >= 0.5 * lungs[row].max()).all()
    # Two lungs of five cells each, far apart: of two cells one stands in the middle of each.
    field = np.zeros((1, 64), np.float32)
    field[0, [r * 8 + c for r in (1, 2, 3, 4, 5) for c in (1, 6)]] = 1
    kept = spread(field)(0, np.ones(64, np.bool_), np.full(64, 1 / 64, np.float32), KeepPercent(100 * 2 / 64))
    assert kept.tolist() == [3 * 8 + 1, 3 * 8 + 6]
