"""Every figure in the README and in the clinical evidence is what benchmarks/results says."""

import pytest

from benchmarks import figures


@pytest.mark.parametrize(
    ("document", "make"), [("README.md", figures.readme), ("docs/clinical-evidence.md", figures.evidence)]
)
def test_the_document_is_what_was_measured(document: str, make) -> None:  # type: ignore[no-untyped-def]
    path = figures.ROOT / document
    assert figures.filled(path, make()) == path.read_text(encoding="utf-8"), "run python -m benchmarks.figures"
