from datetime import UTC, datetime
from pathlib import Path

import pytest

from thinwire.shared.storage.durable import replaced
from thinwire.shared.storage.status_file import read_status, write_status

NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)


def test_what_was_left_last_is_found_with_its_time(tmp_path: Path) -> None:
    path = tmp_path / "link.json"
    for count in (1, 2):
        write_status(path, 3, {"count": count}, NOW)
    facts, at = read_status(path, 3)
    assert (facts["count"], at) == (2, NOW)
    assert [each.name for each in tmp_path.iterdir()] == ["link.json"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"version": 3}', '{"version": 3, "at": 7}', '{"version": 2, "at": ""}']
)
def test_what_cannot_be_read_is_as_good_as_none(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError):
        read_status(tmp_path / "link.json", 3)
    (tmp_path / "link.json").write_text(text)
    with pytest.raises(ValueError):
        read_status(tmp_path / "link.json", 3)


def test_a_folder_that_is_gone_stops_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_status(tmp_path / "gone" / "link.json", 1, {}, NOW)
    assert "link.json cannot be written" in caplog.text


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "table.npz"

    def write(text: str, then: Exception | None = None) -> None:
        with replaced(path) as beside:
            beside.write_text(text)
            if then is not None:
                raise then

    write("whole")
    with pytest.raises(RuntimeError):
        write("half", RuntimeError())
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]
