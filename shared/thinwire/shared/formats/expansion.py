"""The limit of what compressed bytes may become, for every codec and container: checked before the result is made."""

ALWAYS = 64 << 20
"""Bytes that any input may expand to: a blank radiograph of the largest detectors in use has 40 MB."""
RATIO = 200
"""Bytes from one compressed byte beyond that. A radiograph has 2 to 50; deflate reaches 1,032, zstd tens of thousands.
"""


def most_plain(packed: int) -> int:
    """Bytes to which this number of compressed bytes may expand."""
    return max(ALWAYS, RATIO * packed)
