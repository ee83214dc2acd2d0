"""Valid bytes with something amiss."""

from hypothesis import strategies as st


def turned(data: bytes, at: int) -> bytes:
    """`data` with one bit of the byte `at` turned; a fixed byte would now and then be the one that stands there."""
    at %= len(data)
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@st.composite
def damaged(draw: st.DrawFn, valid: bytes, until: int | None = None) -> bytes:
    """`valid` with one to four places before `until` changed, cut out, repeated, filled, or cut off."""
    data = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, min(len(data), until or len(data))))
        end = min(len(data), start + draw(st.integers(0, 40)))
        match draw(st.sampled_from(["flip", "set", "cut", "repeat", "fill", "end"])):
            case "flip" if start < len(data):
                data[start] ^= 1 << draw(st.integers(0, 7))
            case "set" if start < len(data):
                data[start] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFE, 0xFF]))
            case "cut":
                del data[start:end]
            case "repeat":
                data[start:start] = data[start:end]
            case "fill":
                data[start:end] = draw(st.binary(max_size=40))
            case "end":
                del data[start:]
    return bytes(data)
