import io
import json
import logging
from collections.abc import Iterator

import pytest

from thinwire.shared.logs import LogFormat, log_to


@pytest.fixture(autouse=True)
def _root() -> Iterator[None]:
    """The root logger as it was."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers, root.level = handlers, level


def test_a_json_line_holds_time_level_logger_message_and_traceback() -> None:
    out = io.StringIO()
    log_to(out, LogFormat.JSON)
    logging.getLogger("thinwire.test").warning("two\nlines and %d", 7)
    try:
        raise ValueError("x")
    except ValueError:
        logging.getLogger("thinwire.test").exception("failed")
    first, second = (json.loads(line) for line in out.getvalue().splitlines())
    assert (first["level"], first["logger"], first["message"]) == ("warning", "thinwire.test", "two\nlines and 7")
    assert first["at"].endswith("+00:00")
    assert "ValueError: x" in second["traceback"]


def test_text_is_a_line_for_people() -> None:
    out = io.StringIO()
    log_to(out, LogFormat.TEXT)
    logging.getLogger("thinwire.test").info("hello")
    logging.getLogger("thinwire.test").debug("not this")
    assert out.getvalue().endswith("INFO hello\n")
    assert out.getvalue().count("\n") == 1
