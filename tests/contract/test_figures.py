"""Every figure in the documents that show some equals that of benchmarks/results; missing results are named."""

import re

import pytest

from benchmarks import figures
from benchmarks.evidence.excerpt import CASES, LARGEST
from benchmarks.evidence.page import page
from benchmarks.evidence.results import EVALUATIONS, PROXY, ROOT, Results, shipped_bundle
from benchmarks.provenance import phantoms_digest
from thinwire.shared.formats.bundle import default_bundle_folder, load_bundle

ALL_PICTURES = 2_000_000
"""Bytes of all pictures together."""
SHOWN = re.compile(r"\((evidence/[^)]+)\)")


@pytest.fixture(scope="module")
def results() -> Results:
    return Results()


def test_the_documents_are_what_was_measured(results: Results) -> None:
    assert figures.stale(results) == [], "run python -m benchmarks.figures"


def test_nothing_is_left_unmeasured(results: Results) -> None:
    assert results.missing() == []
    said = (ROOT / "docs" / "clinical-evidence.md").read_text(encoding="utf-8").lower()
    assert "not measured yet" not in said


@pytest.mark.parametrize("name", [*EVALUATIONS, PROXY, "readers", "thumbnails", "cross_fit", "drafts", "sender", "hub"])
def test_what_was_judged_is_the_bundle_that_is_shipped(name: str, results: Results) -> None:
    judged = results.result(name).get("bundle", {})
    assert judged, f"{name} does not say of which bundle it is"
    assert judged["id"] == load_bundle(default_bundle_folder()).id.hex(), f"{name} is of another bundle"
    assert judged["working_size"] == shipped_bundle()["working_size"]


@pytest.mark.parametrize("name", ["phantom_leak", "ablations", "burned_in"])
def test_what_is_of_phantoms_alone_is_of_these_phantoms(name: str, results: Results) -> None:
    judged = results.result(name)
    assert judged.get("phantoms_digest") == phantoms_digest(), f"{name} is of phantoms that were drawn otherwise"


def test_the_pictures_are_small_and_all_shown(results: Results) -> None:
    told = "\n".join(page(results).values())
    shown = {ROOT / "docs" / place for place in SHOWN.findall(told)}
    taken = set(results.pictures.iterdir()) if results.pictures.is_dir() else set()
    assert shown == taken
    sizes = [path.stat().st_size for path in taken if path != CASES]
    assert all(size <= LARGEST for size in sizes)
    assert sum(sizes) <= ALL_PICTURES
