"""CSV tables of a data set, plain or gzipped, row by row."""

import csv
import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from thinwire.receiver.training.datasets.summary import Summary
from thinwire.shared.errors import BadConfiguration

_REMEDY = "See docs/researcher.md for the files and columns of each data set."


def table(root: Path, pattern: str) -> Path:
    """The one file below `root` that fits, e.g. "mimic-cxr-*-split.csv*". Raises BadConfiguration naming it."""
    found = sorted(root.glob(pattern))
    if not found:
        raise BadConfiguration(f"{root / pattern} is not there", _REMEDY)
    return found[0]


def rows(path: Path, columns: Sequence[str], summary: Summary) -> Iterator[dict[str, str]]:
    """Rows that have all of `columns`; a row that is cut short is a fault of its line.

    Raises BadConfiguration that names the file: missing, no CSV, or without one of `columns`.
    """
    try:
        with (
            gzip.open(path, "rt", newline="", encoding="utf-8-sig")
            if path.suffix == ".gz"
            else path.open(newline="", encoding="utf-8-sig")
        ) as file:
            reader = csv.DictReader(file)
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise BadConfiguration(f"{path} has no column {', '.join(missing)}", _REMEDY)
            for row in reader:
                if any(row[name] is None for name in columns):
                    summary.fault(f"{path.name} line {reader.line_num}", "row cut short")
                else:
                    yield row
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise BadConfiguration(f"{path} cannot be read: {type(error).__name__} {error}", _REMEDY) from error
