"""Whatever became of the files on a stick: an import ends with an outcome for each, and stores the sealed objects."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.damage import damaged
from tests.support.soak import TIMES
from tests.support.stick_pair import Case, StickPair
from tests.support.tiny_bundle import tiny_bundle
from thinwire.receiver.hub import open_hub
from thinwire.receiver.offline import ImportOutcome
from thinwire.shared.errors import ThinwireError

CASE = Case(b"frontal view" * 40)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> StickPair:
    """A stick with one study's three parts, an epoch record and a waybill, on its way to the hub."""
    folder = tmp_path_factory.mktemp("pair")
    pair = StickPair(folder / "ends", tiny_bundle(folder / "tiny"))
    pair.accept([CASE])
    pair.export()
    return pair


@settings(
    max_examples=40 * TIMES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_no_bytes_on_a_stick_stop_an_import(pair: StickPair, data: st.DataObject) -> None:
    files = pair.on_stick()
    objects = sorted(name for name in files if name.startswith("objects"))
    changed = data.draw(st.sampled_from(objects))
    names = st.text(
        st.characters(min_codepoint=48, max_codepoint=122, exclude_characters="\\"), min_size=1, max_size=70
    )
    other = data.draw(st.sampled_from([changed, f"objects/{data.draw(names)}"]))
    path = pair.stick / other
    path.write_bytes(data.draw(damaged(files[changed])))
    try:
        done = pair.at_hub()
        assert len([each for each in done.taken if each.outcome is ImportOutcome.REFUSED]) <= 5
        assert all(
            isinstance(each.error, ThinwireError) for each in done.taken if each.outcome is ImportOutcome.REFUSED
        )
        with open_hub(pair.hub, pair.clock) as hub:
            assert {each.study for each in hub.store.studies()} <= {CASE.study}
    finally:
        if other not in files:
            # A second copy of the waybill goes with it once the objects that it lists have arrived.
            path.unlink(missing_ok=True)
        put_back(pair.stick, files)


def put_back(stick: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (stick / name).write_bytes(content)


def test_in_the_end_the_study_arrives(pair: StickPair) -> None:
    pair.at_hub()
    pair.bring_home()
    with open_hub(pair.hub, pair.clock) as hub:
        (kept,) = hub.store.studies()
        assert kept.complete
    assert not pair.clinic.open(pair).due()
