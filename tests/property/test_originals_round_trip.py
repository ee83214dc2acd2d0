"""Any bytes come back from an archive; an archive with anything amiss is refused, within its limit of bytes."""

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.damage import damaged
from tests.support.dicoms import BIG, IMPLICIT, JPEG, chest, dicom
from thinwire.shared.errors import BadArchive
from thinwire.shared.formats.originals import Effort, Member, pack, unpack

EXAMPLES = settings(max_examples=150, deadline=None, derandomize=True, database=None)
NAMES = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,10}\.[a-z]{1,4}", fullmatch=True)
FILES = (
    dicom(chest(bits=8), IMPLICIT),
    dicom(chest(bits=12).astype("i2"), BIG, BitsStored=12),
    dicom(chest(bits=8), JPEG, BitsStored=8),
)
LIMIT = 1 << 20


@given(st.lists(st.tuples(NAMES, st.binary(max_size=3000)), max_size=5, unique_by=lambda each: each[0]))
@EXAMPLES
def test_any_members_come_back(named: list[tuple[str, bytes]]) -> None:
    members = [Member(name, data) for name, data in named]
    efforts: tuple[Effort, ...] = ("fast", "quick", "small")
    for effort in efforts:
        assert unpack(pack(members, effort), LIMIT) == members


@given(data=st.data())
@EXAMPLES
def test_damaged_files_come_back(data: st.DataObject) -> None:
    file = data.draw(damaged(data.draw(st.sampled_from(FILES))))
    assert unpack(pack([Member("0000.dcm", file)], "small"), LIMIT)[0].data == file


PACKED = [pack([Member("0000.dcm", file), Member("text.txt", b"cough")], "small") for file in FILES]


@given(data=st.data())
@EXAMPLES
def test_a_damaged_archive_is_refused(data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from(PACKED))
    broken = data.draw(damaged(whole))
    with contextlib.suppress(BadArchive):
        restored = unpack(broken, LIMIT)
        # An archive that still unpacks holds its digests: no member's content was changed.
        assert [member.data for member in restored] == [member.data for member in unpack(whole, LIMIT)]


@given(st.binary(max_size=300))
@EXAMPLES
def test_any_bytes_are_refused(data: bytes) -> None:
    for archive in (data, b"TWPX\x01" + data):
        with contextlib.suppress(BadArchive):
            unpack(archive, LIMIT)
