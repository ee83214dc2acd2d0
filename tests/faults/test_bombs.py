"""Small inputs that claim or become gigabytes: each is refused with words, in little memory and time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.bombs import BOMBS, deflated_zeros, of_file
from tests.support.two_ends import TwoEnds, samples
from thinwire.receiver.decoding.decoder import Decoder
from thinwire.receiver.decoding.process import DecodingProcess
from thinwire.sender.outbox.entries import EntryState
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import BadArchive
from thinwire.shared.identifiers import digest, study_key

MOST_BYTES = 200 << 20
"""Peak memory of one input: three times what any input may expand to."""
MOST_SECONDS = 5.0

NAMES = [f"{kind} {name}" for kind, bombs in BOMBS.items() for name in bombs]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, int, float]]:
    folder = tmp_path_factory.mktemp("bombs")
    for kind, bombs in BOMBS.items():
        for name, (made, _) in bombs.items():
            (folder / f"{kind} {name}").write_bytes(made())
    command = [sys.executable, "-m", "tests.support.bombs", str(folder)]
    done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found: dict[str, tuple[str, int, float]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_bomb_is_refused_in_little_memory(name: str, outcomes: dict[str, tuple[str, int, float]]) -> None:
    kind, _, which = name.partition(" ")
    outcome, grown, seconds = outcomes[name]
    assert BOMBS[kind][which][1] in outcome
    assert "MemoryError" not in outcome
    assert grown < MOST_BYTES
    assert seconds < MOST_SECONDS


def test_the_clinic_shows_why_its_study_was_refused(tmp_path: Path) -> None:
    (study,) = samples(1, size=12_000)
    ends, process = TwoEnds(tmp_path), DecodingProcess()
    file = deflated_zeros()
    with pytest.raises(BadArchive) as refusal:
        Decoder(process, 2 << 30).examine(of_file(file), study_key([digest(file)]))
    process.close()
    ends.accept(study)
    ends.make_parts()
    ends.refusals.append(refusal.value)
    ends.carry()
    entry = ends.outbox.entry(study.study)
    assert entry.state is EntryState.REFUSED
    assert "inflates to more than the limit" in entry.part(Kind.ORIGINALS).reason
    assert "No radiograph is that large" in entry.part(Kind.ORIGINALS).reason
