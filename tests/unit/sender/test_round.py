"""The parts of a study are made in one round from one opened study, with the real outbox, pipeline and service."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event
from typing import ParamSpec, TypeVar

import pytest

from tests.support.clinic import Clinic, SmallDisk
from tests.support.dicoms import chest, dicom
from tests.support.real_link import AUTHORITY, site_identity
from tests.support.two_ends import TwoEnds, sealed_file
from thinwire.sender import pipeline as pipeline_module
from thinwire.sender.intake import study as study_module
from thinwire.sender.intake.source import OpenedStudies
from thinwire.sender.outbox.entries import PartState
from thinwire.sender.pipeline import ROUND, Pipeline
from thinwire.sender.service import Accepted, SendOptions, Service, accept_files
from thinwire.sender.transport.connection import HubAddress, Uplink
from thinwire.shared.clock import SystemClock
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import BadInput, DiskFull
from thinwire.shared.formats.originals import Effort, Member, pack
from thinwire.shared.identifiers import Digest, StudyKey
from thinwire.shared.imaging.dicom import Radiograph
from thinwire.shared.imaging.frontal import choose_among

P = ParamSpec("P")
R = TypeVar("R")
PATIENCE = 60
"""Seconds after which a test that waits has failed."""


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    return Clinic(tmp_path / "clinic")


def accept(clinic: Clinic, folder: Path, seed: int, urgent: bool = False) -> StudyKey:
    folder.mkdir(exist_ok=True)
    path = folder / f"{seed}.dcm"
    path.write_bytes(dicom(chest(300, 280, seed=seed), SOPInstanceUID=f"1.2.3.{seed}"))
    (outcome,) = accept_files(clinic.pipeline, clinic.quarantine, [path], None, SendOptions(urgent))
    assert isinstance(outcome, Accepted)
    return outcome.study.key


class Calls:
    """Names of the calls that open or decode a study."""

    def __init__(self, clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[str] = []
        outbox, maker = clinic.outbox, clinic.pipeline.maker
        monkeypatch.setattr(outbox, "source", self._counted("unsealed", outbox.source))
        monkeypatch.setattr(outbox, "plaintext", self._counted("unsealed", outbox.plaintext))
        monkeypatch.setattr(study_module, "choose_among", self._counted("decoded", choose_among))
        monkeypatch.setattr(maker, "make_graph", self._counted("graph", maker.make_graph))

    def _counted(self, name: str, function: Callable[P, R]) -> Callable[P, R]:
        def counted(*args: P.args, **kwargs: P.kwargs) -> R:
            self.made.append(name)
            return function(*args, **kwargs)

        return counted

    def of(self, name: str) -> int:
        return self.made.count(name)


def objects(clinic: Clinic, study: StudyKey) -> dict[Kind, Digest | None]:
    return {part.kind: part.object for part in clinic.outbox.entry(study).parts}


def test_a_study_is_unsealed_and_decoded_once_for_all_its_parts(
    clinic: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(3):
        accept(clinic, tmp_path / "in", seed)
    calls = Calls(clinic, monkeypatch)
    clinic.pipeline.make_all()
    assert not clinic.outbox.unfinished()
    assert (calls.of("unsealed"), calls.of("decoded"), calls.of("graph")) == (3, 3, 3)


def test_studies_beyond_the_limit_are_opened_once_for_each_step(
    clinic: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clinic.pipeline._opened = OpenedStudies(most=1)
    for seed in range(3):
        accept(clinic, tmp_path / "in", seed)
    calls = Calls(clinic, monkeypatch)
    clinic.pipeline.make_all()
    assert not clinic.outbox.unfinished()
    # And the stored graph is unsealed for each study's crops.
    assert (calls.of("unsealed"), calls.of("graph")) == (3 * len(ROUND) + 3, 3)


def test_a_part_made_again_is_the_same_object(clinic: Clinic, tmp_path: Path) -> None:
    study = accept(clinic, tmp_path / "in", 1)
    clinic.pipeline.make_all()
    made = objects(clinic, study)
    for kind in (Kind.GRAPH, Kind.PREVIEW, Kind.CROPS, Kind.MANIFEST):
        sealed_file(clinic.outbox, study, kind).write_bytes(b"damaged")
        assert [entry.missing for entry in clinic.outbox.recover()] == [(kind,)]
        Pipeline(clinic.outbox, clinic.pipeline.config).make_all()
        assert objects(clinic, study) == made


@pytest.mark.parametrize("made_before", range(1, 5))
def test_a_round_that_a_restart_interrupts_ends_with_the_same_bytes(
    clinic: Clinic, tmp_path: Path, made_before: int
) -> None:
    """The bytes of every part but the manifest, which lists the others, are those of an opened study made apart."""
    study = accept(clinic, tmp_path / "in", 1)
    for _ in range(made_before):
        job = clinic.pipeline.next_job()
        assert job is not None
        clinic.pipeline.make(*job)
    again = Pipeline(clinic.outbox, clinic.pipeline.config)
    again.make_all()
    assert not clinic.outbox.unfinished()
    for kind in (Kind.GRAPH, Kind.PREVIEW, Kind.CROPS, Kind.ORIGINALS):
        assert clinic.outbox.plaintext(study, kind) == again.plaintext_of(again.open(study), kind)


def test_a_part_that_cannot_be_made_costs_that_part_alone(
    clinic: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = accept(clinic, tmp_path / "in", 1)
    calls = Calls(clinic, monkeypatch)

    def refused(radiograph: Radiograph, sealed_bytes: int) -> bytes:
        raise BadInput("the image does not fit a preview", "Raise preview_bytes.")

    monkeypatch.setattr(pipeline_module, "preview_of", refused)
    clinic.pipeline.make_all()
    states = {part.kind: part.state for part in clinic.outbox.entry(study).parts}
    assert states == {
        Kind.GRAPH: PartState.WAITING,
        Kind.PREVIEW: PartState.ABSENT,
        Kind.CROPS: PartState.HELD,
        Kind.ORIGINALS: PartState.WAITING,
        Kind.MANIFEST: PartState.WAITING,
    }
    assert (calls.of("unsealed"), calls.of("decoded")) == (1, 1)


@pytest.mark.parametrize("kind", [kind for step in ROUND for kind in step])
def test_a_full_disk_keeps_the_study_and_its_round_goes_on(
    clinic: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    ends = TwoEnds(tmp_path / "small")
    ends.disk = disk = SmallDisk(ends.fuse)
    clinic.outbox = ends.new_outbox()
    clinic.pipeline = Pipeline(clinic.outbox, clinic.pipeline.config)
    study = accept(clinic, tmp_path / "in", 1)
    calls = Calls(clinic, monkeypatch)
    while (job := clinic.pipeline.next_job()) != (study, kind):
        assert job is not None
        clinic.pipeline.make(*job)
    disk.left = 0
    with pytest.raises(DiskFull):
        clinic.pipeline.make(study, kind)
    assert clinic.pipeline.next_job() == (study, kind)
    disk.left = None
    clinic.pipeline.make_all()
    assert not clinic.outbox.unfinished()
    assert calls.of("graph") == 1
    # After its last part a study is no longer held.
    assert calls.of("decoded") == (2 if kind is Kind.MANIFEST else 1)


def test_the_graph_of_an_urgent_study_does_not_wait_for_the_originals_of_another(
    clinic: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole service, without a hub: the first study's originals are made until the second's graph is there."""
    packing, graph_made = Event(), Event()

    def slowly(members: Sequence[Member], effort: Effort) -> bytes:
        if effort != "fast":  # the effort of acceptance
            packing.set()
            assert graph_made.wait(PATIENCE)
        return pack(members, effort)

    monkeypatch.setattr(pipeline_module, "pack", slowly)
    first = accept(clinic, tmp_path / "in", 1)
    calls = Calls(clinic, monkeypatch)
    second: list[StudyKey] = []

    def done() -> bool:
        if packing.is_set() and not second:
            second.append(accept(clinic, tmp_path / "in", 2, urgent=True))
        if second and clinic.outbox.entry(second[0]).part(Kind.GRAPH).state is PartState.WAITING:
            missing = clinic.outbox.entry(first).missing
            assert graph_made.is_set() or missing == (Kind.ORIGINALS, Kind.MANIFEST)
            graph_made.set()
        return bool(second) and not clinic.outbox.unfinished()

    clock = SystemClock()
    uplink = Uplink(
        clinic.outbox, HubAddress("127.0.0.1:1", AUTHORITY.certificate_pem, site_identity()), clock, clinic.disk
    )
    asyncio.run(Service(clinic.pipeline, uplink, clinic.quarantine, clock).run(asyncio.Event(), until=done))
    assert calls.of("unsealed") == 2
    assert calls.of("decoded") == 2 + 1  # and once when the second was accepted
    assert calls.of("graph") == 2
