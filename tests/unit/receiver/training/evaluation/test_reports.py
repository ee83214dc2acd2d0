"""The sources of the floors: the source's own training reports, or phantoms; never who is judged."""

from dataclasses import replace

from tests.support.tiny_model_outputs import tiny_model_outputs
from thinwire.receiver.inference.mpnn import load_predictor
from thinwire.receiver.training import corpus
from thinwire.receiver.training.evaluation.reports import floor_of, report_table
from thinwire.receiver.training.evaluation.tables import Source
from thinwire.shared.formats.bundle import Bundle


def test_proxies_are_measured_against_the_reports_of_training_proxies(bundle: Bundle) -> None:
    seen = tiny_model_outputs(3, source="nih14", text_kind="proxy", sentences=(("No effusion.", None),))
    source = Source("nih14", bundle, load_predictor(bundle), seen)
    pairs = [
        replace(corpus.phantom(n), source="nih14", text_kind="proxy", role="report", height=90, width=80)
        for n in range(4)
    ]
    judged = replace(pairs[1], patient=seen.samples[0].patient)
    listed = [pairs[0], judged, replace(pairs[2], role="graph"), replace(pairs[3], text_kind="composed")]
    floor = floor_of(source, listed, lambda *_: None, workers=1)
    assert floor.label == "1 training images of nih14 (text: proxy)"
    assert [s.key for s in floor.seen.samples] == [pairs[0].key]
    rows = {r["written_from"]: r for r in report_table(source, floor, None)}
    assert rows["floor: most common report"]["floors_from"] == floor.label
    assert all(r["radgraph_f1"] is None for r in rows.values())
