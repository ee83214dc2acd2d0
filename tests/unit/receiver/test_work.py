"""`work`: does its kinds of work beside `serve`, which then needs no model, and ends on a signal."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import func, select

from tests.support.forwarded_hub import configure, keep_study
from tests.support.hub_folder import join
from tests.support.programs import until
from thinwire.receiver import hub as hub_module
from thinwire.receiver.config import WorkKind, load_settings
from thinwire.receiver.hub import Hub, open_hub, serving_lock, working_lock
from thinwire.receiver.store.tables import claims
from thinwire.receiver.work import work
from thinwire.shared.clock import SystemClock
from thinwire.shared.errors import BadConfiguration
from thinwire.shared.formats.bundle import Bundle

WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from thinwire.receiver.cli.main import main; main()"


@pytest.fixture
def clock() -> SystemClock:
    """A process that works has no other."""
    return SystemClock()


@pytest.mark.process
def test_a_worker_predicts_and_drafts_for_a_hub_that_serves_without_torch(data: Path, bundle: Bundle) -> None:
    configure(data, "[work]\npredict = false\ndraft = false\nforward = false\n")
    command = [sys.executable, "-c", WITHOUT_TORCH, "serve", "--data", str(data), "--listen", "127.0.0.1:0"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as served,
        open_hub(data, SystemClock()) as hub,
    ):
        assert served.stdout is not None
        assert served.stdout.readline().startswith("listening on ")
        clinic = join(hub)
        study = keep_study(hub, clinic, bundle, read=False)

        def stop_when_done() -> None:
            until(lambda: hub.store.draft(clinic.site, study) is not None)
            os.kill(os.getpid(), signal.SIGTERM)

        waiting = threading.Thread(target=stop_when_done)
        work(hub, {WorkKind.PREDICT, WorkKind.DRAFT}, None, waiting.start)
        waiting.join()
        assert next(hub.store.studies()).prediction is not None
        with hub.database.read() as connection:
            assert connection.scalar(select(func.count()).select_from(claims)) == 0
        served.send_signal(signal.SIGTERM)
        _, words = served.communicate(timeout=300)
    assert served.returncode == 0
    assert "Traceback" not in words


def test_one_serves_and_many_work_and_none_does_while_the_hub_is_brought_forward(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "_TRIES", 0)
    with working_lock(hub.data, serves=False) as first, working_lock(hub.data, serves=True) as second:
        assert (first, second) == (True, False)
        with pytest.raises(BadConfiguration, match="already serves"), working_lock(hub.data, serves=True):
            pass
        with pytest.raises(BadConfiguration, match="already serves"), serving_lock(hub.data):
            pass
    with serving_lock(hub.data), pytest.raises(BadConfiguration), working_lock(hub.data, serves=False):
        pass
    with working_lock(hub.data, serves=True) as alone:
        assert alone


def test_serve_does_all_of_it_unless_it_is_told_otherwise(data: Path) -> None:
    assert load_settings(data).served_work == {WorkKind.PREDICT, WorkKind.FORWARD}
    configure(data, "[draft]\nenabled = true\n[work]\nforward = false\n")
    assert load_settings(data).served_work == {WorkKind.PREDICT, WorkKind.DRAFT}
