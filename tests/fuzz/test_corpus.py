"""The inputs that the fuzzer kept, without the fuzzer: each is read or refused, within bounds."""

import time
import warnings

import pytest

from tests.fuzz.all_targets import CORPUS, REGRESSIONS, TARGETS, kept

MOST_SECONDS = 5.0


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_kept_inputs_are_read_or_refused(name: str) -> None:
    target = TARGETS[name]
    for data_name, data in kept(name).items():
        started = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target(data)
        assert time.process_time() - started < MOST_SECONDS, data_name


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_target_reads_its_seeds(name: str) -> None:
    """Else it would fuzz nothing but a refusal."""
    read = 0
    for data in TARGETS[name].seeds():
        try:
            TARGETS[name].read(data)
        except TARGETS[name].refusals:
            continue
        read += 1
    assert read


def test_every_kept_input_has_its_target() -> None:
    assert {each.stem for each in CORPUS.glob("*.zip")} <= set(TARGETS)
    assert {each.name for each in REGRESSIONS.iterdir()} <= set(TARGETS)
