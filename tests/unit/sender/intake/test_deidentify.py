"""De-identified files: the pixels as they were, and no identity."""

import hashlib
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom import dcmread
from pydicom.dataset import Dataset

from tests.support.clinic import Clinic
from tests.support.dicoms import (
    BASIC_TEXT_SR,
    BIG,
    DEFLATED,
    IMPLICIT,
    JPEG_2000,
    JPEG_LOSSLESS_SV1,
    JPEG_XL,
    RLE,
    STUDY_UID,
    as_file,
    chest,
    dataset,
    dicom,
)
from tests.support.real_data import REAL_DATA
from tests.support.two_ends import SITE_SIGNING
from thinwire.sender.intake.deidentify import KEY_BYTES, Dates, Deidentifier, Identity, Options, Uids, load_key
from thinwire.sender.intake.samples import Blanking, Rectangle
from thinwire.sender.intake.study import load_study
from thinwire.sender.service import Accepted, RefusedStudy, StudyText, accept_files
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import BadConfiguration, NotChestRadiograph, UnreadableDicom
from thinwire.shared.formats.manifest import read_manifest
from thinwire.shared.formats.originals import unpack
from thinwire.shared.identifiers import TextSource, digest, study_key
from thinwire.shared.imaging.dicom import read_instance
from thinwire.shared.imaging.projection import Projection
from thinwire.shared.storage.durable import Disk

SECRET = "SECRET"
"""Stands in every value that could name somebody."""
NAMING: dict[str, Any] = {
    "PatientName": f"{SECRET}^JANE",
    "PatientID": f"{SECRET}-1",
    "PatientBirthDate": "19600412",
    "PatientAge": "066Y",
    "PatientSex": "F",
    "OtherPatientNames": SECRET,
    "PatientAddress": SECRET,
    "AccessionNumber": f"{SECRET}-2",
    "InstitutionName": f"{SECRET} HOSPITAL",
    "ReferringPhysicianName": f"{SECRET}^DR",
    "OperatorsName": f"{SECRET}^OP",
    "StationName": SECRET,
    "DeviceSerialNumber": SECRET,
    "StudyDescription": f"CHEST {SECRET}",
    "SeriesDescription": f"PA {SECRET}",
    "ImageComments": SECRET,
    "StudyID": SECRET[:6],
    "StudyDate": "20260304",
    "StudyTime": "101112",
    "ContentDate": "20260305",
    "AcquisitionDateTime": "20260304101112.5+0200",
    "ReasonForTheRequestedProcedure": f"fever, {SECRET}",
    "Manufacturer": "ACME",
    "KVP": "120",
    "PixelSpacing": ["0.14", "0.15"],
}


def named(**more: object) -> bytes:
    """A radiograph with identity wherever there is place for it."""
    found = dcmread(BytesIO(dicom(chest(), **{**NAMING, **more})))
    block = found.private_block(0x0011, "SECRET VENDOR", create=True)
    block.add_new(0x01, "LO", SECRET)
    found.add_new(0x60000010, "US", 96)
    found.add_new(0x60000022, "LO", SECRET)
    item = Dataset()
    item.RequestedProcedureDescription = SECRET
    item.ScheduledProcedureStepID = SECRET
    found.RequestAttributesSequence = [item]
    code, local = Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "51185008", "SCT", "Chest"
    local.CodeValue, local.CodingSchemeDesignator, local.CodeMeaning = "1", "99LOCAL", SECRET
    found.AnatomicRegionSequence = [code]
    found.ViewCodeSequence = [local]
    out = BytesIO()
    found.save_as(out, enforce_file_format=True)
    return out.getvalue()


@pytest.fixture
def clean(tmp_path: Path) -> Deidentifier:
    return Deidentifier(b"k" * KEY_BYTES, Options(), tmp_path / "originals", Disk(reserve=0))


def with_options(clean: Deidentifier, options: Options) -> Deidentifier:
    return Deidentifier(clean.key, options, clean.identified, clean.disk)


def header(clean: Deidentifier, data: bytes) -> Dataset:
    made = clean.file(data)
    assert made is not None
    return dcmread(BytesIO(made))


def test_nothing_that_names_anybody_is_left(clean: Deidentifier) -> None:
    made = clean.file(named())
    assert made is not None
    assert named().count(SECRET.encode()) > 15
    for word in (SECRET, "19600412", "20260304", "20260305", STUDY_UID, "pydicom"):
        assert word.encode() not in made, word
    found = dcmread(BytesIO(made))
    assert not [element.tag for element in found.iterall() if element.tag.is_private or element.tag.group == 0x6000]
    assert found.PatientIdentityRemoved == "YES"
    codes = [item.CodeValue for item in found.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113105", "113107", "113108"]
    assert (found.AccessionNumber, found.ReferringPhysicianName, found.PatientBirthDate) == ("", "", "")
    assert (found.Manufacturer, found.KVP, list(found.PixelSpacing)) == ("", 120, [0.14, 0.15])
    assert [item.CodeMeaning for item in found.AnatomicRegionSequence] == ["Chest"]
    assert [item.CodeMeaning for item in found.ViewCodeSequence] == ["postero-anterior"]


@pytest.mark.parametrize(
    "syntax", [IMPLICIT, BIG, DEFLATED, RLE, JPEG_LOSSLESS_SV1, JPEG_2000, JPEG_XL], ids=lambda uid: uid[-6:]
)
def test_the_pixels_stay_as_they_were(clean: Deidentifier, syntax: str) -> None:
    data = dicom(syntax=syntax, **{k: v for k, v in NAMING.items() if k != "SeriesDescription"})
    made = clean.file(data)
    assert made is not None
    before, after = load_study([data]).frontal, load_study([made]).frontal
    np.testing.assert_array_equal(before.stored, after.stored)
    np.testing.assert_array_equal(before.pixels, after.pixels)
    assert (before.meaning, before.view_position) == (after.meaning, after.view_position)
    assert load_study([made]).frontal.warnings == before.warnings


def test_the_same_file_gives_the_same_bytes_and_another_key_another_identity(clean: Deidentifier) -> None:
    other = Deidentifier(b"j" * KEY_BYTES, clean.options, clean.identified, clean.disk)
    assert clean.file(named()) == clean.file(named())
    ours, theirs = header(clean, named()), header(other, named())
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "PatientID", "StudyDate"):
        assert getattr(ours, keyword) != getattr(theirs, keyword)
    assert ours.file_meta.MediaStorageSOPInstanceUID == ours.SOPInstanceUID


def test_references_and_spans_between_studies_of_a_patient_hold(clean: Deidentifier) -> None:
    first = header(clean, named())
    later = header(clean, named(SOPInstanceUID="1.2.3.4", StudyDate="20260314"))
    other = header(clean, named(PatientID="OTHER"))
    assert (first.StudyInstanceUID, first.PatientID) == (later.StudyInstanceUID, later.PatientID)
    assert int(later.StudyDate) != 20260314
    days = [np.datetime64(f"{d[:4]}-{d[4:6]}-{d[6:]}") for d in (first.StudyDate, later.StudyDate, first.ContentDate)]
    assert (days[1] - days[0], days[2] - days[0]) == (np.timedelta64(10, "D"), np.timedelta64(1, "D"))
    assert first.AcquisitionDateTime == f"{first.StudyDate}101112.5+0200"
    assert (other.StudyDate, other.PatientID) != (first.StudyDate, first.PatientID)
    assert first.StudyInstanceUID.startswith("2.25.")


def test_options_keep_or_remove(clean: Deidentifier) -> None:
    strict = with_options(clean, Options(Dates.REMOVE, Uids.KEEP, characteristics=False))
    found = header(strict, named())
    assert (found.StudyDate, found.StudyTime, found.PatientSex, found.get("PatientAge")) == ("", "", "", None)
    assert found.StudyInstanceUID == STUDY_UID
    assert found.LongitudinalTemporalInformationModified == "REMOVED"
    assert [c.CodeValue for c in found.DeidentificationMethodCodeSequence] == ["113100", "113105", "113110"]


@pytest.mark.parametrize(
    ("age", "shown"),
    [
        *(
            ("066Y", "066Y"),
            ("089Y", "089Y"),
            ("091Y", "090Y"),
            ("007M", "007M"),
            ("1100M", "090Y"),
            ("33000D", "090Y"),
        ),
        *(("4750W", "090Y"), ("20000D", "054Y"), ("12Y", "012Y"), ("066Y DOE", ""), ("old", ""), ("", "")),
    ],
)
def test_an_age_over_89_is_stated_as_90(clean: Deidentifier, age: str, shown: str) -> None:
    assert header(clean, named(PatientAge=age)).get("PatientAge", "") == shown


@pytest.mark.parametrize("words", ["PA", "AP supine", "de frente", "Lateral"])
def test_a_view_and_a_part_that_stood_in_a_description_stay(clean: Deidentifier, words: str) -> None:
    described = named(ViewPosition=None, BodyPartExamined=None, SeriesDescription=f"Chest {words}")
    found = header(clean, described)
    assert "SeriesDescription" not in found
    before, after = read_instance(described), read_instance(as_file(found))
    assert before.view is not Projection.UNSTATED
    assert (after.view, after.part) == (before.view, before.part)


def test_the_file_that_was_read_is_the_one_that_leaves(clean: Deidentifier) -> None:
    frontal, lateral = named(), named(ViewPosition="LL", SOPInstanceUID=f"{STUDY_UID}.1.7")
    study = load_study([lateral, frontal])
    released = clean.released(study)
    assert released.files[released.read].data == clean.file(study.files[study.read].data)
    assert released.sop_instance_uid == clean.uid(study.sop_instance_uid)


def test_of_several_equal_images_all_leave(clean: Deidentifier) -> None:
    images = [named(SOPInstanceUID=f"{STUDY_UID}.1.{n}", InstanceNumber=str(n)) for n in range(6)]
    for first in range(5):
        released = clean.released(load_study(images[first:]))
        assert len(released.files) == 6 - first
        assert any(f"has {6 - first} frontal images" in each for each in released.warnings)


def test_an_image_that_only_its_description_tells_from_the_frontal_one_stays(clean: Deidentifier) -> None:
    bones = [
        named(SOPInstanceUID=f"{STUDY_UID}.1.{n}", SeriesDescription="CHEST PA BONE", InstanceNumber=str(n))
        for n in range(2, 8)
    ]
    released = clean.released(load_study([named(), *bones]))
    assert released.files[released.read].data == clean.file(named())


def test_a_scanned_film_does_not_leave(clean: Deidentifier) -> None:
    film = named(SOPClassUID="1.2.840.10008.5.1.4.1.1.7", Modality="OT", ConversionType="DF")
    with pytest.raises(NotChestRadiograph, match="no frontal radiograph"):
        clean.released(load_study([film, named(ViewPosition="LL", SOPInstanceUID=f"{STUDY_UID}.1.7")]))


@pytest.mark.parametrize(
    ("keyword", "value", "kept"),
    [
        ("KVP", "120", 120),
        ("KVP", "19600412", None),
        ("XRayTubeCurrentInuA", "320000.123456", 320000),
        ("ExposureTime", "12.5", None),
        ("InstanceNumber", "4471902", None),
        ("Grid", "FOCUSED", "FOCUSED"),
        ("Grid", "DOE JANE", None),
        ("ImageType", ["ORIGINAL", "PRIMARY", SECRET], ["ORIGINAL", "PRIMARY"]),
        ("PatientOrientation", ["L", "F"], ["L", "F"]),
        ("BodyPartExamined", SECRET, "CHEST"),  # by the description
        ("StudyTime", "101112.5", "101112.5"),
        ("StudyTime", "101112 DOE", ""),
        ("StudyDate", "20260304DOE", ""),
        ("StudyDate", "20261304", ""),
        ("PatientSex", "DOE", ""),
        ("PatientWeight", "612345", None),
    ],
)
def test_a_value_outside_its_grammar_goes(clean: Deidentifier, keyword: str, value: Any, kept: Any) -> None:
    assert header(clean, named(**{keyword: value})).get(keyword) == kept


def test_uids_that_are_none_are_replaced_even_where_uids_stay(clean: Deidentifier) -> None:
    keeping = with_options(clean, Options(uids=Uids.KEEP))
    found = header(keeping, named(StudyInstanceUID="DOE^JANE", SeriesInstanceUID=None))
    assert found.StudyInstanceUID.startswith("2.25.")
    assert found.SeriesInstanceUID.startswith("2.25.")
    assert header(clean, named(SeriesInstanceUID=None)).SeriesInstanceUID != found.StudyInstanceUID


def test_an_object_of_a_private_class_is_refused_with_words(clean: Deidentifier) -> None:
    with pytest.raises(UnreadableDicom, match="SOP class"):
        clean.file(named(SOPClassUID="1.3.12.2.1107.5.9.1"))


def lut(entries: list[int], first: int = 0) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries) % 65536, first, 16])
    item.add_new("LUTData", "OW", np.array(entries, "<u2").tobytes())
    item.LUTExplanation = SECRET
    return item


@pytest.mark.parametrize("signed", [False, True])
def test_a_tone_curve_is_written_anew_and_shows_the_same(clean: Deidentifier, signed: bool) -> None:
    samples = chest() if not signed else (chest().astype(np.int16) - 2048).astype(np.int16)
    curve = lut([round(65535 * (n / 4095) ** 0.5) for n in range(4096)], 63488 if signed else 0)
    data = dicom(samples, BitsStored=12, VOILUTSequence=[curve])
    made = clean.file(data)
    assert made is not None
    before, after = load_study([data]).frontal, load_study([made]).frontal
    np.testing.assert_array_equal(before.pixels, after.pixels)
    assert before.display == after.display
    assert SECRET.encode() not in made


def test_a_table_that_is_no_tone_curve_is_removed_and_told(clean: Deidentifier) -> None:
    data = dicom(chest(), BitsStored=12, VOILUTSequence=[lut([60000 * (n % 2) for n in range(4096)])])
    released = clean.released(load_study([data]))
    assert "VOILUTSequence" not in header(clean, data)
    assert any("no tone curve" in each for each in released.warnings)


def test_an_image_of_several_frames_stays(clean: Deidentifier) -> None:
    frames = dicom(np.concatenate([chest(), chest()]), Rows=96, NumberOfFrames=2, SOPInstanceUID=f"{STUDY_UID}.9")
    released = clean.released(load_study([named(), frames]))
    assert len(released.files) == 1
    assert any(each.startswith("1 of 2 files") for each in released.warnings)


class TestBlankedRegions:
    RULE = Blanking((Rectangle(0, 0, 40, 10), Rectangle(-30, -8, 30, 8)), model="DRX-1", station="ROOM1")
    MACHINE: ClassVar[dict[str, Any]] = {"ManufacturerModelName": "drx-1", "StationName": "ROOM1"}

    @pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
    def test_they_are_black_in_all_that_is_made(self, clean: Deidentifier, photometric: str) -> None:
        data = dicom(chest(), BitsStored=12, PhotometricInterpretation=photometric, **self.MACHINE)
        released = with_options(clean, Options(blank=(self.RULE,))).released(load_study([data]))
        before, after = load_study([data]).frontal, released.frontal
        inside = np.zeros(before.stored.shape, bool)
        inside[:10, :40] = inside[-8:, -30:] = True
        assert not after.shown[inside].any()
        np.testing.assert_array_equal(after.stored[~inside], before.stored[~inside])
        assert any(each.startswith("2 regions") for each in released.warnings)

    @pytest.mark.parametrize("other", [{"StationName": "ROOM2"}, {"ManufacturerModelName": "X"}])
    def test_another_machine_s_image_is_left(self, clean: Deidentifier, other: dict[str, Any]) -> None:
        data = dicom(chest(), BitsStored=12, **{**self.MACHINE, **other})
        released = with_options(clean, Options(blank=(self.RULE,))).released(load_study([data]))
        np.testing.assert_array_equal(released.frontal.stored, chest())

    def test_a_rectangle_beyond_the_image_blanks_what_it_covers(self) -> None:
        assert Rectangle(-500, 90, 600, 50).of(96, 112) == (slice(90, 140), slice(0, 212))


def test_a_date_that_is_none_is_emptied(clean: Deidentifier) -> None:
    assert header(clean, dicom(StudyDate="")).StudyDate == ""


class TestSealed:
    def sealed(self, clean: Deidentifier) -> Deidentifier:
        return with_options(clean, Options(identity=Identity.SEALED))

    def test_the_manifest_names_the_patient_and_the_files_do_not(self, clean: Deidentifier) -> None:
        sealed, study = self.sealed(clean), load_study([named()])
        released = sealed.released(study)
        identity = sealed.identity(released)
        assert SECRET.encode() not in released.files[0].data
        assert (identity["PatientName"], identity["StudyDate"]) == (f"{SECRET}^JANE", "20260304")
        assert identity["StudyInstanceUID"] == clean.uid(STUDY_UID)
        assert released.identity["PatientID"].startswith("TW")

    def test_of_two_files_it_is_the_one_that_is_read(self, clean: Deidentifier) -> None:
        lateral = named(ViewPosition="LL", SOPInstanceUID=f"{STUDY_UID}.1.7", PatientName="OTHER")
        sealed = self.sealed(clean)
        assert sealed.identity(sealed.released(load_study([lateral, named()])))["PatientName"] == f"{SECRET}^JANE"

    def test_names_are_readable_in_any_script(self, clean: Deidentifier) -> None:
        sealed = self.sealed(clean)
        data = dicom(chest(), SpecificCharacterSet="ISO_IR 192", PatientName="山田^太郎")
        assert sealed.identity(sealed.released(load_study([data])))["PatientName"] == "山田^太郎"

    def test_a_study_keeps_the_word_under_which_it_was_accepted(self, clean: Deidentifier) -> None:
        sealed, study = self.sealed(clean), load_study([named()])
        for accepting, naming in ((clean, sealed), (sealed, clean)):
            released = accepting.released(study)
            assert naming.identity(released)["PatientID"].startswith("TW")

    @pytest.mark.parametrize(("word", "said"), [(Identity.NONE, None), (Identity.SEALED, f"{SECRET}-1")])
    def test_the_manifest_of_a_study_that_was_accepted_as_full_follows_the_setting(
        self, clean: Deidentifier, word: Identity, said: str | None
    ) -> None:
        found = with_options(clean, Options(identity=word)).identity(load_study([named()]))
        assert found.get("PatientID") == said

    @pytest.mark.parametrize("damaged", [b"no archive", None])
    def test_without_the_original_it_is_the_pseudonym(
        self, clean: Deidentifier, damaged: bytes | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        sealed = self.sealed(clean)
        released = sealed.released(load_study([named()]))
        (path,) = clean.identified.iterdir()
        path.unlink() if damaged is None else path.write_bytes(damaged)
        assert sealed.identity(released) == released.identity
        assert "under its pseudonym" in caplog.text
        assert SECRET not in caplog.text


class TestOfAWholeClinic:
    @pytest.fixture
    def clinic(self, tmp_path: Path) -> Clinic:
        found = Clinic(tmp_path)
        options = Options()
        found.pipeline.deidentifier = Deidentifier(b"k" * KEY_BYTES, options, found.data / "originals", found.disk)
        return found

    def taken(self, clinic: Clinic, folder: Path, files: list[bytes], words: StudyText | None = None) -> object:
        folder.mkdir()
        for number, data in enumerate(files):
            (folder / f"{number}.dcm").write_bytes(data)
        (outcome,) = accept_files(clinic.pipeline, clinic.quarantine, [folder], words)
        return outcome

    def test_what_is_sealed_for_the_link_names_nobody_and_the_original_stays(
        self, clinic: Clinic, tmp_path: Path
    ) -> None:
        words = StudyText(f"{SECRET} has a left effusion.", TextSource.REPORT)
        outcome = self.taken(clinic, tmp_path / "in", [named()], words)
        assert isinstance(outcome, Accepted)
        study, outbox = outcome.study.key, clinic.outbox
        assert clinic.pipeline.open(study).study.text == words.text
        assert outbox.plaintext(study, Kind.ORIGINALS) is None
        for kind in (Kind.PREVIEW, Kind.ORIGINALS, Kind.GRAPH, Kind.CROPS, Kind.MANIFEST):
            clinic.pipeline.make(study, kind)
        plaintexts = {kind: outbox.plaintext(study, kind) or b"" for kind in Kind if outbox.path(study, kind)}
        assert len(plaintexts) == 5
        assert not any(SECRET.encode() in each for each in plaintexts.values())
        (file,) = unpack(plaintexts[Kind.ORIGINALS], 1 << 26)
        manifest_bytes = plaintexts[Kind.MANIFEST]
        manifest = read_manifest(manifest_bytes, SITE_SIGNING.public_key())
        # Bit-exact is the file as it was released: the manifest names its digest, and the study's id follows from it.
        assert manifest.files == ((digest(file.data), len(file.data)),)
        assert study == study_key([hashlib.sha256(file.data).digest()])  # type: ignore[list-item]
        assert SECRET not in str(manifest.identity)
        assert manifest.identity["PatientID"].startswith("TW")
        (original,) = unpack((clinic.data / "originals" / f"{study.hex()}.archive").read_bytes(), 1 << 26)
        assert original.data == named()

    def test_a_repeat_is_known(self, clinic: Clinic, tmp_path: Path) -> None:
        for folder in ("first", "second"):
            assert isinstance(self.taken(clinic, tmp_path / folder, [named()]), Accepted)
        assert len(clinic.outbox.entries()) == 1

    def test_a_report_in_dicom_guides_the_graph_and_stays(self, clinic: Clinic, tmp_path: Path) -> None:
        report = as_file(dataset(BASIC_TEXT_SR, f"{STUDY_UID}.2.1", Modality="SR", PatientID=SECRET))
        outcome = self.taken(clinic, tmp_path / "in", [named(StudyInstanceUID=STUDY_UID), report])
        assert isinstance(outcome, Accepted)
        assert len(outcome.study.files) == 1
        assert any(each.startswith("1 of 2 files") and "stay at the clinic" in each for each in outcome.study.warnings)
        assert clinic.pipeline.open(outcome.study.key).study.text == f"fever, {SECRET}"

    def test_a_picture_without_a_header_is_refused(self, clinic: Clinic, tmp_path: Path) -> None:
        picture = BytesIO()
        Image.fromarray(chest(300, 300, bits=8)).save(picture, "PNG")
        outcome = self.taken(clinic, tmp_path / "in", [picture.getvalue()])
        assert isinstance(outcome, RefusedStudy)
        assert "only de-identified studies" in str(outcome.error)


def test_the_key_is_made_once_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    disk = Disk(reserve=0)
    first = load_key(tmp_path / "keys", disk, lambda n: b"a" * n)
    assert load_key(tmp_path / "keys", disk, lambda n: b"b" * n) == first
    assert (tmp_path / "keys" / "deidentify.key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "keys" / "deidentify.key").write_bytes(b"short")
    with pytest.raises(BadConfiguration):
        load_key(tmp_path / "keys", disk, lambda n: b"c" * n)


def test_a_header_that_says_so_and_drawn_text_become_warnings(clean: Deidentifier) -> None:
    said = clean.released(load_study([dicom(chest(200, 200), BurnedInAnnotation="YES")]))
    assert "text is burned into the image by its header" in said.warnings[-1]
    drawn = Image.fromarray(chest(400, 400, bits=8))
    ImageDraw.Draw(drawn).text((150, 200), "DOE JANE 1960", fill=255, font=ImageFont.load_default(18))
    seen = clean.released(load_study([dicom(np.asarray(drawn), BurnedInAnnotation="NO")]))
    assert "seems to be burned into" in seen.warnings[-1]


@pytest.mark.real_data
@pytest.mark.skipif(not (REAL_DATA / "dicom").exists(), reason="../shared/data/dicom is not here")
def test_real_files_keep_their_pixels(clean: Deidentifier) -> None:
    for name in ("CR_mono1_10bit_chest.dcm", "DX_proscan_16bit.dcm"):
        before = load_study([REAL_DATA / "dicom" / name])
        after = clean.released(before)
        np.testing.assert_array_equal(load_study([after.files[0].data]).frontal.pixels, before.frontal.pixels)
        assert clean.released(before).key == after.key
