"""Writes docs/commands.md, the command reference, from both command lines.

make commands       or: python docs/commands.py
"""

import re
from collections.abc import Iterator
from pathlib import Path

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from thinwire.receiver.cli.main import app as receiver
from thinwire.sender.cli import app as sender

PAGE = Path(__file__).parent / "commands.md"
HEAD = """# Command reference

`make commands` writes this page from the command lines; `--help` shows the same text. Exit codes:
[developer](developer.md#exit-codes)."""


def programs() -> dict[str, TyperGroup]:
    """Both command lines by the names of their programs."""
    groups = {"thinwire-sender": typer.main.get_group(sender), "thinwire-receiver": typer.main.get_group(receiver)}
    return groups


def reference() -> str:
    """The text of docs/commands.md."""
    parts = [HEAD]
    for name, program in programs().items():
        parts += [f"## {name}", _plain(program.help or "")]
        for path, command in commands(program, name):
            parts += [f"### {path}", _plain(command.help or ""), _parameters(command), _plain(command.epilog or "")]
    return "\n\n".join(part for part in parts if part) + "\n"


def commands(group: TyperGroup, path: str) -> Iterator[tuple[str, TyperCommand]]:
    """The commands below a group with the words that call them, in the order in which `--help` lists them."""
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if isinstance(command, TyperGroup):
            yield from commands(command, f"{path} {name}")
        elif isinstance(command, TyperCommand):
            yield f"{path} {name}", command


def _parameters(command: TyperCommand) -> str:
    rows = []
    for parameter in command.params:
        value = parameter.metavar or (parameter.name or "").strip("_").replace("_", "-").upper()
        if isinstance(parameter, TyperArgument):
            name = value
        elif isinstance(parameter, TyperOption) and not parameter.hidden:
            name = ", ".join(parameter.opts) + ("" if parameter.is_flag else f" {value}")
        else:
            continue
        default, words = parameter.default, parameter.help or ""
        if parameter.required:
            words += " Required."
        elif default is not None and default is not False and default != "" and not _of_this_machine(default):
            words += f" Default: {getattr(default, 'value', default)}."
        rows.append(f"| `{name}` | {_plain(words)} |")
    return "\n".join(["| parameter | meaning |", "| --- | --- |", *rows]) if rows else ""


def _of_this_machine(default: object) -> bool:
    """Whether a default differs from machine to machine: a computed one, or an absolute path."""
    return callable(default) or Path(str(default)).is_absolute()


def _plain(text: str) -> str:
    """Without the line breaks of the source inside a paragraph; bars would end a table's cell."""
    paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip()))
    return "\n\n".join(paragraphs).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
