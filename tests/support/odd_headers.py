"""Headers as the field has them: character sets, dates and values that the standard does not allow.

Each is a file of the size of a graph's image, with the text that new objects take over from it.
"""

from tests.support.dicoms import chest
from tests.support.dicoms import named as named_file
from tests.support.machine_results import image_file

JAPANESE = b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B"
KOREAN = b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf"
"""The standard's own examples (PS3.5 H.3.1, I.2)."""


def named(charset: str | None, name: bytes) -> bytes:
    return named_file(charset, name, samples=chest(300, 280))


ODD_HEADERS: dict[str, tuple[bytes, dict[str, str]]] = {
    "a date of zeros": (
        image_file(StudyDate="00000000", PatientBirthDate="00000000"),
        {"StudyDate": "", "PatientBirthDate": ""},
    ),
    "a day that no month has": (image_file(StudyDate="20260231"), {"StudyDate": ""}),
    "a word for a date": (
        image_file(PatientBirthDate="UNKNOWN", StudyTime="NONE"),
        {"PatientBirthDate": "", "StudyTime": ""},
    ),
    "a time that no day has": (image_file(StudyTime="996199"), {"StudyTime": ""}),
    "a date with separators": (
        image_file(StudyDate="2026.01.05", StudyTime="10:15:00"),
        {"StudyDate": "20260105", "StudyTime": "101500"},
    ),
    "several dates": (image_file(StudyDate="20260101\\20260102"), {"StudyDate": ""}),
    "a sex that is none": (image_file(PatientSex="female"), {"PatientSex": ""}),
    "a sex in small letters": (image_file(PatientSex="f"), {"PatientSex": "F"}),
    "an age that is none": (image_file(PatientAge="81"), {"PatientAge": "-"}),
    "an accession number that is too long": (image_file(AccessionNumber="A" * 17), {"AccessionNumber": ""}),
    "a control character": (image_file(PatientID="SYN\x07THETIC"), {"PatientID": ""}),
    "Japanese": (named("\\ISO 2022 IR 87", JAPANESE), {"PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう"}),
    "Korean": (named("\\ISO 2022 IR 149", KOREAN), {"PatientName": "Hong^Gildong=洪^吉洞=홍^길동"}),
    "Chinese": (named("GB18030", "张三^李四".encode("gb18030")), {"PatientName": "张三^李四"}),
    "several sets": (
        named("ISO 2022 IR 6\\ISO 2022 IR 100\\ISO 2022 IR 144", b"A^\x1b-A\xfc=\x1b-L\xb8\xd2\xd0\xdd"),
        {"PatientName": "A^ü=Иван"},
    ),
    "an escape that is not stated": (named(None, JAPANESE), {"PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう"}),
    "Latin-1 as ISO-8859-1": (named("ISO-8859-1", "Müller^José".encode("latin-1")), {"PatientName": "Müller^José"}),
    "UTF-8 as UTF-8": (named("UTF-8", "Müller^José".encode()), {"PatientName": "Müller^José"}),
    "UTF-8 that is not stated": (named(None, "Müller^José".encode()), {"PatientName": "Müller^José"}),
    "UTF-8 as Latin-1": (named("ISO_IR 100", "Müller^José".encode()), {"PatientName": "Müller^José"}),
    "Latin-1 as UTF-8": (named("ISO_IR 192", "Müller^José".encode("latin-1")), {"PatientName": "Müller^José"}),
    "Latin-1 that is not stated": (named(None, "Müller^José".encode("latin-1")), {"PatientName": "Müller^José"}),
    "bytes of no set": (named("\\ISO 2022 IR 87", b"A^\x1b$B\xff\xff\x1b(B"), {"PatientName": ""}),
    "no preamble": (image_file(preamble=False, StudyID="7"), {"StudyID": "7"}),
}
