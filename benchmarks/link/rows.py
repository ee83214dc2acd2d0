"""Rows on disk: one JSON file a run, so that a bench that was stopped goes on where it was."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.link.scenarios import Case

Row = dict[str, Any]


class Rows:
    """folder: made when the first row is kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, case: Case) -> Row | None:
        path = self._path(case)
        if not path.exists():
            return None
        row: Row = json.loads(path.read_text(encoding="utf-8"))
        return row

    def keep(self, case: Case, row: Row) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        fresh = self._path(case).with_suffix(".new")
        fresh.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
        fresh.rename(self._path(case))

    def of(self, cases: Sequence[Case]) -> list[Row]:
        """Those of these cases that were taken, in the cases' order."""
        return [row for case in cases if (row := self.find(case)) is not None]

    def _path(self, case: Case) -> Path:
        return self.folder / f"{case.name}.json"
