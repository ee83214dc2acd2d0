"""`draft`: one study's draft, shown while it is written."""

import json
from typing import Annotated

import typer
from rich.live import Live
from rich.text import Text

from thinwire.receiver.access.audit_message import Act
from thinwire.receiver.cli.acts import act_of
from thinwire.receiver.cli.options import Data, Json, Site, Study, stdout, write_json
from thinwire.receiver.hub import open_hub
from thinwire.receiver.inference.draft import draft_json
from thinwire.receiver.presentation import draft_lines
from thinwire.receiver.store.records import PendingGraph
from thinwire.shared.clock import SystemClock
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import UnknownStudy
from thinwire.shared.identifiers import SiteName, digest


def draft_command(
    study: Study,
    data: Data,
    beams: Annotated[
        int | None, typer.Option(help="Texts followed at once; 1 is greedy.  [default: as configured]", min=1, max=16)
    ] = None,
    site: Site = None,
    json_: Json = False,
) -> None:
    """Draft a report from the kept patches, token by token. This works also when `serve` makes no drafts.

    The draft is stored, and shown by `show`, unless the study has a draft already. It is machine-written and
    unchecked: decision support for research, which may be wrong.
    """
    with open_hub(data, SystemClock()) as hub:
        found = hub.store.find(study, SiteName(site) if site else None)
        hub.audit.record(act_of(hub, Act.DRAFTED, study=found))
        payload = hub.store.plaintext(found.site, found.study, Kind.GRAPH)
        if payload is None:
            raise UnknownStudy("no graph of this study is received yet", "See its transfer: thinwire-receiver status.")
        graph = hub.bundles.graph(payload, found.study)
        drafter = hub.bundles.drafter(graph.bundle, beams or hub.settings.draft.beams)
        console = stdout()
        # Words go to the terminal as they come; a file or another program gets the whole alone.
        with Live(console=console, transient=True, refresh_per_second=12) as view:
            for texts in drafter.stream([graph]):
                if console.is_terminal and not json_:
                    view.update(Text(drafter.words(texts[0]), "yellow"))
        (draft,) = drafter.attended([graph], texts)
        made = draft_json(draft, graph)
        waiting = PendingGraph(found.site, found.study, digest(payload), found.urgent_asked)
        hub.store.add_draft(waiting, made)
    if json_:
        write_json(json.loads(made))
        return
    for line in draft_lines(json.loads(made), found.prediction is not None and found.prediction.unfamiliar):
        console.print(line)
