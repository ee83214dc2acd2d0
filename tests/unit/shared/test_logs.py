import io
import json
import logging
from collections.abc import Iterator

import pytest

from thinwire.shared.logs import VERBOSE_LOGGERS, LogFormat, log_to


@pytest.fixture(autouse=True)
def _root() -> Iterator[None]:
    """The root logger as it was."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    levels = {name: logging.getLogger(name).level for name in VERBOSE_LOGGERS}
    yield
    logging.captureWarnings(False)
    root.handlers, root.level = handlers, level
    for name, own in levels.items():
        logging.getLogger(name).setLevel(own)


def test_a_json_line_holds_time_level_logger_message_and_traceback() -> None:
    out = io.StringIO()
    log_to(out, LogFormat.JSON)
    logging.getLogger("thinwire.test").warning("two\nlines and %d", 7)
    logging.getLogger("highdicom.base").warning("patient_name is potentially invalid: SECRET")
    try:
        raise ValueError("SECRET")
    except ValueError:
        logging.getLogger("thinwire.test").exception("failed")
    first, second = (json.loads(line) for line in out.getvalue().splitlines())
    assert (first["level"], first["logger"], first["message"]) == ("warning", "thinwire.test", "two\nlines and 7")
    assert first["at"].endswith("+00:00")
    assert second["error"] == "ValueError"
    assert second["traceback"][0].startswith("test_logs.py:")
    assert "SECRET" not in out.getvalue()


def test_text_is_a_line_for_people() -> None:
    out = io.StringIO()
    log_to(out, LogFormat.TEXT)
    logging.getLogger("thinwire.test").info("hello")
    logging.getLogger("thinwire.test").debug("not this")
    assert out.getvalue().endswith("INFO hello\n")
    assert out.getvalue().count("\n") == 1
