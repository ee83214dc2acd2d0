from thinwire.receiver.training.phantoms.phantom import describe
from thinwire.sender.graph.report_graph import extract
from thinwire.sender.graph.vocabulary import load_vocabulary
from thinwire.shared.formats.graph import Assertion

VOCABULARY = load_vocabulary()
FIVE = ("consolidation", "effusion", "pneumothorax", "cardiomegaly", "nodule")
NORMAL_HEARTS = {"Heart size is normal.", "The heart is not enlarged.", "Cardiac silhouette is within normal limits."}


def test_phantom_reports_are_read_as_they_were_meant() -> None:
    for seed in range(500):
        phantom = describe(seed)
        denials = [sentence for sentence, finding in phantom.sentences if finding is None]
        expected = {(finding.name, Assertion.PRESENT) for finding in phantom.findings}
        expected |= {(name, Assertion.ABSENT) for name in FIVE if any(name in sentence for sentence in denials)}
        expected |= {("cardiomegaly", Assertion.ABSENT)} if NORMAL_HEARTS & set(denials) else set()
        graph = extract(phantom.report, VOCABULARY)
        found = {
            (VOCABULARY.concepts[concept].name, Assertion(assertion))
            for concept, assertion in zip(graph.concept.tolist(), graph.assertion.tolist(), strict=True)
        }
        assert {node for node in found if node[0] in FIVE} == expected, phantom.report
