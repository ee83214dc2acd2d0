"""How much of real reports the report graph catches, and how often it is wrong.

    python benchmarks/bench_report_graph.py [--reports ../shared/data/NLMCXR_reports.tgz] [--out FILE]

Open-i (Indiana University): 3,955 chest X-ray reports with MeSH labels that two coders gave from the text
(Demner-Fushman 2016). The reports fall into two halves by a digest of their id: "development", on which the
vocabulary and the rules were written, and "test", of which only the figures were ever looked at.
"""

import argparse
import hashlib
import json
import platform
import re
import statistics
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from thinwire.sender.graph.clauses import sentences
from thinwire.sender.graph.report_graph import extract
from thinwire.sender.graph.vocabulary import Cue, Vocabulary, load_vocabulary
from thinwire.shared.formats.graph import Assertion, Concepts, Relation

ROOT = Path(__file__).parents[1]
FINDINGS = ("consolidation", "effusion", "pneumothorax", "cardiomegaly", "nodule")
RESAMPLES = 2000
SEED = 20250809

# A label of the collection, with the qualifier that it must carry where one stands after the slash, and the concepts
# that say the same. Labels are MeSH and RadLex headings; wording in the reports is freer than they are.
LABELS: dict[str, tuple[str, ...]] = {
    "Lung/hypoinflation": ("hypoinflation",),
    "Lung/hyperdistention": ("hyperinflation",),
    "Opacity": ("opacity", "airspace disease"),
    "Cardiomegaly": ("cardiomegaly",),
    "Cardiac Shadow/enlarged": ("cardiomegaly",),
    "Pulmonary Atelectasis": ("atelectasis",),
    "Calcinosis": ("calcification",),
    "Calcified Granuloma": ("granuloma",),
    "Granuloma": ("granuloma",),
    "Granulomatous Disease": ("granulomatous disease", "granuloma"),
    "Thoracic Vertebrae/degenerative": ("degenerative change",),
    "Spine/degenerative": ("degenerative change",),
    "Arthritis": ("degenerative change",),
    "Spondylosis": ("spondylosis", "degenerative change"),
    "Osteophyte": ("osteophyte",),
    "Cicatrix": ("scar", "fibrosis"),
    "Pleural Effusion": ("effusion",),
    "Markings": ("markings", "crowding", "interstitial disease"),
    "Aorta/tortuous": ("tortuous",),
    "Aorta, Thoracic/tortuous": ("tortuous",),
    "Diaphragm/elevated": ("elevation",),
    "Diaphragm/flattened": ("flattening",),
    "Diaphragmatic Eventration": ("eventration",),
    "Airspace Disease": ("airspace disease",),
    "Atherosclerosis": ("atherosclerosis",),
    "Density": ("density",),
    "Catheters, Indwelling": ("central line", "picc", "port", "catheter"),
    "Surgical Instruments": ("surgical clip", "sternotomy"),
    "Deformity": ("deformity", "compression deformity", "pectus"),
    "Fractures, Bone": ("fracture", "compression deformity"),
    "Scoliosis": ("scoliosis",),
    "Kyphosis": ("kyphosis",),
    "Nodule": ("nodule",),
    "Mass": ("mass",),
    "Costophrenic Angle/blunted": ("blunting",),
    "Pulmonary Congestion": ("congestion",),
    "Pulmonary Edema": ("edema",),
    "Infiltrate": ("infiltrate",),
    "Consolidation": ("consolidation",),
    "Pneumonia": ("pneumonia",),
    "Pneumothorax": ("pneumothorax",),
    "Hydropneumothorax": ("pneumothorax",),
    "Emphysema": ("emphysema",),
    "Pulmonary Emphysema": ("emphysema",),
    "Pulmonary Disease, Chronic Obstructive": ("copd",),
    "Pulmonary Fibrosis": ("fibrosis",),
    "Thickening": ("thickening",),
    "Hernia, Hiatal": ("hernia",),
    "Lucency": ("lucency",),
    "Lung, Hyperlucent": ("lucency",),
    "Bone Diseases, Metabolic": ("osteopenia",),
    "Heart Failure": ("heart failure",),
    "Tube, Inserted": ("tube", "endotracheal tube", "enteric tube", "chest tube", "tracheostomy"),
    "Stents": ("stent",),
}

# Labels that stand for one of the five findings.
FINDING_LABELS: dict[str, tuple[str, ...]] = {
    "consolidation": ("Consolidation",),
    "effusion": ("Pleural Effusion", "Hydropneumothorax"),
    "pneumothorax": ("Pneumothorax", "Hydropneumothorax", "Hemopneumothorax"),
    "cardiomegaly": ("Cardiomegaly", "Cardiac Shadow/enlarged"),
    # The coders write "nodular opacity" as a round opacity.
    "nodule": ("Nodule", "Opacity/round", "Density/round"),
}

# Words that carry no content of their own; everything else that is a word counts.
STOPWORDS = frozenset(
    re.findall(
        "[a-z]+",
        "a about above after again all also an and any are as at be been being below between both but by can "
        "could did do does during each either else every few for from further had has have he her here him "
        "his how i if in into is it its itself just least made make may me might more most much must my no "
        "nor not of off on once one only onto or other our out over own per she should since so some such "
        "than that the their them then there these they this those through to too two under until up upon us "
        "very was we were what when where which while who whom whose why will with within without would you "
        "your ",
    )
)


@dataclass(frozen=True)
class Report:
    test: bool
    text: str
    labels: tuple[str, ...]


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--reports", type=Path, default=ROOT.parent / "shared" / "data" / "NLMCXR_reports.tgz")
    options.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "report_graph.json")
    chosen = options.parse_args()
    reports = list(read_reports(chosen.reports))
    start = time.process_time()
    vocabulary = load_vocabulary()
    loading = time.process_time() - start
    result: dict[str, Any] = {
        "what": "report graph on the Open-i chest X-ray reports",
        "command": "python benchmarks/bench_report_graph.py",
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}, one core",
        "data": {
            "file": chosen.reports.name,
            "sha256": hashlib.sha256(chosen.reports.read_bytes()).hexdigest(),
            "reports": len(reports),
        },
        "intervals": f"95 %: Wilson for shares of reports, {RESAMPLES} bootstrap resamples of reports for the rest",
        "vocabulary": {"concepts": len(vocabulary.concepts), "load_cpu_ms": round(1000 * loading, 1)},
        "test": measure([r for r in reports if r.test], vocabulary),
        "development": measure([r for r in reports if not r.test], vocabulary),
    }
    chosen.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({half: result[half]["summary"] for half in ("test", "development")}, indent=1))
    return 0


def read_reports(archive: Path) -> Iterator[Report]:
    with tarfile.open(archive) as files:
        for member in sorted((m for m in files if m.name.endswith(".xml")), key=lambda m: m.name):
            data = files.extractfile(member)
            assert data is not None
            tree = ElementTree.parse(data).getroot()
            name = next(tree.iter("uId")).attrib["id"]
            parts = [
                f"{a.attrib['Label']}: {a.text.strip()}" for a in tree.iter("AbstractText") if a.text and a.text.strip()
            ]
            labels = tuple(m.text.strip() for m in tree.iter("major") if m.text)
            yield Report(hashlib.sha256(name.encode()).digest()[0] & 1 == 1, "\n\n".join(parts), labels)


def measure(reports: Sequence[Report], vocabulary: Vocabulary) -> dict[str, Any]:
    graphs, seconds = [], []
    for report in reports:
        start = time.process_time()
        graphs.append(extract(report.text, vocabulary))
        seconds.append(time.process_time() - start)
    words = np.array([covered(report.text, vocabulary) for report in reports], dtype=np.int64)
    recalled = label_recall(reports, graphs, vocabulary)
    normal = [g for r, g in zip(reports, graphs, strict=True) if r.labels == ("normal",)]
    false = [[present(g, vocabulary, (f,)) for f in FINDINGS] for g in normal]
    nodes = [len(g.concept) for g in graphs]
    summary = {
        "reports": len(reports),
        "reports_with_a_concept": share(sum(n > 0 for n in nodes), len(nodes)),
        "content_words": int(words[:, 2].sum()),
        "content_words_in_a_concept": ratio(words[:, 0], words[:, 2]),
        "content_words_in_a_concept_or_cue": ratio(words[:, 1], words[:, 2]),
        "label_recall_present_or_uncertain": recalled["all"]["present_or_uncertain"],
        "label_only_denied": recalled["all"]["only_denied"],
        "side_agreement": recalled["all"]["side_agreement"],
        "only_other_side": recalled["all"]["only_other_side"],
        "normal_reports": len(normal),
        "normal_reports_with_one_of_five_present": share(sum(map(any, false)), len(normal)),
        "nodes_median": statistics.median(nodes),
        "relations_median": statistics.median(len(g.relations) for g in graphs),
        "cpu_milliseconds_median": round(1000 * statistics.median(seconds), 2),
        "cpu_milliseconds_p99": round(1000 * float(np.quantile(seconds, 0.99)), 2),
    }
    return {
        "summary": summary,
        "normal_reports_with_finding_present": {
            finding: share(sum(row[number] for row in false), len(normal)) for number, finding in enumerate(FINDINGS)
        },
        "five_findings": five_findings(reports, graphs, vocabulary),
        "labels": recalled,
    }


def covered(text: str, vocabulary: Vocabulary) -> tuple[int, int, int]:
    """Content words in a concept, in a concept or a cue, and all content words of a text."""
    in_concept = in_any = total = 0
    for sentence in sentences(text, vocabulary, asks=False):
        for phrase in vocabulary.match(sentence.words):
            words = [
                w for w in sentence.words[phrase.start : phrase.end] if w not in STOPWORDS and re.search("[a-z]", w)
            ]
            total += len(words)
            in_concept += len(words) * bool(phrase.concepts)
            in_any += len(words) * bool(phrase.concepts or phrase.cue not in (None, Cue.PASS))
    return in_concept, in_any, total


def label_recall(reports: Sequence[Report], graphs: Sequence[Concepts], vocabulary: Vocabulary) -> dict[str, Any]:
    """For each label, whether its concept was found, with which assertion, and on the side that the label names.

    A row: number of the report, found present or uncertain, found absent only, sides found, side named.
    """
    rows: dict[str, list[tuple[int, bool, bool, set[str] | None, str | None]]] = {label: [] for label in LABELS}
    for number, (report, graph) in enumerate(zip(reports, graphs, strict=True)):
        for label in report.labels:
            head, *qualifiers = label.split("/")
            for qualifier in ("", *dict.fromkeys(qualifiers)):
                names = LABELS.get(key := f"{head}/{qualifier}" if qualifier else head)
                if names is None:
                    continue
                stands = present(graph, vocabulary, names, Assertion.PRESENT, Assertion.UNCERTAIN)
                denied = not stands and present(graph, vocabulary, names, Assertion.ABSENT)
                # "bilateral" is mostly a plural in the text ("flattened diaphragms"), so it is not asked for.
                side = next((q for q in qualifiers if q in ("right", "left")), None)
                found = sides_of(graph, vocabulary, names) if stands and side else None
                rows[key].append((number, stands, denied, found, side))
    everything = [row for each in rows.values() for row in each]
    sided = [row for row in everything if row[3] is not None]
    return {
        "all": {
            "n": len(everything),
            "present_or_uncertain": clustered(everything, len(reports), lambda row: row[1]),
            "only_denied": clustered(everything, len(reports), lambda row: row[2]),
            "side_agreement": clustered(sided, len(reports), lambda row: row[4] in row[3]),
            "only_other_side": clustered(sided, len(reports), lambda row: bool(row[3]) and row[4] not in row[3]),
        },
        **{
            label: {
                "n": len(each),
                "present_or_uncertain": share(sum(r[1] for r in each), len(each)),
                "only_denied": sum(r[2] for r in each),
            }
            for label, each in sorted(rows.items(), key=lambda item: (-len(item[1]), item[0]))
        },
    }


def five_findings(reports: Sequence[Report], graphs: Sequence[Concepts], vocabulary: Vocabulary) -> dict[str, Any]:
    """Against the labels, which leave out minor and uncertain findings."""
    result = {}
    for finding in FINDINGS:
        labelled = [any(carries(label, key) for label in r.labels for key in FINDING_LABELS[finding]) for r in reports]
        stated = [present(g, vocabulary, (finding,)) for g in graphs]
        raised = [present(g, vocabulary, (finding,), Assertion.PRESENT, Assertion.UNCERTAIN) for g in graphs]
        both = sum(a and b for a, b in zip(labelled, stated, strict=True))
        result[finding] = {
            "labelled": sum(labelled),
            "stated_present": sum(stated),
            "labelled_of_stated_present": share(both, sum(stated)),
            "stated_present_of_labelled": share(both, sum(labelled)),
            "raised_of_labelled": share(sum(a and b for a, b in zip(labelled, raised, strict=True)), sum(labelled)),
            "present_of_unlabelled": share(sum(stated) - both, len(labelled) - sum(labelled)),
        }
    return result


def carries(label: str, key: str) -> bool:
    head, _, qualifier = key.partition("/")
    first, *rest = label.split("/")
    return first == head and (not qualifier or qualifier in rest)


def present(graph: Concepts, vocabulary: Vocabulary, names: Sequence[str], *assertions: Assertion) -> bool:
    """Whether one of the concepts stands in the graph with one of the assertions (default: present)."""
    wanted = [vocabulary.index(name) for name in names]
    return bool((np.isin(graph.concept, wanted) & np.isin(graph.assertion, assertions or (Assertion.PRESENT,))).any())


def sides_of(graph: Concepts, vocabulary: Vocabulary, names: Sequence[str]) -> set[str]:
    """The sides at which a concept that stands is located: "left", "right", both or neither."""
    stands = np.isin(graph.concept, [vocabulary.index(name) for name in names]) & (graph.assertion != Assertion.ABSENT)
    reached = set(np.flatnonzero(stands).tolist())
    # A finding takes the place of its signs, a quality the place of its subject, a structure its own places.
    for step, onward in (
        (Relation.SUGGESTIVE_OF, False),
        (Relation.MODIFY, True),
        (Relation.LOCATED_AT, True),
        (Relation.MODIFY, False),
    ):
        for source, target, relation in graph.relations.tolist():
            if relation == step and (source if onward else target) in reached:
                reached.add(target if onward else source)
    named = {vocabulary.concepts[graph.concept[node]].name for node in reached}
    return named & {"left", "right"} or ({"left", "right"} if "bilateral" in named else set())


def share(count: int, total: int) -> dict[str, Any]:
    """A share with its Wilson interval."""
    if not total:
        return {"of": 0}
    z, p = 1.959964, count / total
    middle, spread = p + z * z / (2 * total), z * (p * (1 - p) / total + z * z / (4 * total * total)) ** 0.5
    low, high = ((middle + sign * spread) / (1 + z * z / total) for sign in (-1, 1))
    return {"share": round(p, 4), "low": round(max(0.0, low), 4), "high": round(min(1.0, high), 4), "of": total}


def ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> dict[str, Any]:
    """sum(part) / sum(whole) with a bootstrap interval over reports."""
    drawn = np.random.default_rng(SEED).integers(0, len(part), (RESAMPLES, len(part)))
    estimates = part[drawn].sum(axis=1) / np.maximum(whole[drawn].sum(axis=1), 1)
    low, high = np.quantile(estimates, (0.025, 0.975))
    value = part.sum() / max(1, whole.sum())
    return {
        "share": round(float(value), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
        "of": int(whole.sum()),
    }


def clustered(rows: Sequence[Any], reports: int, hit: Callable[[Any], bool]) -> dict[str, Any]:
    """Share of rows that hit, the interval over reports, since the labels of one report go together."""
    part, whole = np.zeros(reports, np.int64), np.zeros(reports, np.int64)
    for row in rows:
        whole[row[0]] += 1
        part[row[0]] += hit(row)
    return ratio(part, whole)


if __name__ == "__main__":
    sys.exit(main())
