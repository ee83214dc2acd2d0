"""Every command that a document, a remedy or a help text names exists, with the options that stand beside it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from thinwire.receiver.cli.main import app as receiver
from thinwire.sender.cli import app as sender

ROOT = Path(__file__).parents[2]
PROGRAMS = {"thinwire-sender": typer.main.get_command(sender), "thinwire-receiver": typer.main.get_command(receiver)}
SOURCES = sorted(
    path
    for pattern in (
        "*.md",
        "docs/*.md",
        "shared/thinwire/**/*.py",
        "sender/thinwire/**/*.py",
        "receiver/thinwire/**/*.py",
    )
    for path in ROOT.glob(pattern)
)
NAMED = re.compile(r"(thinwire-(?:sender|receiver)) ([^`\"'\n|]*)")


def named(text: str) -> Iterator[tuple[str, list[str]]]:
    """(program, the words after it) of each command in a text; a command ends where its sentence or code does."""
    for program, rest in NAMED.findall(text):
        command = re.split(r"\s{2,}|[.;:)] |[.;:)]$| · | #", rest)[0]
        words = [word.strip(",.;:()") for word in command.split()]
        if words and re.fullmatch(r"[a-z][a-z-]*", words[0]):
            yield program, words


def fault(program: str, words: list[str]) -> str | None:
    """Why a command line cannot be; None where it can."""
    at: Any = PROGRAMS[program]
    words = list(words)
    while hasattr(at, "commands"):
        if not words:
            return None  # the group as a whole
        if words[0] not in at.commands:
            return f"{program} has no command {' '.join(words[:2])}"
        at = at.commands[words.pop(0)]
    known = {name for parameter in at.params for name in parameter.opts} | {"--help"}
    unknown = [word for word in words if word.startswith("--") and word.split("=")[0] not in known]
    return f"{at.name} has no {unknown[0]}" if unknown else None


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_that_is_named_exists(path: Path) -> None:
    faults = [found for each in named(path.read_text(encoding="utf-8")) if (found := fault(*each)) is not None]
    assert faults == []


def test_a_command_that_is_none_is_found() -> None:
    text = (
        "Repeat `thinwire-sender retry 3f --data d`, or `thinwire-receiver bundle drop x`; thinwire-sender run --fast."
    )
    assert [fault(*each) for each in named(text)] == [
        None,
        "thinwire-receiver has no command drop x",
        "run has no --fast",
    ]
