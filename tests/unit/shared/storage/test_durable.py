"""Locks in a folder that cannot be written."""

import fcntl
import os
from pathlib import Path

import pytest

from thinwire.shared.errors import BadConfiguration
from thinwire.shared.storage.durable import flock


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_lock_in_a_folder_of_another_user_is_told_with_a_remedy(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(BadConfiguration, match="cannot be written"), flock(tmp_path / "lock", fcntl.LOCK_EX):
        pass
