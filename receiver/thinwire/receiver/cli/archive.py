"""The commands over the whole archive: `predict-archive`, and `export --cohort`."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from thinwire.receiver.access.audit_message import Act
from thinwire.receiver.archive import Summary, predict_archive
from thinwire.receiver.batch.engine import Processes, Start
from thinwire.receiver.batch.ray_cluster import RayTasks
from thinwire.receiver.cli.acts import act_of, audited
from thinwire.receiver.cli.options import Data, Json, write_json
from thinwire.receiver.cli.progress import meter, rate
from thinwire.receiver.hub import open_hub
from thinwire.shared.clock import SystemClock

Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Processes.  [default: one for each core, or for each CPU of the cluster]"),
]


Ray = Annotated[
    str | None,
    typer.Option("--ray", metavar="ADDRESS", help="Ray cluster: HOST:PORT, ray://HOST:PORT, auto, or local."),
]


def workers_of(workers: int | None, ray: str | None) -> Start:
    """Processes of this machine, or tasks of a Ray cluster."""
    return partial(Processes, workers=workers) if ray is None else partial(RayTasks, address=ray, workers=workers)


def predict_archive_command(
    bundle: Annotated[str, typer.Option("--bundle", help="The bundle's id, or its first hex digits.")],
    data: Data,
    ray: Ray = None,
    workers: Workers = None,
    drafts: Annotated[bool, typer.Option("--drafts", help="Draft a report from each graph too.")] = False,
    json_: Json = False,
) -> None:
    """Predict the newest graph of every study again, with another bundle that can read it: one of the same encoder.

    The results are history: `show` lists them, and the worklist stays as it is until `bundle default --archive`.
    `serve` may go on. A run that was stopped or killed goes on where it was. A graph that fails is parked (`status`),
    and stops nothing else; `retry` lets the next run try it again.

    Without --ray it runs on the cores of this machine. The machines of a Ray cluster get graphs and bundles, and
    neither the names nor the keys of the hub.
    """
    with open_hub(data, SystemClock()) as hub:
        id = hub.bundles.find(bundle)
        hub.bundles.bundle(id)
        with (
            audited(hub, act_of(hub, Act.ARCHIVE_PREDICTED, id.hex(), detail="with drafts" if drafts else "")),
            meter(Console(stderr=True)) as progress,
        ):
            done = predict_archive(hub, id, workers_of(workers, ray), drafts, rate(progress, "graphs"))
    if json_:
        write_json(_json(done))
        return
    typer.echo(f"{done.predicted:,} graphs are predicted with bundle {id.hex()[:8]}; {done.known:,} were before.")
    for reason, count in sorted(done.refused.items()):
        typer.echo(f"{count:,} graphs cannot be read by it: {reason}.")
    if done.parked:
        typer.echo(f"{done.parked:,} graphs failed and are parked: thinwire-receiver status, then retry.")


def _json(done: Summary) -> dict[str, object]:
    return {
        "bundle": done.bundle.hex(),
        "studies": done.studies,
        "predicted": done.predicted,
        "known": done.known,
        "refused": done.refused,
        "parked": done.parked,
        "seconds": round(done.seconds, 1),
    }


def cohort_command(data: Path, to: str, name_sites: bool, workers: int | None, ray: str | None, json_: bool) -> None:
    """`export --cohort`."""
    from thinwire.receiver.cohort import export_cohort

    with open_hub(data, SystemClock()) as hub:
        detail = "a cohort, with the names of the sites" if name_sites else "a cohort, without identity"
        with (
            audited(hub, act_of(hub, Act.EXPORTED, detail=detail)),
            meter(Console(stderr=True)) as progress,
        ):
            done = export_cohort(hub, to, name_sites, workers_of(workers, ray), rate(progress, "graphs"))
    if json_:
        write_json({"graphs": done.graphs, "left_out": done.left_out, "shards": done.shards})
        return
    typer.echo(f"{done.graphs:,} graphs in {done.shards:,} files; {done.left_out:,} could not be read.")
