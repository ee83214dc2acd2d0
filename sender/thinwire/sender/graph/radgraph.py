"""The RadGraph-XL model as a second extractor (Delbrouck 2024, ACL Findings). Its weights are not part of thinwire.

The model needs torch, which the sender does not load, so it runs as a separate process in a Python with the `radgraph`
package: text on standard input, annotation on standard output. The closed vocabulary selects the concepts, as for the
rules.
"""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinwire.sender.graph.relations import Edge, Mention
from thinwire.sender.graph.report_graph import asked, concepts_of
from thinwire.sender.graph.vocabulary import Vocabulary, split_words
from thinwire.shared.errors import BadConfiguration, BadFormat
from thinwire.shared.formats.graph import Assertion, Concepts, Relation
from thinwire.shared.identifiers import TextSource

# Labels of RadGraph 1 ("OBS-DA") and of RadGraph-XL ("Observation::definitely absent") by their endings.
_ASSERTIONS = {
    "-DP": Assertion.PRESENT,
    "-DA": Assertion.ABSENT,
    "-U": Assertion.UNCERTAIN,
    "::definitely present": Assertion.PRESENT,
    "::definitely absent": Assertion.ABSENT,
    "::uncertain": Assertion.UNCERTAIN,
}
_RELATIONS = {relation.name.lower(): relation for relation in Relation}

# The package prints while it loads, so only the answer goes to the real standard output.
_WORKER = """
import json, sys
answer, sys.stdout = sys.stdout, sys.stderr
from radgraph import RadGraph
model = RadGraph(model_type=sys.argv[1], model_cache_dir=sys.argv[2], cuda=-1)
json.dump(model([json.load(sys.stdin)])["0"], answer)
"""


@dataclass(frozen=True)
class RadGraphExtractor:
    """Runs the model once for each text; most of the time is for loading it."""

    vocabulary: Vocabulary
    python: tuple[str, ...]
    """Command of a Python that has the `radgraph` package, such as ("/opt/radgraph/bin/python",)."""
    weights: Path
    """Folder that holds the unpacked weights in a folder of the model's name; nothing is downloaded."""
    model: str = "radgraph-xl"
    seconds: float = 300.0
    """Time limit for one text."""

    def extract(self, text: str, source: TextSource = TextSource.REPORT) -> Concepts:
        """As `Extractor.extract`. Raises BadConfiguration if the model cannot run."""
        if not text.strip():
            return concepts_of([], [], self.vocabulary)
        if not (self.weights / self.model).is_dir():
            raise BadConfiguration(
                f"no weights of {self.model} in the folder given",
                f"Unpack the weights to a folder named {self.model} there, or use the rule-based extractor.",
            )
        annotation = self._annotate(text)
        try:
            return from_radgraph(annotation, self.vocabulary, source)
        except BadFormat as error:
            raise BadConfiguration(
                str(error), "Use a version of the radgraph package that writes its format."
            ) from error

    def _annotate(self, text: str) -> Any:
        offline = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        remedy = "Check that this Python runs `import radgraph`, or use the rule-based extractor."
        try:
            done = subprocess.run(
                [*self.python, "-c", _WORKER, self.model, str(self.weights)],
                input=json.dumps(text),
                capture_output=True,
                text=True,
                timeout=self.seconds,
                env=offline,
                check=True,
            )
            return json.loads(done.stdout)
        except subprocess.TimeoutExpired:
            # The output of the command may quote the text, so it is not part of the error.
            raise BadConfiguration(f"{self.model} took longer than {self.seconds:g} s", remedy) from None
        except subprocess.CalledProcessError as error:
            raise BadConfiguration(f"{self.model} ended with code {error.returncode}", remedy) from None
        except (OSError, ValueError):
            raise BadConfiguration(f"{self.model} could not be run, or gave no JSON", remedy) from None


def from_radgraph(
    annotation: Mapping[str, Any], vocabulary: Vocabulary, source: TextSource = TextSource.REPORT
) -> Concepts:
    """The concepts of one report's annotation in RadGraph's published JSON.

    annotation: {"text": words separated by spaces, "entities": {id: {"label", "start_ix", "end_ix" (inclusive word
    indices), "relations": [[name, id], ...]}}}. Entities outside the vocabulary are dropped; a concept of
    several entities ("chest tube") has the assertion of the last. Raises BadFormat.
    """
    try:
        spoken = str(annotation["text"]).split()
        entities = {
            str(key): (
                int(entity["start_ix"]),
                int(entity["end_ix"]),
                _assertion(entity["label"]),
                [(_RELATIONS[name], str(target)) for name, target in entity["relations"]],
            )
            for key, entity in annotation["entities"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadFormat(f"not RadGraph's published JSON ({type(error).__name__})") from None

    pieces = [(word, at) for at, token in enumerate(spoken) for word in split_words(token)]
    mentions: list[Mention] = []
    edges: list[Edge] = []
    of: dict[str, list[int]] = {key: [] for key in entities}
    for phrase in vocabulary.match([word for word, _ in pieces]):
        tokens = {at for _, at in pieces[phrase.start : phrase.end]}
        owners = [key for key, (first, last, _, _) in entities.items() if any(first <= at <= last for at in tokens)]
        if not owners or not phrase.concepts:
            continue
        _, _, assertion, _ = entities[max(owners, key=lambda key: (entities[key][:2], key))]
        for concept in phrase.concepts:
            for key in owners:
                of[key].append(len(mentions))
            mention = Mention(concept, vocabulary.roles[concept], assertion)
            mentions.append(asked(mention) if source is TextSource.INDICATION else mention)
    for key, (_, _, _, relations) in entities.items():
        if not of[key]:
            continue
        head = of[key][-1]
        for other in of[key][:-1]:  # one entity, several concepts: "bibasilar", "right lung"
            same = mentions[other].role.anatomy == mentions[head].role.anatomy
            edges.append((other, head, Relation.MODIFY) if same else (head, other, Relation.LOCATED_AT))
        edges += [(head, of[target][-1], relation) for relation, target in relations if of.get(target)]
    return concepts_of(mentions, edges, vocabulary)


def _assertion(label: str) -> Assertion:
    for ending, assertion in _ASSERTIONS.items():
        if label.endswith(ending):
            return assertion
    raise ValueError("label")
