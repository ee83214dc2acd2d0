"""The two commands that make and measure bundles. Training is imported only inside them: serving never needs it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from thinwire.receiver.outputs.meter import meter
from thinwire.shared.bundle import default_bundle_folder
from thinwire.shared.errors import BadConfiguration

Manifest = Annotated[
    Path | None, typer.Option(help="CSV of real images with labels, texts and splits (docs/training.md).")
]


def train_command(
    out: Annotated[Path, typer.Option(help="Folder of the new bundle; its work stands beside it in OUT.work.")],
    phantoms: Annotated[int, typer.Option(min=0, help="Synthetic studies to learn from.")] = 4000,
    manifest: Manifest = None,
    preset: Annotated[Literal["nano", "paper"], typer.Option(help="paper needs --swin and --t5.")] = "nano",
    working_size: Annotated[int | None, typer.Option(help="Pixels of the square canvas, a multiple of 32.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data for the report model.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images per step.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed and data give the same course.")] = 0,
    swin: Annotated[Path | None, typer.Option(help="Folder of a SwinModel checkpoint (paper).")] = None,
    t5: Annotated[Path | None, typer.Option(help="Folder of a T5 checkpoint with its tokenizer (paper).")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="The paper's loss alone, without grounding.")] = False,
    keep: Annotated[float, typer.Option(min=0.01, max=100, help="Percent of the cells that are kept.")] = 2.3,
) -> None:
    """Train a bundle from nothing: report model, MPNN, calibration. A run that was stopped goes on where it was."""
    from thinwire.receiver.training.presets import NANO, at_size, paper
    from thinwire.receiver.training.report_model import Weights
    from thinwire.receiver.training.report_stage import Schedule
    from thinwire.receiver.training.train import TrainOptions, train

    chosen = NANO
    if preset == "paper":
        if swin is None or t5 is None:
            raise BadConfiguration(
                "the paper preset starts from checkpoints", "Give --swin and --t5: folders in transformers' format."
            )
        chosen = paper(swin, t5)
    if working_size is not None:
        chosen = at_size(chosen, working_size)
    schedule = Schedule(batch=batch or chosen.batch, learning_rate=chosen.learning_rate, seed=seed)
    if epochs is not None:
        schedule = replace(schedule, epochs=epochs)
    if plain:
        schedule = replace(schedule, weights=Weights(grounding=0, null=0, cell=0))
    options = TrainOptions(
        out=out,
        phantoms=phantoms,
        manifest=manifest,
        preset=chosen,
        schedule=schedule,
        keep_percent=keep,
        seed=seed,
    )
    with meter(Console(stderr=True)) as progress:
        folder = train(options, progress)
    typer.echo(folder)


def evaluate_command(
    out: Annotated[Path, typer.Option(help="Folder for evaluation.json and the pictures.")],
    bundle: Annotated[Path | None, typer.Option(help="The bundle; the default one if not given.")] = None,
    phantoms: Annotated[int, typer.Option(min=0, help="Held-out synthetic studies, none of them trained on.")] = 0,
    manifest: Manifest = None,
    split: Annotated[Literal["test", "val", "train"], typer.Option(help="Which rows of the manifest.")] = "test",
    json_: Annotated[bool, typer.Option("--json", help="Write the whole result as JSON to stdout.")] = False,
) -> None:
    """Measure a bundle on images that it has not seen: AUC with intervals, calibration, boxes touched, bytes."""
    from thinwire.receiver.training.evaluate import evaluate

    with meter(Console(stderr=True)) as progress:
        result = evaluate(bundle or default_bundle_folder(), out, progress, phantoms, manifest, split)
    if json_:
        typer.echo(json.dumps(result, indent=1))
        return
    console = Console(highlight=False)
    for source, figures in result["sources"].items():
        console.print(_table(source, figures))
    typer.echo(f"More, with pictures: {out}", err=True)


def _table(source: str, figures: dict[str, Any]) -> Table:
    """AUC with its interval by finding, for each guide and choice of patches; below it the boxes touched."""
    kept = figures["kept_patches"]
    said = "synthetic" if figures["synthetic"] else "real images"
    table = Table(
        title=f"{source} ({said}): {figures['images']} images, {kept['mean']:.1f} of {kept['of']:.0f} patches kept, "
        f"payload {figures['payload_bytes']['median']:.0f} bytes",
        title_justify="left",
    )
    touched = figures["boxes_touched"]
    arms = [name for name in figures["auc"] if name in touched]
    table.add_column("AUC (95 % interval)")
    for name in arms:
        table.add_column(name.replace(", ", "\n"))
    for finding in figures["auc"][arms[0]]:
        table.add_row(finding, *(_auc(figures["auc"][name][finding]) for name in arms))
    shares = [touched[name].get("all") for name in arms]
    table.add_section()
    table.add_row("boxes touched", *("" if each is None else f"{100 * each['share']:.0f} %" for each in shares))
    return table


def _auc(value: dict[str, Any] | None) -> str:
    return "one outcome only" if value is None else f"{value['auc']:.3f} ({value['low']:.3f}-{value['high']:.3f})"
