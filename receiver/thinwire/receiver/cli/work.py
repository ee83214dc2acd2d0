"""`work`: a process that predicts, drafts or forwards, beside `serve`."""

import sys
from typing import Annotated

import typer

from thinwire.receiver.cli.options import Data
from thinwire.receiver.config import WorkKind
from thinwire.receiver.hub import open_hub
from thinwire.shared.clock import SystemClock
from thinwire.shared.logs import log_to


def work_command(
    kinds: Annotated[list[WorkKind], typer.Argument(help="One or several.")],
    data: Data,
    metrics: Annotated[
        str | None, typer.Option(help="HOST:PORT of /metrics, /healthz and /readyz.  [default: as configured]")
    ] = None,
) -> None:
    """Predict, draft or forward for a hub, until SIGINT or SIGTERM, and nothing else: beside `serve`, on this machine
    or on others with the same database and object store. Prints `working: KINDS` when it is ready.

    Any number of processes may do the same work: each piece is claimed by one, and taken over where that one is killed.
    `serve` does all of it too, unless [work] in its config.toml says otherwise. At a signal the present batch is
    finished.
    """
    from thinwire.receiver.work import work

    chosen = frozenset(kinds)
    with open_hub(data, SystemClock()) as hub:
        log_to(sys.stderr, hub.settings.log)
        work(hub, chosen, metrics or hub.settings.metrics.listen, lambda: _ready(chosen))


def _ready(kinds: frozenset[WorkKind]) -> None:
    print(f"working: {', '.join(sorted(kinds))}", flush=True)  # noqa: T201 - what whoever started us waits for
