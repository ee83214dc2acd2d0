"""The hub's log: lines for people, or one JSON object a line; without a word that could name a patient."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal, TextIO

LogForm = Literal["text", "json"]

TALKATIVE = ("highdicom", "httpcore", "httpx", "pydicom", "pynetdicom", "py.warnings")
"""Libraries whose words hold UIDs, addresses or values of attributes."""


class JsonLines(logging.Formatter):
    """{"at", "level", "logger", "message"} and, of an error with a traceback, "error": the name of its class."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"at": at, "level": record.levelname, "logger": record.name, "message": record.getMessage()}
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
        return json.dumps(line, ensure_ascii=False)


def hush() -> None:
    """Let libraries that would name an instance or a patient in their words be silent."""
    logging.captureWarnings(True)
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def write_log(form: LogForm, stream: TextIO = sys.stderr) -> None:
    """Everything from INFO on, to `stream`."""
    handler = logging.StreamHandler(stream)
    text = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(JsonLines() if form == "json" else text)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    hush()
