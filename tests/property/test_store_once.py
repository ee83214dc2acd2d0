"""Whatever the order and however often parts come, and wherever the hub restarts: each is kept and read once."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.both_databases import engines, hub_on
from tests.support.clock import FakeClock
from tests.support.hub_folder import Clinic, Sealed, StudyParts, join, stored_blobs, study_parts
from tests.support.soak import TIMES
from tests.support.tiny_bundle import tiny_bundle
from thinwire.receiver.hub import open_hub
from thinwire.receiver.operations.check import Checked, check
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.identifiers import digest

RESTART, REPORTED = 6, 7


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@settings(max_examples=12 * TIMES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(engine=engines, acts=st.lists(st.integers(0, REPORTED), max_size=14))
def test_put_twice_is_put_once(bundle: Bundle, engine: str, acts: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder, hub_on(engine, Path(folder) / "hub", bundle, FakeClock()) as data:
        with open_hub(data, FakeClock()) as hub:
            clinic = join(hub)
        studies = [study_parts(clinic, bundle, seed) for seed in (0, 1)]
        rest = acts
        while True:
            until = rest.index(RESTART) if RESTART in rest else len(rest)
            _live(data, clinic, studies, rest[:until])
            if until == len(rest):
                break
            rest = rest[until + 1 :]
        _check(data, clinic, studies, {act for act in acts if act < RESTART})


def _live(data: Path, clinic: Clinic, studies: list[StudyParts], acts: list[int]) -> None:
    with open_hub(data, FakeClock()) as hub:
        hub.store.sweep()
        pipeline = hub.pipeline()
        for act in acts:
            if act == REPORTED:
                pipeline.predict_waiting()
                continue
            part = _part(studies, act)
            pipeline.put(clinic.site, part.object, part.header, part.plaintext, False)


def _part(studies: list[StudyParts], act: int) -> Sealed:
    whole = studies[act % 2]
    return (whole.graph, whole.originals, whole.manifest)[act // 2]


def _check(data: Path, clinic: Clinic, studies: list[StudyParts], put: set[int]) -> None:
    with open_hub(data, FakeClock()) as hub:
        pipeline = hub.pipeline()
        while pipeline.predict_waiting():
            pass
        kept = {each.study: each for each in hub.store.studies()}
        assert set(kept) == {studies[act % 2].study for act in put}
        graphs = sum(act < 2 for act in put)
        assert sum(each.prediction is not None for each in kept.values()) == graphs
        assert len(pipeline.undelivered_receipts(clinic.site)) == len(put) + graphs
        wanted = {digest((s.graph, s.originals, s.manifest)[a // 2].plaintext) for a in put for s in [studies[a % 2]]}
        assert stored_blobs(hub) == wanted
        assert list(check(hub, Checked(), lambda *_: None)) == []
        for number, each in enumerate(studies):
            if number in put and number + 4 in put:
                assert kept[each.study].complete is (number + 2 in put)
