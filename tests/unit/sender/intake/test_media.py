import os
import zipfile
from collections.abc import Iterable
from pathlib import Path

import imagecodecs
import pytest
from pydicom.dataset import Dataset

from tests.support.dicoms import STUDY_UID, as_file, chest, dataset, dicom
from tests.support.real_data import REAL_DATA, needs
from thinwire.sender.intake.media import DIRECTORY_CLASS, Failed, Refused, StudyFiles, find_studies, remove_scratch
from thinwire.shared.errors import DiskFull
from thinwire.shared.storage.durable import Disk


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def image(study: int, number: int = 1) -> bytes:
    return dicom(sop_uid=f"{STUDY_UID}.{study}.{number}", StudyInstanceUID=f"{STUDY_UID}.{study}")


def found(paths: Iterable[Path]) -> list[list[str]]:
    """The file names of each study; fails on a refusal."""
    studies = list(find_studies(paths))
    assert not [each for each in studies if isinstance(each, Refused)]
    return [[path.name for path in each.paths] for each in studies]


def refusals(paths: Iterable[Path]) -> list[str]:
    return [str(each.error) for each in find_studies(paths) if isinstance(each, Refused)]


def test_a_folder_is_searched_to_the_bottom_and_grouped_by_study(tmp_path: Path) -> None:
    write(tmp_path / "a" / "1", image(1))
    write(tmp_path / "b" / "deep" / "2", image(2))
    write(tmp_path / "c" / "3.dcm", image(1, 2))
    write(tmp_path / ".hidden" / "4", image(4))
    write(tmp_path / ".DS_Store", image(5))
    assert found([tmp_path]) == [["1", "3.dcm"], ["2"]]


def test_a_file_given_twice_is_found_once(tmp_path: Path) -> None:
    path = write(tmp_path / "1", image(1))
    assert found([path, path, tmp_path]) == [["1"]]


def test_other_things_in_a_folder_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "1", image(1))
    write(tmp_path / "README.txt", b"This medium holds images.\n" * 20)
    write(tmp_path / "index.csv", b"a,b\n" * 100)
    write(tmp_path / "logo.png", bytes(imagecodecs.png_encode(chest(bits=8))))
    os.mkfifo(tmp_path / "pipe")
    assert found([tmp_path]) == [["1"]]


def test_a_folder_of_pictures_is_one_study_each(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        write(tmp_path / name, bytes(imagecodecs.png_encode(chest(bits=8))))
    assert found([tmp_path]) == [["a.png"], ["b.png"]]


def test_one_bad_file_never_stops_the_next(tmp_path: Path) -> None:
    write(tmp_path / "1", image(1))
    write(tmp_path / "2.dcm", b"not at all")
    write(tmp_path / "3", image(3)[:200])
    write(tmp_path / "4", image(4))
    results = list(find_studies([tmp_path]))
    assert [type(each) for each in results] == [Refused, Refused, StudyFiles, StudyFiles]
    assert [str(each.error).split(":")[0] for each in results if isinstance(each, Refused)] == [
        "file 2 of 4",
        "file 3 of 4",
    ]


def test_what_a_person_names_is_refused_aloud(tmp_path: Path) -> None:
    note = write(tmp_path / "DOE_JANE.txt", b"words " * 60)
    (told,) = refusals([note])
    assert "not a DICOM file" in told
    (missing,) = refusals([tmp_path / "DOE_JANE"])
    assert "does not exist" in missing
    assert "DOE" not in told + missing + repr(list(find_studies([note])))


def test_files_that_name_no_study_are_studies_of_their_own(tmp_path: Path) -> None:
    for number in (1, 2):
        write(tmp_path / str(number), dicom(StudyInstanceUID=None, sop_uid=f"{STUDY_UID}.{number}"))
    assert found([tmp_path]) == [["1"], ["2"]]


# --- DICOMDIR


def directory(*names: list[str]) -> bytes:
    records = []
    for name in names:
        record = Dataset()
        record.DirectoryRecordType = "IMAGE" if name else "PATIENT"
        if name:
            record.ReferencedFileID = name
        records.append(record)
    listed = dataset(DIRECTORY_CLASS, Modality=None, BodyPartExamined=None, ViewPosition=None)
    listed.DirectoryRecordSequence = records
    return as_file(listed)


def test_a_dicomdir_names_its_files_in_either_case(tmp_path: Path) -> None:
    write(tmp_path / "images" / "im1", image(1))
    write(tmp_path / "IMAGES2" / "IM2", image(2))
    write(tmp_path / "unlisted", image(3))
    path = write(tmp_path / "DICOMDIR", directory([], ["IMAGES", "IM1"], ["IMAGES2", "IM2"]))
    assert found([path]) == [["im1"], ["IM2"]]


def test_a_folder_with_a_dicomdir_is_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "IM1", image(1))
    write(tmp_path / "DICOMDIR", directory(["IM1"]))
    assert found([tmp_path]) == [["IM1"]]


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
@pytest.mark.parametrize("name", [["..", "OUTSIDE"], ["GONE"], ["LINK"], ["", "OUTSIDE"]])
def test_a_dicomdir_reaches_nothing_outside_its_folder(tmp_path: Path, name: list[str]) -> None:
    outside = write(tmp_path / "OUTSIDE", image(1))
    write(tmp_path / "cd" / "IM1", image(2))
    (tmp_path / "cd" / "LINK").symlink_to(outside)
    path = write(tmp_path / "cd" / "DICOMDIR", directory(name, ["IM1"]))
    results = list(find_studies([path]))
    assert [type(each) for each in results] == [Refused, StudyFiles]
    assert "entry 1 of the DICOMDIR" in refusals([path])[0]


@pytest.mark.parametrize("data", [b"", b"junk" * 100, directory([])])
def test_a_dicomdir_that_lists_nothing_is_refused(tmp_path: Path, data: bytes) -> None:
    assert len(refusals([write(tmp_path / "DICOMDIR", data)])) == 1


def test_the_real_folder_is_found() -> None:
    results = list(find_studies([REAL_DATA / "dicom"]))
    # The file with a false tag is a copy of another one under the same study.
    assert [len(each.paths) for each in results] == [1, 1, 1, 1, 1, 2, 1, 1]
    assert not [each for each in results if isinstance(each, Refused)]


for _mark in needs("dicom"):
    _mark(test_the_real_folder_is_found)


@pytest.mark.filterwarnings("ignore:Invalid value")
@pytest.mark.parametrize("kept", ["IM1.DCM", "IM1.", "im1.dcm", "IM1;1", "IM1.;1"])
def test_a_directory_finds_files_whose_names_a_copy_has_changed(tmp_path: Path, kept: str) -> None:
    write(tmp_path / "PT0" / kept, image(1))
    for name in (["PT0", "IM1"], ["PT0/IM1"], ["pt0", "IM1."]):
        path = write(tmp_path / "DICOMDIR", directory(name))
        assert found([path]) == [[kept]]
    assert found([tmp_path]) == [[kept]]


# --- Zip archives, and files of other formats


def zipped(path: Path, **files: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def test_an_archive_is_read_as_a_folder_is(tmp_path: Path) -> None:
    names = {"../../escaped.dcm": image(1), "/IM2": image(1, 2), "viewer.exe": b"MZ" + bytes(400), "a/IM3": image(2)}
    path = zipped(tmp_path / "portal.zip", **names)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    studies = find_studies([path], scratch=scratch)
    sizes = []
    for each in studies:
        assert isinstance(each, StudyFiles)
        assert all(file.is_relative_to(scratch) and file.read_bytes() in names.values() for file in each.paths)
        sizes.append(len(each.paths))
    assert sizes == [2, 1]
    assert list(scratch.iterdir()) == []
    assert sorted(each.name for each in tmp_path.iterdir()) == ["portal.zip", "scratch"]


def test_what_a_killed_process_unpacked_does_not_stay(tmp_path: Path) -> None:
    path = zipped(tmp_path / "portal.zip", IM1=image(1))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / ".zip-left").mkdir()
    (scratch / ".zip-left" / "0000.dcm").write_bytes(image(2))
    studies = find_studies([path], scratch=scratch)
    (study,) = [each for each in [next(iter(studies))] if isinstance(each, StudyFiles)]
    remove_scratch(scratch)
    assert study.paths[0].read_bytes() == image(1)  # of a process that goes on
    assert [each.name for each in scratch.iterdir()] == [study.paths[0].parent.name]


def test_an_archive_takes_no_space_from_what_machines_send(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(tmp_path / "portal.zip", IM1=image(1))
    monkeypatch.setattr(Disk, "free", lambda self, folder: 100)
    (tmp_path / "other.dcm").write_bytes(image(2))
    studies = find_studies([path, tmp_path / "other.dcm"], scratch=tmp_path)
    failed = next(studies)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, DiskFull)
    assert failed.given == (path,)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["other.dcm", "portal.zip"]
    assert [each.paths for each in studies if isinstance(each, StudyFiles)] == [(tmp_path / "other.dcm",)]


def test_several_archives_leave_the_space_in_which_their_studies_are_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch, size = tmp_path / "scratch", len(image(1))
    scratch.mkdir()
    paths = [zipped(tmp_path / f"{n}.zip", IM1=image(n)) for n in (1, 2)]

    def free(_self: Disk, _folder: Path) -> int:
        return 5 * size - sum(each.stat().st_size for each in scratch.rglob("*") if each.is_file())

    monkeypatch.setattr(Disk, "free", free)
    first, second = find_studies(paths, scratch=scratch)
    assert isinstance(first, Failed)
    assert first.given == (paths[1],)
    assert isinstance(second, StudyFiles)
    assert second.given == (paths[0],)


def test_an_archive_that_is_not_opened_says_why(tmp_path: Path) -> None:
    inner = zipped(tmp_path / "inner.zip", IM1=image(1))
    outer = zipped(tmp_path / "outer.zip", **{"inner.zip": inner.read_bytes()})
    assert "holds no DICOM" in refusals([outer])[0]
    locked = inner.read_bytes()
    for mark in (b"PK\x03\x04", b"PK\x01\x02"):  # the flag of encryption, in both headers
        at = locked.index(mark) + (6 if mark == b"PK\x03\x04" else 8)
        locked = locked[:at] + b"\x01" + locked[at + 1 :]
    assert "encrypted" in refusals([write(tmp_path / "locked.zip", locked)])[0]
    assert "zip archive" in refusals([write(tmp_path / "short.zip", inner.read_bytes()[:-30])])[0]
    many = zipped(tmp_path / "many.zip", **{str(n): b"" for n in range(4100)})
    assert "over the limit" in refusals([many])[0]


def test_a_bomb_in_an_archive_is_not_unpacked(tmp_path: Path) -> None:
    path = zipped(tmp_path / "bomb.zip", a=bytes(200 << 20))
    assert path.stat().st_size < 300_000
    assert "over the limit" in refusals([path])[0] or "more than the limit" in refusals([path])[0]


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"II*\0", "TIFF"),
        (b"BM\x10\x20\0\0\0\0\0\0", "BMP"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "WebP"),
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"%PDF-1.7", "PDF"),
    ],
)
def test_a_file_of_another_format_is_named_with_what_to_do(tmp_path: Path, start: bytes, name: str) -> None:
    (refused,) = find_studies([write(tmp_path / "image", start + bytes(600))])
    assert isinstance(refused, Refused)
    assert name in str(refused.error)
    assert refused.error.remedy == "Export it as DICOM, PNG or JPEG."
