import numpy as np
import pytest

from thinwire.sender.graph.report_graph import Extractor, RuleExtractor, extract
from thinwire.sender.graph.vocabulary import ConceptRole, load_vocabulary
from thinwire.shared.formats.graph import Assertion, Concepts, Relation
from thinwire.shared.formats.payload import MAX_CONCEPTS, MAX_RELATIONS
from thinwire.shared.identifiers import TextSource

VOCABULARY = load_vocabulary()
SIGNS = {Assertion.PRESENT: "+", Assertion.ABSENT: "-", Assertion.UNCERTAIN: "?"}
VERBS = {Relation.MODIFY: "modifies", Relation.LOCATED_AT: "at", Relation.SUGGESTIVE_OF: "suggests"}
FIVE = ("consolidation", "effusion", "pneumothorax", "cardiomegaly", "nodule")


def names(graph: Concepts) -> list[str]:
    return [VOCABULARY.concepts[c].name for c in graph.concept]


def nodes(graph: Concepts, *roles: ConceptRole) -> set[str]:
    """The graph's nodes of some roles (default: findings, devices and symptoms), each as "name+", "name-", "name?"."""
    wanted = roles or (ConceptRole.FINDING, ConceptRole.DEVICE, ConceptRole.SYMPTOM)
    return {
        VOCABULARY.concepts[concept].name + SIGNS[Assertion(assertion)]
        for concept, assertion in zip(graph.concept.tolist(), graph.assertion.tolist(), strict=True)
        if VOCABULARY.roles[concept] in wanted
    }


def relations(graph: Concepts) -> set[str]:
    named = names(graph)
    return {f"{named[a]} {VERBS[Relation(r)]} {named[b]}" for a, b, r in graph.relations.tolist()}


def listed(text: str) -> set[str]:
    return {part.strip() for part in text.split(",") if part.strip()}


STATED = [
    # Present.
    ("There is a small left pleural effusion.", "effusion+"),
    ("Right upper lobe consolidation.", "consolidation+"),
    ("NODULE IN THE LEFT MID ZONE", "nodule+"),
    ("Bilateral pleural effusions and pulmonary oedema.", "effusion+, edema+"),
    ("Bilateral pleural effusions and pulmonary edema.", "effusion+, edema+"),
    ("Pericardial effusion.", "pericardial effusion+"),
    ("Large right hydropneumothorax.", "effusion+, pneumothorax+"),
    ("L PTX with ICC in situ", "pneumothorax+"),
    ("ETT tip 3 cm above the carina.", "endotracheal tube+, device+"),
    ("Median sternotomy wires and surgical clips.", "sternotomy+, surgical clip+"),
    ("Features of CHF.", "heart failure+"),
    ("Pneumothoraces on both sides.", "pneumothorax+"),
    ("Compression fracture of a mid thoracic vertebra.", "compression deformity+"),
    # Denied, by a word before.
    ("No pneumothorax.", "pneumothorax-"),
    ("No pneumothorax, effusion or consolidation.", "pneumothorax-, effusion-, consolidation-"),
    ("No pneumothorax, pleural effusion, or focal consolidation is seen.", "pneumothorax-, effusion-, consolidation-"),
    ("No visible pneumothorax, nodule, or effusion is identified.", "pneumothorax-, nodule-, effusion-"),
    ("No consolidation, large effusion or pneumothorax.", "consolidation-, effusion-, pneumothorax-"),
    ("There is neither effusion nor pneumothorax.", "effusion-, pneumothorax-"),
    ("No evidence of pneumonia.", "pneumonia-"),
    ("Negative for acute fracture.", "fracture-"),
    ("Absence of pneumothorax.", "pneumothorax-"),
    ("Lungs are free of consolidation.", "consolidation-"),
    ("The lungs are grossly clear of nodule, effusion, or pneumothorax.", "nodule-, effusion-, pneumothorax-"),
    ("Without effusion.", "effusion-"),
    ("w/o consolidation", "consolidation-"),
    ("She denies chest pain, fever or cough.", "chest pain-, fever-, cough-"),
    ("Cardiomegaly without oedema.", "cardiomegaly+, edema-"),
    ("No airspace disease to suggest pneumonia.", "airspace disease-, pneumonia-"),
    ("No findings suspicious for malignancy.", "malignancy-"),
    ("No suspicious nodule.", "nodule-"),
    ("No definite nodule, no possible mass.", "nodule-, mass-"),
    ("Interval removal of the right chest tube.", "chest tube-"),
    ("The lungs do not show consolidation.", "consolidation-"),
    ("No XXXX of pneumothorax. XXXX effusion.", "pneumothorax-, effusion+"),
    # Denied, by a word after.
    ("Pneumothorax is not seen.", "pneumothorax-"),
    ("Effusion, consolidation and pneumothorax are not identified.", "effusion-, consolidation-, pneumothorax-"),
    ("The right effusion has resolved.", "effusion-"),
    ("Resolved left effusion.", "effusion-"),
    ("Pneumothorax has been excluded.", "pneumothorax-"),
    ("Pneumothorax is absent.", "pneumothorax-"),
    ("Pneumonia is unlikely.", "pneumonia-"),
    ("Effusion: none. Pneumothorax: no. Consolidation: absent.", "effusion-, pneumothorax-, consolidation-"),
    ("The nasogastric tube has been removed.", "enteric tube-"),
    ("The previous effusion is no longer visible.", "effusion-"),
    # A denial that ends.
    ("No effusion. Cardiomegaly.", "effusion-, cardiomegaly+"),
    ("No effusion but there is cardiomegaly.", "effusion-, cardiomegaly+"),
    ("No effusion; cardiomegaly.", "effusion-, cardiomegaly+"),
    ("No pneumothorax is seen, however a nodule is present.", "pneumothorax-, nodule+"),
    ("No acute abnormality except for a small effusion.", "abnormality-, effusion+"),
    ("No abnormality other than cardiomegaly.", "abnormality-, cardiomegaly+"),
    ("No effusion, stable cardiomegaly.", "effusion-, cardiomegaly+"),
    ("No pneumothorax, small effusion.", "pneumothorax-, effusion+"),
    ("No pneumothorax is seen, small effusion.", "pneumothorax-, effusion+"),
    ("No pneumothorax and the heart is enlarged.", "pneumothorax-, cardiomegaly+"),
    ("No effusions are identified, the heart is enlarged.", "effusion-, cardiomegaly+"),
    ("Without evidence of effusion, the heart remains enlarged.", "effusion-, cardiomegaly+"),
    ("There is no effusion and a nodule is present in the right apex.", "effusion-, nodule+"),
    ("No effusion, a small nodule.", "effusion-, nodule+"),
    ("No effusion and pneumothorax are seen.", "effusion-, pneumothorax-"),
    ("Effusion is seen and pneumothorax is not seen.", "effusion+, pneumothorax-"),
    ("Cardiomegaly, no effusion.", "cardiomegaly+, effusion-"),
    ("No pneumothorax with unchanged effusion.", "pneumothorax-, effusion+"),
    # Not a denial, although similar.
    ("No change in the right effusion.", "effusion+"),
    ("No significant interval change in cardiomegaly.", "cardiomegaly+"),
    ("The nodule has not significantly changed.", "nodule+"),
    ("No increase in effusion.", "effusion+"),
    ("Not only effusion but also pneumothorax.", "effusion+, pneumothorax+"),
    ("The nodule is not seen on the lateral view.", "nodule+"),
    ("Left basal opacity is not well seen.", "opacity+"),
    ("Almost completely resolved left pneumothorax.", "pneumothorax+"),
    # Doubted, by a word before.
    ("Possible pneumonia.", "pneumonia?"),
    ("Cannot exclude pneumothorax.", "pneumothorax?"),
    ("Cannot completely rule out a small effusion.", "effusion?"),
    ("Questionable left apical pneumothorax.", "pneumothorax?"),
    ("Probable small effusion.", "effusion?"),
    ("Concern for pneumonia.", "pneumonia?"),
    ("Findings are suspicious for malignancy.", "malignancy?"),
    ("?PNA", "pneumonia?"),
    ("SOB, ? consolidation", "dyspnea+, consolidation?"),
    ("fever, r/o TB", "fever+, tuberculosis?"),
    ("Rule out pneumothorax.", "pneumothorax?"),
    ("Evaluate for effusion.", "effusion?"),
    ("Differential includes pneumonia and atelectasis.", "pneumonia?, atelectasis?"),
    ("There may be a nodule at the right apex.", "nodule?"),
    ("Likely atelectasis.", "atelectasis?"),
    # Doubted, by a word after or between.
    ("A small effusion cannot be excluded.", "effusion?"),
    ("Pneumonia is possible.", "pneumonia?"),
    ("Effusion likely.", "effusion?"),
    ("Consolidation?", "consolidation?"),
    ("Pneumonia or aspiration cannot be ruled out.", "pneumonia?, aspiration?"),
    ("Atelectasis versus consolidation.", "atelectasis?, consolidation?"),
    ("Right basal opacity, pneumonia cannot be excluded.", "opacity+, pneumonia?"),
    ("Opacity is likely atelectasis.", "opacity+, atelectasis?"),
    # Doubt and denial together.
    ("Possible effusion, no pneumothorax.", "effusion?, pneumothorax-"),
    ("No pneumothorax, possible effusion.", "pneumothorax-, effusion?"),
    ("No effusion but pneumonia cannot be excluded.", "effusion-, pneumonia?"),
    ("Opacity may represent pneumonia, no effusion.", "opacity+, pneumonia?, effusion-"),
    # Sections.
    ("INDICATION: Cough. Pneumonia. FINDINGS: Right effusion.", "cough+, pneumonia?, effusion+"),
    ("History: known nodule, no fever.\n\nThe heart is enlarged.", "nodule?, fever-, cardiomegaly+"),
    ("COMPARISON: Film with effusion.\nFINDINGS: Nodule.", "nodule+"),
    ("Comparison: none. Effusion.", "effusion+"),
    (
        "Reason for exam: ? pneumothorax\nImpression:\n1. No pneumothorax.\n2. Nodule.",
        "pneumothorax?, pneumothorax-, nodule+",
    ),
    ("Lungs: clear\nHeart: enlarged\nPleura: small effusion", "consolidation-, cardiomegaly+, effusion+"),
    ("No effusion\nCardiomegaly", "effusion-, cardiomegaly+"),
    # Statements that are read out of others.
    ("Heart size is normal.", "cardiomegaly-"),
    ("Normal heart size.", "cardiomegaly-"),
    ("The heart is not enlarged.", "cardiomegaly-"),
    ("The cardiomediastinal silhouette is within normal limits.", "cardiomegaly-"),
    ("The cardiac silhouette is mildly enlarged.", "cardiomegaly+"),
    ("Possible enlargement of the heart.", "cardiomegaly?"),
    ("Heart size at the upper limits of normal.", "cardiomegaly?"),
    ("The lungs are clear.", "consolidation-"),
    ("The left lung is clear.", ""),
    ("The lungs are not clear.", ""),
    ("The lungs are clear. Right basal consolidation.", "consolidation+"),
    ("Pleural spaces are clear.", "effusion-, pneumothorax-"),
    ("Costophrenic angles are sharp.", "effusion-"),
    ("Lung volumes are low.", "hypoinflation+"),
    ("Normal aorta.", ""),
    ("Der Patient klagt über Husten.", ""),
    ("", ""),
]


@pytest.mark.parametrize(("text", "expected"), STATED, ids=[text[:60] for text, _ in STATED])
def test_what_a_text_states(text: str, expected: str) -> None:
    assert nodes(extract(text, VOCABULARY)) == listed(expected)


RELATED = [
    ("Small right pleural effusion.", "small modifies effusion, right modifies pleura, effusion at pleura"),
    ("RLL consolidation.", "consolidation at lower lobe, right modifies lower lobe"),
    ("Bibasilar atelectasis.", "atelectasis at base, bilateral modifies base"),
    ("Nodule in the left upper lobe.", "nodule at upper lobe, left modifies upper lobe"),
    ("The effusion is small and unchanged.", "small modifies effusion, stable modifies effusion"),
    ("Effusion, left, small.", "effusion at left, small modifies effusion"),
    ("Effusions bilaterally.", "effusion at bilateral"),
    ("Consolidation left base.", "consolidation at base, left modifies base"),
    ("The aorta is tortuous and calcified.", "tortuous at aorta, calcification at aorta"),
    ("Tortuous, calcified aorta.", "tortuous at aorta, calcification at aorta"),
    ("Mildly tortuous aorta.", "mild modifies tortuous, tortuous at aorta"),
    ("Patchy, hazy opacity.", "patchy modifies opacity, hazy modifies opacity"),
    ("Enlargement of the nodule.", "enlarged modifies nodule"),
    ("Elevation of the right hemidiaphragm.", "elevation at diaphragm, right modifies diaphragm"),
    ("The base of the left lung.", "base modifies lung, left modifies lung"),
    ("Mass in the apex of the left lung.", "mass at apex, mass at lung, apex modifies lung, left modifies lung"),
    ("Mass in the right base and left hilum.", "mass at base, mass at hilum, right modifies base, left modifies hilum"),
    ("Right and left upper lobe mass.", "mass at upper lobe, right modifies upper lobe, left modifies upper lobe"),
    ("No hilar or mediastinal adenopathy.", "lymphadenopathy at hilum, lymphadenopathy at mediastinum"),
    ("Atelectasis and effusion at the left base.", "atelectasis at base, effusion at base, left modifies base"),
    ("A nodule is developing in the lingula.", "new modifies nodule, nodule at lingula, new at lingula"),
    ("Heart and mediastinum are intact.", "intact at heart, intact at mediastinum"),
    ("Calcified granuloma in the lingula.", "calcification modifies granuloma, granuloma at lingula"),
    ("Right PICC with tip in the SVC.", "picc at right, device at vena cava"),
    ("No acute cardiopulmonary disease.", "acute modifies abnormality, abnormality at heart, abnormality at lung"),
    ("Consolidation consistent with pneumonia.", "consolidation suggests pneumonia"),
    ("Opacity may represent atelectasis or pneumonia.", "opacity suggests atelectasis, opacity suggests pneumonia"),
    ("Opacity, likely atelectasis.", "opacity suggests atelectasis"),
    ("Opacity, atelectasis versus pneumonia.", "opacity suggests atelectasis, opacity suggests pneumonia"),
    ("The opacity is likely atelectasis.", "opacity suggests atelectasis"),
    ("Edema and effusions due to heart failure.", "edema suggests heart failure, effusion suggests heart failure"),
    ("Consolidation. This may represent pneumonia.", "consolidation suggests pneumonia"),
    ("Opacity at the base, which suggests pneumonia.", "opacity at base, opacity suggests pneumonia"),
    ("No opacity to suggest pneumonia.", "opacity suggests pneumonia"),
    ("Cardiomegaly and likely effusion.", ""),
    ("Cardiomegaly. Likely effusion.", ""),
    ("Suggestive of pneumonia.", ""),
    ("Heart size is normal.", "normal at heart, cardiomegaly at heart"),
    ("The lungs are clear.", "clear at lung, consolidation at lung"),
    ("Effusion. Nodule.", ""),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), RELATED, ids=[text[:60] for text, _ in RELATED])
def test_how_concepts_belong_together(text: str, expected: str) -> None:
    assert relations(extract(text, VOCABULARY)) == listed(expected)


def test_naming_a_thing_twice_gives_one_node_and_denying_it_another() -> None:
    graph = extract("Effusion. Small effusion on the left. Effusion on the right. No effusion.", VOCABULARY)
    assert names(graph) == ["effusion", "effusion", "small", "right", "left"]
    assert graph.assertion.tolist() == [Assertion.PRESENT, Assertion.ABSENT, 0, 0, 0]
    assert graph.relations.tolist() == [
        [0, 3, Relation.LOCATED_AT],
        [0, 4, Relation.LOCATED_AT],
        [2, 0, Relation.MODIFY],
    ]


def test_arrays_are_as_the_graph_defines_them() -> None:
    for text in ("", "Small effusion."):
        graph = extract(text, VOCABULARY)
        assert graph.concept.dtype == graph.assertion.dtype == graph.relations.dtype == np.int32
        assert graph.concept.ndim == graph.assertion.ndim == 1
        assert graph.relations.ndim == 2
        assert graph.relations.shape[1] == 3


def test_an_indication_asks_and_a_report_tells() -> None:
    text = "Cough, pacemaker, pneumonia"
    assert nodes(extract(text, VOCABULARY, TextSource.INDICATION)) == {"cough+", "pacemaker+", "pneumonia?"}
    assert nodes(extract(text, VOCABULARY, TextSource.GENERATED)) == {"cough+", "pacemaker+", "pneumonia+"}


def test_a_finding_named_under_an_older_header_is_not_what_this_refers_to() -> None:
    assert relations(extract("HISTORY: Nodule.\nFINDINGS: This may represent pneumonia.", VOCABULARY)) == set()


def test_a_text_that_names_everything_still_fits_a_payload() -> None:
    terms = [concept.name for concept in VOCABULARY.concepts]
    told = ". ".join(f"{term}. No {term}. Possible {term}" for term in terms)
    told += "".join(f". {one} in {other}" for one in terms[:60] for other in terms[-60:])
    graph = extract(told, VOCABULARY)
    assert len(graph.concept) == MAX_CONCEPTS
    assert len(graph.relations) <= MAX_RELATIONS
    assert (graph.relations[:, :2] < MAX_CONCEPTS).all()
    assert nodes(graph) >= {finding + sign for finding in FIVE for sign in "+-?"}


def test_words_outside_the_vocabulary_have_no_way_into_the_graph() -> None:
    told = "Mr John Q Public, MRN 0012345, seen 2024-05-06 by Dr Smith: right effusion."
    assert names(extract(told, VOCABULARY)) == names(extract("Right effusion.", VOCABULARY))


def test_the_rules_are_an_extractor() -> None:
    extractor: Extractor = RuleExtractor(VOCABULARY)
    assert nodes(extractor.extract("No effusion.")) == {"effusion-"}
    assert nodes(extractor.extract("Effusion.", TextSource.INDICATION)) == {"effusion?"}
