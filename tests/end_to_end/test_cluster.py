"""A hub of several processes is killed part by part, at random, while clinics send: every study arrives once, is
predicted once and forwarded once.

PostgreSQL, an S3 server, three replicas behind a TCP balancer, two processes that predict and one that forwards. The
clinics are those of the load laboratory: real TLS streams, without models. `make cluster` plays it for two minutes with
200 clinics; in `make test` it is shorter.
"""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cluster_chaos import SECONDS
from tests.support.postgresql import programs
from thinwire.shared.formats.bundle import default_bundle_folder

LIMIT = 600.0 + 5 * SECONDS
"""Seconds for all of it; one or two minutes are usual."""
ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.process,
    pytest.mark.timeout(LIMIT + 60),
    pytest.mark.skipif(not default_bundle_folder().is_dir(), reason="needs the default bundle"),
]


@pytest.mark.skipif(programs() is None, reason="needs PostgreSQL (Debian: postgresql)")
def test_every_study_arrives_and_is_predicted_and_forwarded_once(tmp_path: Path) -> None:
    pytest.importorskip("psycopg", reason="needs thinwire[cluster]")
    # A process of its own: one crashed there once, natively, and took all other tests with it.
    words = [sys.executable, "-m", "tests.support.cluster_chaos", str(tmp_path)]
    with (tmp_path / "said").open("w") as said:
        played = subprocess.Popen(words, cwd=ROOT, stdout=said, stderr=said, start_new_session=True)
    try:
        code = played.wait(LIMIT)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(played.pid, signal.SIGKILL)
    assert code == 0, (tmp_path / "said").read_text()[-20_000:]
