"""Names and words in the character sets that devices state, and in those that they use."""

import pytest

from tests.support.dicoms import BIG, EXPLICIT, IMPLICIT, as_file, dataset, named
from tests.support.radiographs import item
from thinwire.shared.imaging.dicom import read_instance

NAME = "SYNTHETIC^ONE"
PLACE = NAME.encode()


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
@pytest.mark.parametrize(
    ("charset", "bytes_as", "name", "told"),
    [
        ("ISO_IR 100", "latin-1", "Müller^José", ""),
        ("ISO_IR 192", "utf-8", "Müller^José", ""),
        ("ISO_IR 144", "iso8859-5", "ИВАНОВ^ПЕТР", ""),
        ("ISO_IR 101", "iso8859-2", "Łukasz^Żak", ""),
        ("ISO_IR 166", "tis-620", "สมชาย^ใจดี", ""),
        ("GB18030", "gb18030", "张三^李四", ""),
        (None, "ascii", "MULLER^JOSE", ""),
        ("SOMETHING", "ascii", "MULLER^JOSE", ""),
        (None, "utf-8", "Müller^José", "UTF-8"),
        ("ISO_IR 100", "utf-8", "Müller^José", "UTF-8"),
        ("ISO_IR 6", "utf-8", "Иванов^Пётр", "UTF-8"),
        ("ISO_IR 144", "utf-8", "Иванов^Пётр", "UTF-8"),
        ("ISO_IR 166", "utf-8", "สมชาย^ใจดี", "UTF-8"),
        ("\\ISO 2022 IR 87", "utf-8", "山田^太郎", "UTF-8"),
        (None, "latin-1", "Müller^José", "no character set"),
        ("ISO_IR 192", "latin-1", "Müller^José", "not in the stated character set"),
        ("ISO-8859-1", "latin-1", "Müller^José", "not a defined term"),
        ("ISO-8859-1", "utf-8", "Müller^José", "UTF-8"),
        ("UTF-8", "utf-8", "Müller^José", "not a defined term"),
        ("utf8", "utf-8", "Müller^José", "not a defined term"),
        ("ISO IR 100", "latin-1", "Müller^José", "not a defined term"),
        ("ISO_IR_100", "latin-1", "Müller^José", "not a defined term"),
        ("ISO_IR192", "utf-8", "Müller^José", "not a defined term"),
        ("Windows-1251", "cp1251", "Иванов^Петр", "not a defined term"),
        ("NONESUCH", "utf-8", "Müller^José", "UTF-8"),
    ],
)
def test_a_name_is_read_as_it_was_written(
    charset: str | None, bytes_as: str, name: str, told: str, syntax: str
) -> None:
    header = read_instance(named(charset, name.encode(bytes_as), syntax)).header
    assert header.text("PatientName") == name
    assert (told in " ".join(header.notes)) if told else not header.notes


@pytest.mark.parametrize(
    ("charset", "written", "name"),
    [  # the standard's own examples (PS3.5 H.3.1, I.2)
        (
            "\\ISO 2022 IR 87",
            b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
            "Yamada^Tarou=山田^太郎=やまだ^たろう",
        ),
        (
            "\\ISO 2022 IR 149",
            b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
            "Hong^Gildong=洪^吉洞=홍^길동",
        ),
    ],
)
def test_code_extensions_are_followed(charset: str, written: bytes, name: str) -> None:
    header = read_instance(named(charset, written)).header
    assert header.text("PatientName") == name
    assert header.notes == ()


def test_code_extensions_that_are_not_stated_are_followed_and_told() -> None:
    header = read_instance(named(None, b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B")).header
    assert header.text("PatientName") == "Yamada^Tarou=山田^太郎"
    assert header.notes == ("the text is in character sets that the file does not state; they were read",)


@pytest.mark.parametrize("name", [b"A^\x1b$B\xff\xff\x1b(B", b"A^\x1b$)C\xfb", b"A^\x1b%Znone\xff"])
def test_code_extensions_that_cannot_be_read_are_told(name: bytes) -> None:
    header = read_instance(named("\\ISO 2022 IR 87", name)).header
    assert any("some letters may be wrong" in each for each in header.notes)


@pytest.mark.parametrize("undefined", [True, False])
def test_items_are_read_as_the_data_set_is(undefined: bool) -> None:
    found = dataset(
        SpecificCharacterSet="ISO_IR 192",
        PatientName="Müller",
        RequestAttributesSequence=[item(ReasonForTheRequestedProcedure="Fièvre")],
    )
    found["RequestAttributesSequence"].is_undefined_length = undefined
    data = as_file(found).replace(b"ISO_IR 192", b"ISO_IR 100")
    header = read_instance(data).header
    assert header.text("PatientName") == "Müller"
    assert header.items("RequestAttributesSequence")[0].text("ReasonForTheRequestedProcedure") == "Fièvre"
