"""The files of benchmarks/results, as the documents read them. A missing one is a part that is not measured yet."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]

ROOT = Path(__file__).parent.parent.parent
BUNDLE = ROOT / "shared" / "thinwire" / "shared" / "bundles" / "nano" / "bundle.json"
RESULTS = ROOT / "benchmarks" / "results"
PICTURES = ROOT / "docs" / "evidence"

PHANTOMS, REAL, BOXES = "evaluation_phantoms", "evaluation_real", "evaluation_nih14_boxes"
PROXY, PAIRED = "evaluation_proxy", "evaluation_paired"
EVALUATIONS = (PHANTOMS, REAL, BOXES, PAIRED)
DRAFTS = "drafts"
BENCHES = ("readers", "thumbnails", "cross_fit", "ablations", DRAFTS)
REQUIRED = (
    *EVALUATIONS,
    *BENCHES,
    "phantom_leak",
    "sender",
    "hub",
    "clinic_idle",
    "pixels",
    "report_graph",
    "waiting_cap",
    "burned_in",
    "link",
    "link_day",
    "worklist",
    "load",
    "ray",
)
"""The proxy pairs (PROXY) are a research run and may be left out."""
OURS = "cumulative cross-attention"
RSNA = "RSNA opacity"
ALL, UNSEEN = "all", "unseen"
"""Subsets of a source's images: all of them; those alone that taught the encoder nothing."""
NOT_SCORED = ("covidcxr",)
"""Sources with hardly an image without the finding: their kept patches and calibration are shown, but no AUC."""
WITHHELD, GIVEN = "generated", "given"
WHOLE = 100.0
MEAN = "mean of findings"
SMALL = ("pneumothorax", "nodule")
"""Findings of which a thumbnail shows least; the aim for small findings is judged on them."""


class NotMeasured(Exception):
    """No result of that name, or one from before its present columns."""


@dataclass(frozen=True)
class Results:
    folder: Path = RESULTS
    pictures: Path = PICTURES

    def result(self, name: str) -> Row:
        """Raises NotMeasured."""
        path = self.folder / f"{name}.json"
        if not path.is_file():
            raise NotMeasured(name)
        found: Row = json.loads(path.read_text(encoding="utf-8"))
        if _older(name, found):
            raise NotMeasured(name)
        return found

    def table(self, name: str, table: str, subset: str = ALL, **wanted: Any) -> list[Row]:
        """Rows of one table of an evaluation; none where it has none. Raises NotMeasured.

        A table without the column `subset` is of all images.
        """
        rows = self.result(name)["tables"].get(table, [])
        return of((row for row in rows if row.get("subset", ALL) == subset), **wanted)

    def rows(self, name: str, **wanted: Any) -> list[Row]:
        return of(self.result(name)["rows"], **wanted)

    def percent(self, name: str) -> float:
        return float(self.result(name)["keep_percent"])

    def missing(self) -> list[str]:
        """Names of the required results that are not there in their present form."""
        gone = []
        for name in REQUIRED:
            try:
                self.result(name)
            except NotMeasured:
                gone.append(name)
        return gone


def _older(name: str, found: Row) -> bool:
    """Whether a result is from before its present columns."""
    if name in (*EVALUATIONS, PROXY):
        return "tables" not in found or any("subset" not in row for row in found["tables"].get("gaze", []))
    return name in BENCHES and "rows" not in found


def shipped_bundle() -> Row:
    """The index of the bundle that comes with thinwire."""
    found: Row = json.loads(BUNDLE.read_text(encoding="utf-8"))
    return found


def of(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    return [row for row in rows if all(row.get(k) == v for k, v in wanted.items())]


def one(rows: Iterable[Row], **wanted: Any) -> Row:
    """The row that is asked for. Raises LookupError when there is not exactly one."""
    found = of(rows, **wanted)
    if len(found) != 1:
        raise LookupError(f"{len(found)} rows for {wanted}")
    return found[0]


def headlined(row: Row) -> bool:
    """Whether an endpoint may stand first (docs/researcher.md): not NIH's mined labels, not covidcxr."""
    return row["source"] not in NOT_SCORED and (row["source"] != "nih14" or row["endpoint"] == RSNA)


def scored(rows: Iterable[Row]) -> list[str]:
    """The sources of rows that hold an AUC."""
    return [source for source in values(rows, "source") if source not in NOT_SCORED]


def values(rows: Iterable[Row], key: str) -> list[Any]:
    """In the order in which they come."""
    return list(dict.fromkeys(row[key] for row in rows))


def endpoints(rows: Sequence[Row]) -> list[str]:
    """The readings of radiologists before the labels of a data set."""
    return sorted(values(rows, "endpoint"), key=lambda name: name != RSNA)
