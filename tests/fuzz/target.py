"""A parser of foreign bytes as the fuzzer calls it."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from thinwire.shared.errors import ThinwireError


@dataclass(frozen=True)
class Target:
    """read: takes an input or refuses it with one of `refusals`; any other exception is a finding. seeds: valid inputs.

    Where a signature or a checksum stands before a parser, `read` makes it valid, as a hostile peer would.
    """

    read: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    refusals: tuple[type[Exception], ...] = (ThinwireError,)
    longest: int = 4096
    """Bytes of an input."""
    weight: float = 1.0
    """Share of the inputs of a run, relative to the others; slow parsers get less."""

    def __call__(self, data: bytes) -> None:
        with contextlib.suppress(*self.refusals):
            self.read(data)


def both(
    *readers: Callable[[bytes], object], refusals: tuple[type[Exception], ...] = (ThinwireError,)
) -> Callable[[bytes], None]:
    """All readers in turn: a refusal of one does not keep the input from the next."""

    def read(data: bytes) -> None:
        for reader in readers:
            with contextlib.suppress(*refusals):
                reader(data)

    return read
