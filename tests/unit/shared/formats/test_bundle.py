"""A bundle of another version is refused in words that help."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.tiny_bundle import tiny_bundle
from thinwire.receiver.inference.bundles import Bundles
from thinwire.shared.errors import BadBundle
from thinwire.shared.formats.bundle import BUNDLE_VERSION, INDEX, Bundle, load_bundle


def test_another_version_is_refused_by_name_and_by_a_hub_that_holds_it(tmp_path: Path) -> None:
    made = tiny_bundle(tmp_path / "made")
    index = json.loads((made.folder / INDEX).read_text(encoding="utf-8"))
    assert index["version"] == BUNDLE_VERSION == 3
    old = made.folder.rename(tmp_path / made.id.hex())
    (old / INDEX).write_text(json.dumps(index | {"version": 1}), encoding="utf-8")
    loads: list[Callable[[], Bundle]] = [lambda: load_bundle(old), lambda: Bundles(tmp_path).bundle(made.id)]
    for load in loads:
        with pytest.raises(BadBundle, match="is of version 1, this release reads version 3") as refused:
            load()
        assert "train it again" in refused.value.remedy
