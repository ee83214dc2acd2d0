"""The commands about bundles: what one is, was made from, and was measured to do."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from thinwire.receiver.access.audit_message import Act
from thinwire.receiver.archive import predictions_of
from thinwire.receiver.cli.acts import act_of, audited
from thinwire.receiver.cli.options import Data, Json, stdout, write_json
from thinwire.receiver.cli.progress import meter
from thinwire.receiver.hub import open_hub
from thinwire.receiver.inference.bundles import Bundles
from thinwire.receiver.training.card import write_measured
from thinwire.shared.clock import SystemClock
from thinwire.shared.errors import BadBundle
from thinwire.shared.formats.bundle import CARD, Bundle, default_bundle_folder, load_bundle
from thinwire.shared.formats.coder import load_coder
from thinwire.shared.identifiers import BundleId

bundle_app = typer.Typer(help="Bundles: the model files that clinics and hub share.", no_args_is_help=True)


@bundle_app.command(epilog="Example: `thinwire-receiver bundle show`")
def show(
    folder: Annotated[
        Path | None, typer.Argument(help="The bundle; the one that comes with thinwire by default.")
    ] = None,
    json_: Json = False,
) -> None:
    """Print the model card and the figures of a bundle, after a check of every file against its digest."""
    bundle = load_bundle(folder or default_bundle_folder())
    card = (bundle.folder / CARD).read_text(encoding="utf-8")
    if json_:
        write_json(_as_json(bundle, card))
        return
    out = stdout()
    out.print(Markdown(card))
    out.print(f"bundle {bundle.id.hex()}")
    table = Table("figure", "value", box=box.SIMPLE_HEAD)
    for name, value in figures(bundle.figures):
        table.add_row(name, value)
    out.print(table)


@bundle_app.command(epilog="Example: `thinwire-receiver bundle add my-bundle --data hub`")
def add(
    folder: Annotated[Path, typer.Argument(help="The bundle to copy into the hub.", file_okay=False)],
    data: Data,
    default: Annotated[bool, typer.Option("--default", help="Make it the hub's default too.")] = False,
) -> None:
    """Add a bundle, so that the hub predicts studies made with it. A running `serve` uses it at once.

    The bundle is loaded and checked first, and added completely or not at all. The command is idempotent.
    """
    from thinwire.receiver.inference.mpnn import load_predictor

    bundle = load_bundle(folder)
    load_coder(bundle)
    load_predictor(bundle)
    chosen = "as default" if default else ""
    with (
        open_hub(data, SystemClock()) as hub,
        audited(hub, act_of(hub, Act.BUNDLE_ADDED, bundle.id.hex(), detail=chosen)),
    ):
        id = hub.bundles.add(folder, hub.disk)
        if default:
            hub.bundles.choose(id, hub.disk)
        hub.store.parked.retry()  # graphs that named it
    typer.echo(f"The hub has bundle {id.hex()[:8]}" + (", its default." if default else "."), err=True)


@bundle_app.command(name="list", epilog="Example: `thinwire-receiver bundle list --data hub`")
def list_(data: Data, json_: Json = False) -> None:
    """List the bundles of the hub."""
    with open_hub(data, SystemClock()) as hub:
        bundles, default = hub.bundles, hub.bundles.default()
        rows = [{"id": id.hex(), "name": _name(bundles, id), "default": id == default} for id in bundles.ids()]
    if json_:
        write_json(rows)
        return
    for row in rows:
        typer.echo(f"{row['id']} {row['name'] or 'damaged'}" + (" (default)" if row["default"] else ""))


@bundle_app.command(epilog="Example: `thinwire-receiver bundle default 5c1e --data hub`")
def default(
    bundle: Annotated[str, typer.Argument(help="The bundle's id, or its first hex digits.")],
    data: Data,
    archive: Annotated[
        bool,
        typer.Option("--archive", help="Show what predict-archive predicted with it, for studies that nobody opened."),
    ] = False,
) -> None:
    """Choose the hub's default bundle. It predicts and drafts from now on every new graph that it can read; a graph of
    another encoder is read by the bundle that made it. A running `serve` uses it at once.

    With --archive its stored predictions become those of the worklist too, for studies that nobody has opened or
    reported on. The earlier predictions stay in the history. The clinics get a receipt for each change. The command
    can be repeated and goes on where it was.
    """
    with open_hub(data, SystemClock()) as hub:
        id = hub.bundles.find(bundle)
        hub.bundles.bundle(id)
        with audited(hub, act_of(hub, Act.BUNDLE_CHOSEN, id.hex())):
            hub.bundles.choose(id, hub.disk)
        typer.echo(f"Bundle {id.hex()[:8]} is the hub's default.", err=True)
        if archive:
            store = predictions_of(hub)
            with (
                audited(hub, act_of(hub, Act.ARCHIVE_SHOWN, id.hex())),
                meter(Console(stderr=True)) as progress,
            ):
                count, total = 0, sum(store.graphs_by_bundle().values())
                for passed, changed in store.show_all(id):
                    count += changed
                    progress("worklist", passed, max(passed, total), f"{count:,} changed")
            typer.echo(f"{count:,} unread studies show its prediction now.", err=True)


@bundle_app.command(epilog="Example: `thinwire-receiver bundle card my-bundle --evaluation figures/evaluation.json`")
def card(
    folder: Annotated[Path, typer.Argument(help="The bundle whose card is rewritten.")],
    evaluation: Annotated[list[Path], typer.Option(help="A result of evaluate for this bundle; repeatable.")],
) -> None:
    """Write the headline figures of evaluations into a bundle's card and index. The bundle's id does not change."""
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


def _name(bundles: Bundles, id: BundleId) -> str | None:
    """None for a bundle that is damaged."""
    try:
        return bundles.bundle(id).spec.name
    except BadBundle:
        return None


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
