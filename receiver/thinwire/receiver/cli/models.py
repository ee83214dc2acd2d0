"""The two commands that make and measure bundles. Training is imported only inside them: serving never needs it."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from thinwire.receiver.cli.archive import Ray
from thinwire.receiver.cli.progress import meter
from thinwire.shared.errors import BadConfiguration
from thinwire.shared.formats.bundle import default_bundle_folder

Manifest = Annotated[
    Path | None, typer.Option(help="CSV of real images with labels, texts and splits (docs/researcher.md).")
]


@contextmanager
def training_installed() -> Iterator[None]:
    """The dependencies of training are optional. Raises BadConfiguration that names a missing one."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("thinwire"):
            raise
        raise BadConfiguration(
            f"{error.name} is not installed",
            "Install the dependencies of training: pip install 'thinwire[receiver,training]'.",
        ) from error


def train_command(
    stage: Annotated[
        Literal["report-model", "graph-model", "all"],
        typer.Argument(help="report-model: Swin and T5. graph-model: the network on their graphs, and the bundle."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the new bundle; its work stands beside it in OUT.work.")],
    data: Annotated[
        list[str] | None,
        typer.Option(help="KIND:PATH (docs/researcher.md) or phantoms:N; several times. Default: phantoms:4000."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first missing or malformed file.")] = False,
    preset: Annotated[Literal["nano", "paper"], typer.Option(help="paper needs --swin and --t5.")] = "nano",
    working_size: Annotated[int | None, typer.Option(help="Pixels of the square canvas, a multiple of 32.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data for the report model.")] = None,
    small_epochs: Annotated[int, typer.Option(min=0, help="The first of them at half the working size (nano).")] = 0,
    pretrain_epochs: Annotated[
        int, typer.Option(min=0, help="Epochs of masked-image pretraining before training.")
    ] = 0,
    painting: Annotated[int, typer.Option(min=0, hidden=True, help="Older name of --pretrain-epochs.")] = 0,
    batch: Annotated[int | None, typer.Option(min=1, help="Images per step.")] = None,
    accumulate: Annotated[
        int | None, typer.Option(min=1, help="Batches whose gradients are added before a step.")
    ] = None,
    patience: Annotated[int, typer.Option(min=1, help="Epochs without a better validation loss before the end.")] = 6,
    seed: Annotated[int, typer.Option(help="The same seed and data give the same course.")] = 0,
    swin: Annotated[Path | None, typer.Option(help="Folder of a SwinModel checkpoint (paper).")] = None,
    t5: Annotated[Path | None, typer.Option(help="Folder of a T5 checkpoint with its tokenizer (paper).")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="The paper's losses alone, without grounding.")] = False,
    imitate: Annotated[
        float, typer.Option(min=0, help="Weight of imitating EfficientNet-Lite0 cell by cell; 0: not at all.")
    ] = 0.0,
    keep: Annotated[float, typer.Option(min=0.01, max=100, help="Percent of the cells that are kept.")] = 2.3,
    ray: Ray = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="With --ray: processes that train together.")] = 2,
) -> None:
    """Train a new bundle, or one of its two stages. An interrupted run continues where it stopped.

    With --ray the report model is trained by several processes of a Ray cluster together, and each member of the graph
    model by one; they see --data and --out at the same paths. Without it, it is plain torch in this process.
    """
    with training_installed():
        from thinwire.receiver.training import train
        from thinwire.receiver.training.graph_stage import Learning
        from thinwire.receiver.training.presets import NANO, at_size, paper
        from thinwire.receiver.training.report_model import PLAIN, Weights
        from thinwire.receiver.training.report_stage import Schedule
        from thinwire.receiver.training.spread import RaySpread

    chosen = NANO
    if preset == "paper":
        if swin is None or t5 is None:
            raise BadConfiguration(
                "the paper preset starts from checkpoints", "Give --swin and --t5: folders in transformers' format."
            )
        chosen = paper(swin, t5)
    if working_size is not None:
        chosen = at_size(chosen, working_size)
    weights = replace(PLAIN if plain else Weights(), finding=chosen.finding_weight, imitation=imitate)
    schedule = Schedule(
        epochs=epochs or chosen.epochs,
        small_epochs=small_epochs,
        batch=batch or chosen.batch,
        accumulate=accumulate or chosen.accumulate,
        patience=patience,
        learning_rate=chosen.learning_rate,
        weights=weights,
        seed=seed,
    )
    options = train.TrainOptions(
        out=out,
        data=tuple(data or ["phantoms:4000"]),
        strict=strict,
        preset=chosen,
        schedule=schedule,
        painting=pretrain_epochs or painting,
        learning=Learning(chosen.mpnn_epochs, chosen.mpnn_batch, chosen.mpnn_learning_rate),
        keep_percent=keep,
        seed=seed,
    )
    with meter(Console(stderr=True)) as progress:
        if stage == "graph-model" and not options.report_model_done:
            raise BadConfiguration(
                f"{options.work} holds no finished report model", "Run train report-model with the same options first."
            )
        spread = None if ray is None else RaySpread(ray, workers)
        run = train.train_report_model(options, progress, spread)
        for summary in run.summaries:
            typer.echo(str(summary), err=True)
        folder = options.work if stage == "report-model" else train.train_graph_model(options, run, progress, spread)
    typer.echo(folder)


def evaluate_command(
    out: Annotated[Path, typer.Option(help="Folder for evaluation.json and the pictures.")],
    bundle: Annotated[Path | None, typer.Option(help="The bundle; the default one if not given.")] = None,
    phantoms: Annotated[int, typer.Option(min=0, help="Held-out synthetic studies, none of them trained on.")] = 0,
    manifest: Manifest = None,
    split: Annotated[
        Literal["test", "val", "train", "all"], typer.Option(help="Which part of manifest and data.")
    ] = "test",
    proxies: Annotated[
        Path | None, typer.Option(help="Open-i's reports, to stand in for those the manifest's images lack.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="KIND:PATH (docs/researcher.md), several times: its patients in --split, as in training."),
    ] = None,
    radgraph: Annotated[
        Path | None, typer.Option(help="Folder of RadGraph's weights, for RadGraph F1; seconds for each report.")
    ] = None,
    radgraph_python: Annotated[str, typer.Option(help="A Python with the radgraph package.")] = sys.executable,
    seeds: Annotated[int, typer.Option(min=1, help="How often random choice draws.")] = 3,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 is one a core.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Skip the slow parts: other retentions, floors.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Write the whole result as JSON to stdout.")] = False,
) -> None:
    """Evaluate a bundle on held-out images: AUC with intervals, comparators, report quality, localisation, calibration,
    size."""
    with training_installed():
        from thinwire.receiver.training.evaluation import language
        from thinwire.receiver.training.evaluation.evaluate import evaluate

    extractor = None if radgraph is None else language.radgraph(radgraph, [radgraph_python])
    with meter(Console(stderr=True)) as progress:
        result = evaluate(
            bundle or default_bundle_folder(),
            out,
            progress,
            phantoms,
            manifest,
            split,
            workers,
            seeds,
            not quick,
            proxies,
            data or (),
            extractor,
        )
    if json_:
        typer.echo(json.dumps(result, indent=1))
        return
    for summary in result["data"]:
        typer.echo(summary, err=True)
    console = Console(highlight=False)
    for source, figures in result["sources"].items():
        console.print(_table(source, figures, result))
    typer.echo(f"All tables, with pictures: {out}", err=True)


def _table(source: str, figures: dict[str, Any], result: dict[str, Any]) -> Table:
    """AUC with its interval by endpoint at the bundle's own retention, by guide and beside random choice."""
    from thinwire.receiver.training.evaluation.selection import ATTENTION, RANDOM

    said = "synthetic" if figures["synthetic"] else "real images"
    size = figures.get("sealed_bytes_median")
    table = Table(
        title=f"{source} ({said}): {figures['images']} images, {result['keep_percent']:g} % of "
        f"{figures['cells']:.0f} cells kept" + ("" if size is None else f", sealed graph {size:.0f} bytes"),
        title_justify="left",
    )
    shown = (ATTENTION, RANDOM)
    choices = [r for r in result["tables"]["choices"] if r["source"] == source and r["choice"] in shown]
    rows = [r for r in choices if r["hidden"] == "" and r["subset"] == "all"]
    arms = list(dict.fromkeys((r["guide"], r["choice"]) for r in rows))
    table.add_column("AUC (95 % interval)")
    for guide, choice in arms:
        table.add_column(f"text {guide}\n{choice}")
    for endpoint in figures["endpoints"]:
        of = {(r["guide"], r["choice"]): r for r in rows if r["endpoint"] == endpoint}
        table.add_row(endpoint, *(_auc(of[arm]) for arm in arms))
    touched = [
        r
        for r in result["tables"]["gaze"]
        if (r["source"], r["finding"], r["measure"], r["subset"]) == (source, "all", "box_touched", "all")
    ]
    for by in dict.fromkeys(r["boxes_by"] for r in touched) if arms else ():
        mean = {(r["guide"], r["choice"]): r["mean"] for r in touched if r["boxes_by"] == by}
        table.add_section()
        table.add_row(f"touched, boxes by {by}", *(f"{100 * mean[arm]:.0f} %" for arm in arms))
    return table


def _auc(value: dict[str, Any]) -> str:
    return f"{value['auc']:.3f} ({value['low']:.3f}-{value['high']:.3f})"
