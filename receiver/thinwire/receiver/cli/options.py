"""Options of several commands, and output to the terminal."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from textwrap import indent
from typing import Annotated, Any

import typer
from rich.console import Console

from thinwire.shared.errors import BadInput
from thinwire.shared.identifiers import SiteName, site_name

Data = Annotated[Path, typer.Option("--data", help="The hub's data folder.", file_okay=False, show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Write JSON to stdout.")]
Site = Annotated[str | None, typer.Option("--site", help="Only this clinic, where two sent the same files.")]
Study = Annotated[str, typer.Argument(help="Study key or its first digits, as on the worklist.")]


def stdout(width: int = 100) -> Console:
    """width: where standard output is no terminal."""
    return Console(width=None if sys.stdout.isatty() else width, highlight=False)


def write_json_list(values: Iterable[Any]) -> None:
    """As `write_json` with a list, of which one value is in memory at a time."""
    between = "["
    for value in values:
        typer.echo(between + "\n" + indent(json.dumps(value, indent=1, ensure_ascii=False), " "), nl=False)
        between = ","
    typer.echo("[]" if between == "[" else "\n]")


def write_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))


def named_site(text: str) -> SiteName:
    """Raises BadInput for text that is no site's name."""
    try:
        return site_name(text)
    except ValueError as error:
        raise BadInput(str(error), "Name the clinic so, for example north-valley.") from error
