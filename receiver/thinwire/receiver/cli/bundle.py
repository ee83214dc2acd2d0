"""The commands about bundles: what one is, was made from, and was measured to do."""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from thinwire.shared.formats.bundle import CARD, Bundle, default_bundle_folder, load_bundle

bundle_app = typer.Typer(help="Bundles: the model files that clinics and hub share.", no_args_is_help=True)


@bundle_app.command(epilog="Example: `thinwire-receiver bundle show`")
def show(
    folder: Annotated[
        Path | None, typer.Argument(help="The bundle; the one that comes with thinwire if not given.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Write JSON to stdout.")] = False,
) -> None:
    """The model card of a bundle, then the figures of its index. Every file is checked against its digest first."""
    bundle = load_bundle(folder or default_bundle_folder())
    card = (bundle.folder / CARD).read_text(encoding="utf-8")
    if json_:
        typer.echo(json.dumps(_as_json(bundle, card), indent=1, ensure_ascii=False))
        return
    out = Console(width=None if sys.stdout.isatty() else 100, highlight=False)
    out.print(Markdown(card))
    out.print(f"bundle {bundle.id.hex()}")
    table = Table("figure", "value", box=box.SIMPLE_HEAD)
    for name, value in figures(bundle.figures):
        table.add_row(name, value)
    out.print(table)


@bundle_app.command(epilog="Example: `thinwire-receiver bundle card my-bundle --evaluation figures/evaluation.json`")
def card(
    folder: Annotated[Path, typer.Argument(help="The bundle whose card is written anew.")],
    evaluation: Annotated[list[Path], typer.Option(help="What evaluate wrote for this very bundle; several times.")],
) -> None:
    """Write the headline figures of evaluations into a bundle's card and index. The bundle's id does not change."""
    from thinwire.receiver.training.card import write_measured

    write_measured(folder, evaluation)
    typer.echo(folder / CARD)


def figures(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """(name, value) of every figure, a nested one as `auc / nodule`, in the order of the names."""
    for name, value in sorted(tree.items()):
        if isinstance(value, Mapping):
            yield from figures(value, f"{above}{name} / ")
        elif isinstance(value, list):
            yield above + name, f"{len(value)} rows, in the card"
        else:
            yield above + name, f"{value:.4g}" if isinstance(value, float) else str(value)


def _as_json(bundle: Bundle, card: str) -> dict[str, Any]:
    spec = bundle.spec
    return {
        "id": bundle.id.hex(),
        "name": spec.name,
        "preset": spec.preset,
        "working_size": spec.working_size,
        "feature_size": spec.feature_size,
        "keep_percent": spec.keep_percent,
        "findings": list(spec.findings),
        "figures": dict(bundle.figures),
        "card": card,
    }
