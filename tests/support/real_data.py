"""Real chest X-rays beside the repository; where they are not, the tests that read them are skipped."""

from pathlib import Path

import pytest

REAL_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def needs(name: str) -> list[pytest.MarkDecorator]:
    """Marks for a test that reads `name` below ../shared/data."""
    missing = not (REAL_DATA / name).exists()
    return [pytest.mark.real_data, pytest.mark.skipif(missing, reason=f"../shared/data/{name} is not here")]
