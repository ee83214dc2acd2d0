"""docs/developer.md says which exit codes there are; this is where it is held to it."""

import re
from pathlib import Path

from thinwire.shared import errors
from thinwire.shared.errors import ThinwireError

DOCUMENT = Path(__file__).parents[3] / "docs" / "developer.md"


def test_every_exit_code_is_in_the_document() -> None:
    written = {int(code) for code in re.findall(r"^\| (\d+) \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)}
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, ThinwireError)]
    assert written == {kind.code for kind in kinds} | {0, 2, 130}
