"""The part and the view that a header states, in the languages of the clinics."""

from typing import Any

import pytest
from pydicom.config import disable_value_validation

from tests.support.dicoms import as_file, dataset
from tests.support.radiographs import item
from thinwire.shared.imaging.dicom import read_instance
from thinwire.shared.imaging.header import DicomHeader
from thinwire.shared.imaging.projection import BodyPart, Projection, doubts, part, scanned, view, views_disagree

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def header(**attributes: Any) -> DicomHeader:
    """attributes: see `dataset`; the view and the body part are left out unless they are among them."""
    absent: dict[str, Any] = {"ViewPosition": None, "BodyPartExamined": None, "SpecificCharacterSet": "ISO_IR 192"}
    return read_instance(as_file(dataset(**{**absent, **attributes}))).header


def header_of_bytes(keyword: str, value: bytes, charset: str | None = None) -> DicomHeader:
    """With a value that stands in the file as these bytes."""
    filler = "#" * (len(value) + len(value) % 2)
    with disable_value_validation():
        attributes: dict[str, Any] = {"ViewPosition": None, "SpecificCharacterSet": charset, keyword: filler}
        data = as_file(dataset(**attributes))
    return read_instance(data.replace(filler.encode(), value.ljust(len(filler)))).header


@pytest.mark.parametrize(
    "words",
    [
        *(
            "CHEST",
            "Chest PA",
            "CHEST_PA",
            "PORTCHEST",
            "CHESTABDOMEN",
            "CHEST ABDOMEN",
            "THORAX",
            "LUNG",
            "CXR",
            "TRX",
        ),
        *("TÓRAX", "TORAX", "RX TÓRAX", "PEITO", "PECHO"),
        *("POITRINE", "TORACE", "BRUST", "BRUSTKORB", "Thorax liegend"),
        *(
            "胸部",
            "胸部正位",
            "胸片",
            "胸 部",
            "ОГК",
            "грудная клетка",
            "органов грудной клетки",
            "лёгкие",
            "흉부",
            "가슴",
        ),
        *("صدر", "الصدر", "छाती", "ngực", "klatka piersiowa", "kifua", "GÖĞÜS", "AKCİĞER", "mellkas", "θώρακας"),
        *("THORACIC", "TORÁCICO", "torakal", "грудной"),
    ],
)
def test_words_for_the_chest(words: str) -> None:
    assert part(header_of_bytes("BodyPartExamined", words.encode(), "ISO_IR 192")) is BodyPart.CHEST
    assert part(header(BodyPartExamined=None, SeriesDescription=words)) is BodyPart.CHEST


@pytest.mark.parametrize(
    "words",
    [
        *(
            "THORACIC SPINE",
            "SPINE, THORACIC",
            "T-SPINE",
            "TSPINE",
            "THORSPINE",
            "THORACICSPINE",
            "TLSPINE",
            "THORACOLUMBAR",
            "DORSAL SPINE",
        ),
        *("COLUNA TORACICA", "COLUNA TORÁCICA", "COLUMNA DORSAL", "COL. DORSAL", "RACHIS DORSAL", "colonna dorsale"),
        *(
            "BWS",
            "Brustwirbelsäule",
            "BRUSTWIRBELSAEULE",
            "грудной отдел позвоночника",
            "ГОП",
            "胸椎",
            "胸腰椎",
            "흉추",
        ),
        *("torakal vertebra", "kręgosłup piersiowy", "hrudní páteř", "cột sống", "العمود الفقري"),
        *("SKULL", "ABDOMEN", "PELVIS", "KNEE", "HAND", "FOOT", "LSPINE", "CSPINE", "RIBS", "STERNUM", "SHOULDER"),
        *(
            "RODILLA",
            "MANO",
            "CRANEO",
            "JOELHO",
            "MÃO",
            "GENOU",
            "MAIN",
            "PIED",
            "SCHÄDEL",
            "FUSS",
            "Knie",
            "ginocchio",
        ),
        *(
            "череп",
            "кисть",
            "коленный сустав",
            "таз",
            "腹部",
            "膝関節",
            "骨盆",
            "头颅",
            "무릎",
            "ركبة",
            "جمجمة",
            "घुटना",
        ),
    ],
)
def test_words_for_another_part(words: str) -> None:
    assert part(header_of_bytes("BodyPartExamined", words.encode(), "ISO_IR 192")) is BodyPart.OTHER


@pytest.mark.parametrize(
    "words", ["", "UNKNOWN", "DEFAULT", "OTHER", "ROUTINE", "DE PIE", "Ward 3", "WHOLEBODY", "ÿþ??"]
)
def test_words_that_are_not_known_are_no_other_part(words: str) -> None:
    found = header_of_bytes("BodyPartExamined", words.encode("latin-1"))
    assert part(found) is BodyPart.UNSTATED
    assert "no known body part" in doubts(found)[0]


@pytest.mark.parametrize(
    ("value", "charset", "expected"),
    [
        ("胸部".encode(), "ISO_IR 192", BodyPart.CHEST),
        ("胸部".encode(), None, BodyPart.CHEST),
        ("ОГК".encode("iso8859_5"), "ISO_IR 144", BodyPart.CHEST),
        ("胸部".encode("gb18030"), "GB18030", BodyPart.CHEST),
        ("胸部".encode("iso2022_jp"), "\\ISO 2022 IR 87", BodyPart.CHEST),
        ("TÓRAX".encode("latin-1"), "ISO_IR 100", BodyPart.CHEST),
        ("膝".encode(), "ISO_IR 192", BodyPart.OTHER),
        ("胸部".encode("gb18030"), None, BodyPart.UNSTATED),
        ("ОГК".encode("koi8_r"), "ISO_IR 100", BodyPart.UNSTATED),
    ],
)
def test_a_code_string_in_another_script_is_read_or_unstated(
    value: bytes, charset: str | None, expected: BodyPart
) -> None:
    assert part(header_of_bytes("BodyPartExamined", value, charset)) is expected


@pytest.mark.parametrize(
    ("code", "meaning", "expected"),
    [
        ("51185008", "", BodyPart.CHEST),
        ("122495006", "", BodyPart.OTHER),
        ("T-11502", "", BodyPart.OTHER),
        ("72696002", "", BodyPart.OTHER),
        ("38266002", "Entire body", BodyPart.UNSTATED),
        ("99999", "Thorax", BodyPart.CHEST),
        ("99999", "Rodilla", BodyPart.OTHER),
        ("99999", "", BodyPart.UNSTATED),
    ],
)
def test_the_part_by_code(code: str, meaning: str, expected: BodyPart) -> None:
    region = item(CodeValue=code, CodingSchemeDesignator="SCT", CodeMeaning=meaning)
    assert part(header(AnatomicRegionSequence=[region])) is expected


def test_attributes_come_before_descriptions() -> None:
    assert part(header(BodyPartExamined="HAND", SeriesDescription="Chest PA")) is BodyPart.OTHER
    assert part(header(StudyDescription="Knee")) is BodyPart.UNSTATED
    both = header(BodyPartExamined="CHEST", SeriesDescription="Knee AP", ViewPosition="AP")
    assert part(both) is BodyPart.CHEST
    assert doubts(both) == ["the header names the chest and another body part; the chest is assumed"]
    assert len(doubts(header(BodyPartExamined="CHEST ABDOMEN", ViewPosition="AP"))) == 1


LATERAL = [
    *("LATERAL", "LAT", "LL", "RL", "L LAT", "LATERAL IZQUIERDA", "PERFIL", "SEITLICH", "Thorax seitl.", "LATERALE"),
    *("PROFIL", "profil gauche", "latero-laterale", "OBLIQUE", "OBLICUA", "schräg", "LAO", "DECUBITUS", "боковая"),
    *(
        "левая боковая",
        "侧位",
        "側位",
        "左側位",
        "側面",
        "胸部側面",
        "斜位",
        "جانبي",
        "الجانبي",
        "측면",
        "boczna",
        "yan",
    ),
    *("nghiêng", "पार्श्व", "LEFT LATERAL DECUBITUS AP"),
    *("decúbito lateral", "側臥位", "Rx tórax decúbito lateral AP"),
    *("dorsal decubitus", "supine lateral", "cross-table"),
]
FRONTAL = [
    *(
        ("PA", Projection.PA),
        ("p.a.", Projection.PA),
        ("P-A", Projection.PA),
        ("Postero-anterior", Projection.PA),
        ("後前位", Projection.PA),
    ),
    *(
        ("后前位", Projection.PA),
        ("ChestPA", Projection.PA),
        ("CHEST_PA_1", Projection.PA),
        ("задне-передняя", Projection.PA),
    ),
    *(
        ("прямая передняя", Projection.PA),
        ("PA erect", Projection.PA),
        ("後→前", Projection.PA),
        ("خلفي أمامي", Projection.PA),
    ),
    *(
        ("AP", Projection.AP),
        ("AP_SUPINE", Projection.AP),
        ("antéro-postérieur", Projection.AP),
        ("передне-задняя", Projection.AP),
    ),
    *(
        ("前後", Projection.AP),
        ("supine", Projection.AP),
        ("Bedside", Projection.AP),
        ("Thorax liegend", Projection.AP),
        ("床旁", Projection.AP),
    ),
    *(
        ("decúbito supino", Projection.AP),
        ("DECÚBITO DORSAL", Projection.AP),
        ("décubitus dorsal", Projection.AP),
        ("лёжа", Projection.AP),
    ),
    *(
        ("仰臥位", Projection.AP),
        ("frontal", Projection.FRONTAL),
        ("de frente", Projection.FRONTAL),
        ("Thorax de face", Projection.FRONTAL),
    ),
    *(
        ("正位", Projection.FRONTAL),
        ("正面", Projection.FRONTAL),
        ("прямая", Projection.FRONTAL),
        ("أمامي", Projection.FRONTAL),
    ),
    *(("PA/AP", Projection.FRONTAL), ("정면", Projection.FRONTAL)),
]
NEITHER = [
    *("PA AND LAT", "PA y perfil", "face et profil", "de frente e perfil", "p.a. und seitlich", "прямая и боковая"),
    *(
        "Laterality check",
        "Lateralidad",
        "正侧位",
        "胸部正側位",
        "正面・側面",
        "PALAT",
        "CHEST",
        "CHEST 2 VIEWS",
        "decúbito",
        "PATIENT",
        "SPA",
        "MAP",
        "PLAT",
    ),
]


@pytest.mark.parametrize("keyword", ["ViewPosition", "SeriesDescription", "AcquisitionDeviceProcessingDescription"])
@pytest.mark.parametrize("words", LATERAL)
def test_words_for_another_view(keyword: str, words: str) -> None:
    assert view(header_of_bytes(keyword, words.encode(), "ISO_IR 192")) is Projection.OTHER


@pytest.mark.parametrize("keyword", ["ViewPosition", "SeriesDescription", "ProtocolName"])
@pytest.mark.parametrize(("words", "expected"), FRONTAL)
def test_words_for_a_frontal_view(keyword: str, words: str, expected: Projection) -> None:
    assert view(header_of_bytes(keyword, words.encode(), "ISO_IR 192")) is expected


@pytest.mark.parametrize("words", NEITHER)
def test_words_of_several_views_or_of_none_state_none(words: str) -> None:
    found = header(SeriesDescription=words, BodyPartExamined="CHEST")
    assert view(found) is Projection.UNSTATED
    assert doubts(found) == ["the header does not state the view; a frontal view is assumed"]


@pytest.mark.parametrize(
    ("code", "modifiers", "expected"),
    [
        ("272479007", [], Projection.PA),
        ("R-10214", [], Projection.PA),
        ("399348003", [], Projection.AP),
        ("399033003", [], Projection.FRONTAL),
        ("399067008", [], Projection.OTHER),
        ("399198007", [], Projection.OTHER),
        ("99999", [], Projection.UNSTATED),
        ("99999", [item(CodeValue="111069", CodeMeaning="Cross-table")], Projection.OTHER),
        ("99999", [item(CodeValue="1", CodeMeaning="postero-anterior")], Projection.PA),
    ],
)
def test_the_view_by_code(code: str, modifiers: list[Any], expected: Projection) -> None:
    coded = item(CodeValue=code, CodeMeaning="", ViewModifierCodeSequence=modifiers)
    assert view(header(ViewCodeSequence=[coded])) is expected


def test_a_view_position_comes_before_words_and_a_contradiction_is_told() -> None:
    found = header(ViewPosition="PA", SeriesDescription="Chest lateral", BodyPartExamined="CHEST")
    assert view(found) is Projection.PA
    assert doubts(found) == ["the header names a frontal and another view; a frontal view is assumed"]
    assert view(header(ViewPosition="LL", SeriesDescription="Chest PA")) is Projection.OTHER


def test_descriptions_that_contradict_each_other_state_no_view() -> None:
    found = header(SeriesDescription="Chest PA", AcquisitionDeviceProcessingDescription="W Chest lat.")
    assert view(found) is Projection.UNSTATED
    assert views_disagree(found)


def test_a_study_described_as_frontal_says_nothing_of_its_image() -> None:
    assert view(header(StudyDescription="CHEST PA")) is Projection.UNSTATED
    assert view(header(StudyDescription="CHEST PA AND LAT", SeriesDescription="PA")) is Projection.PA
    assert view(header(StudyDescription="Tórax perfil")) is Projection.OTHER
    assert not views_disagree(header(StudyDescription="CHEST LAT", SeriesDescription="PA"))


def test_a_very_long_description_is_looked_at_in_part() -> None:
    assert view(header_of_bytes("SeriesDescription", b"PA " + b"x" * 60_000)) is Projection.PA


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"Modality": "OT", "ConversionType": "DF"}, True),
        ({"Modality": "SC", "ConversionType": "SD"}, True),
        ({"Modality": None, "ConversionType": "SI"}, True),
        ({"Modality": "OT", "ConversionType": "WSD"}, True),
        ({"Modality": "OT", "ConversionType": "WSD", "ImageType": ["DERIVED", "SECONDARY"]}, False),
        ({"Modality": "OT", "ConversionType": "DF", "ImageType": ["DERIVED", "SECONDARY"]}, True),
        ({"Modality": "OT", "ConversionType": "DRW"}, False),
        ({"Modality": "CT", "ConversionType": "DF"}, False),
    ],
)
def test_a_scanned_film(attributes: dict[str, Any], expected: bool) -> None:
    assert scanned(header(sop_class=SECONDARY_CAPTURE, **attributes)) is expected


def test_a_character_set_that_there_is_not_leaves_a_word_unstated() -> None:
    whole = as_file(dataset(ViewPosition="PA", BodyPartExamined="XXXX", SpecificCharacterSet="ISO_IR 100"))
    data = whole.replace(b"ISO_IR 100", b"NO SUCH IR").replace(b"XXXX", "胸部".encode("gb18030"))
    assert part(read_instance(data).header) is BodyPart.UNSTATED
