"""A clinic's own folder: each `name.dcm` with its report beside it as `name.txt`."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from thinwire.receiver.training.datasets.patients import FoundStudy, Patient, StudySelection, shuffled
from thinwire.receiver.training.datasets.report_text import sections
from thinwire.receiver.training.datasets.summary import Summary
from thinwire.sender.intake.text import read_text
from thinwire.shared.errors import BadConfiguration, BadInput, NotChestRadiograph
from thinwire.shared.imaging.dicom import read_instance, require_chest


@dataclass(frozen=True)
class _FolderImage:
    """The facts of a file that are kept while the others are read."""

    size: tuple[int, int]
    view: str
    sex: str


def patients(root: Path, choice: StudySelection, summary: Summary) -> Iterator[Patient]:
    """Each patient's frontal chest radiographs; a usable one has a report.

    A patient is known by a digest of the Patient ID; without one, each study stands for its own patient.
    """
    if not root.is_dir():
        raise BadConfiguration(f"{root} is not a folder", "Give the folder that holds the DICOM files.")
    of_patient: dict[str, dict[str, _FolderImage]] = {}
    for path in sorted(root.rglob("*.dcm")):
        name = str(path.relative_to(root))
        try:
            instance = read_instance(path.read_bytes())
            require_chest(instance)
        except NotChestRadiograph:
            summary.skip("not a frontal chest radiograph")
            continue
        except (OSError, BadInput) as error:
            summary.fault(name, f"image malformed ({type(error).__name__})")
            continue
        patient = instance.header.text("PatientID") or instance.study_uid or name
        digest = hashlib.sha256(f"thinwire patient {patient}".encode()).hexdigest()[:16]
        of_patient.setdefault(digest, {})[name] = _FolderImage(
            (instance.rows, instance.columns), instance.view.value, instance.header.text("PatientSex")
        )
    for patient, images in sorted(of_patient.items()):
        order = shuffled(images, choice.seed, patient)
        yield [partial(_found, root, name, patient, images[name], summary) for name in order]


def _found(root: Path, name: str, patient: str, image: _FolderImage, summary: Summary) -> FoundStudy | None:
    try:
        text = sections(read_text((root / name).with_suffix(".txt")))
    except BadInput as error:
        summary.fault(str(Path(name).with_suffix(".txt")), f"report missing or malformed ({type(error).__name__})")
        return None
    if not text.told:
        summary.skip("a report without findings and impression")
        return None
    return FoundStudy(
        key=f"folder-{hashlib.sha256(f'{patient} {name}'.encode()).hexdigest()[:16]}",
        patient=f"folder:{patient}",
        image=root / name,
        text=text,
        size=image.size,
        view_position=image.view,
        sex=image.sex,
    )
