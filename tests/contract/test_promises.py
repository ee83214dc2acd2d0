"""Every promise of the threat model names the tests that fail where it does not hold, and they exist."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def promises() -> list[list[str]]:
    """The rows of the table of promises: threat, defence, tests."""
    page = (ROOT / "docs/threat-model.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^## Promises\n(.*?)^## ", page, re.MULTILINE | re.DOTALL)
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")
    ]
    return [row for row in rows[2:] if not row[0].startswith("**")]


@cache
def functions(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", promises(), ids=lambda row: row[0])
def test_a_promise_names_tests_that_exist(row: list[str]) -> None:
    threat, defence, tests = row
    named = TEST.findall(tests)
    assert threat
    assert defence
    assert named
    assert TEST.sub("", tests).strip(" ,") == "", "something else stands among the tests"
    for file, name in named:
        assert name in functions(ROOT / file), f"{file} has no {name}"


def test_there_are_promises() -> None:
    assert len(promises()) > 20
