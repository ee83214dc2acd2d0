"""The example alert rules and dashboard name metrics and labels that exist, and headings that say what to do."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "packaging" / "monitoring"
RULES = FOLDER / "thinwire.rules.yml"
DASHBOARD = FOLDER / "thinwire-hub.dashboard.json"
SAMPLES = re.compile(r"_(?:total|bucket|sum|count)$")
FUNCTIONS = frozenset(
    "absent by count delta histogram_quantile max min or rate sort sort_desc sum vector".split()  # noqa: SIM905
)
OF_PROMETHEUS = frozenset(("instance", "job", "le"))


def metrics() -> dict[str, frozenset[str]]:
    """The labels of each metric by its name, as its code gives them: Family(name, text, ..., [labels]) or labels=..."""
    found: dict[str, frozenset[str]] = {}
    for path in (each for folder in ("shared", "sender", "receiver") for each in (ROOT / folder).rglob("metrics.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = node.args[0]
            if isinstance(name, ast.Constant) and str(name.value).startswith("thinwire_"):
                lists = [each for each in ast.walk(node) if isinstance(each, ast.List)]
                labels = {str(e.value) for each in lists for e in each.elts if isinstance(e, ast.Constant)}
                if any(isinstance(each, ast.Name) and each.id == "key" for each in node.args):
                    labels |= {"site", "kind"}
                found[str(name.value)] = found.get(str(name.value), frozenset()) | labels
    return found


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    return dict(json.loads(DASHBOARD.read_text(encoding="utf-8")))


def expressions() -> Iterator[tuple[str, str, str]]:
    """(where, expression, the text that shows its labels)."""
    for rule in rules():
        yield rule["alert"], rule["expr"], " ".join(rule["annotations"].values())
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"], target["legendFormat"]


@pytest.mark.parametrize(("where", "expression", "shown"), list(expressions()))
def test_every_expression_names_what_exists(where: str, expression: str, shown: str) -> None:
    known, bare = metrics(), re.sub(r'"[^"]*"', "", expression)
    assert bare.count("(") == bare.count(")"), where
    labels = {label for group in re.findall(r"\{([^}]*)\}", bare) for label in re.findall(r"(\w+)\s*=", group)}
    labels |= {label for group in re.findall(r"by \(([^)]*)\)", bare) for label in re.split(r",\s*", group)}
    labels |= {one or other for one, other in re.findall(r"\$labels\.(\w+)|\{\{(\w+)\}\}", shown)}
    rest = re.sub(r"by \([^)]*\)|\{[^}]*\}|\[[^\]]*\]", " ", bare)
    words = set(re.findall(r"[a-zA-Z_]\w*", re.sub(r"\b[\d.]+(?:e\d+)?\b", " ", rest))) - FUNCTIONS
    named = {SAMPLES.sub("", word) if SAMPLES.sub("", word) in known else word for word in words}
    assert named - known.keys() <= {"up"}, where
    assert named, where
    assert labels <= OF_PROMETHEUS.union(*(known.get(name, frozenset()) for name in named)), where


def test_every_alert_says_what_to_do_and_how_urgent_it_is() -> None:
    text = (ROOT / "docs" / "administration.md").read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for rule in rules():
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert (page, rule["labels"]["severity"] in ("page", "ticket")) == ("docs/administration.md", True)
        assert anchor in anchors, rule["alert"]
    assert len({rule["alert"] for rule in rules()}) == len(rules())


def test_panels_have_places_of_their_own() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
