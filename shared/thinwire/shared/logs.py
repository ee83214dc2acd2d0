"""Log lines of both ends: text for people, or one JSON object a line for machines. They hold
no patient identifiers: only digests, counts and fixed texts."""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TextIO

VERBOSE_LOGGERS = ("highdicom", "httpcore", "httpx", "py.warnings", "pydicom", "pynetdicom", "uvicorn.access")
"""Loggers of libraries whose messages hold UIDs, addresses or values of attributes."""


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


class JsonLines(logging.Formatter):
    """`at` (ISO 8601, UTC), `level`, `logger`, `message`; for an exception its class as `error` and its places as
    `traceback`, without its message, which may be a library's."""

    def format(self, record: logging.LogRecord) -> str:
        facts: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[0] is not None:
            facts["error"] = record.exc_info[0].__name__
            places = traceback.extract_tb(record.exc_info[2])
            facts["traceback"] = [f"{Path(place.filename).name}:{place.lineno} {place.name}" for place in places]
        return json.dumps(facts, ensure_ascii=False)


def silence_libraries() -> None:
    """Silence libraries whose messages could name an instance or a patient."""
    logging.captureWarnings(True)
    for name in VERBOSE_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def log_to(stream: TextIO | None, form: LogFormat) -> None:
    """Log INFO and above to a stream; None is standard error."""
    handler = logging.StreamHandler(stream or sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(JsonLines() if form is LogFormat.JSON else text)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    silence_libraries()
