"""`make demo`: a hub and a clinic on this machine, a few studies across, and what came of them.

Everything is real (two processes, mutual TLS, sealed objects, trained models) but for the studies: without --studies
they are synthetic phantoms, and every table says so. Everything it writes is under --folder.
"""

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.progress import track
from rich.table import Table

from thinwire.receiver.training.phantoms.phantom import describe, to_dicom
from thinwire.sender.enrolment import load_enrolment, open_outbox
from thinwire.sender.outbox.entries import OutboxEntry
from thinwire.sender.outbox.outbox import Outbox
from thinwire.sender.outbox.policy import CurrentPolicy
from thinwire.sender.outbox.tiers import TierPolicy
from thinwire.sender.presentation import bytes_text, status_table
from thinwire.sender.service import finished
from thinwire.shared.clock import SystemClock
from thinwire.shared.formats.receipts import StudyStatus
from thinwire.shared.storage.durable import Disk

SEEDS = (1_000_000_003, 1_000_000_010, 1_000_000_008, 1_000_000_011, 1_000_000_002)
"""Held-out phantoms: none of them taught the bundle."""
GUIDES = ("report", "indication", "none", "none", "none")
HUB_FILES = ("serve.log", "run.log")
BIN = Path(sys.executable).parent
MARK = ".thinwire-demo"
console = Console(width=None if sys.stdout.isatty() else 150)


@dataclass(frozen=True)
class Sent:
    label: str
    paths: tuple[Path, ...]
    text: Path | None
    source: str
    size: int = 0
    """Bytes of the study's files as they came; known once it is accepted."""


def command(name: str, *arguments: str | Path) -> list[str]:
    return [str(BIN / name), *map(str, arguments)]


def call(*words: str) -> str:
    """Run a command to its end; its standard output. A failure shows what it said and ends the demo."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        console.print(done.stderr, style="red", highlight=False)
        raise SystemExit(f"{Path(words[0]).name} {words[1]} ended with {done.returncode}")
    return done.stdout


@contextlib.contextmanager
def running(words: list[str], log: Path) -> Iterator[subprocess.Popen[str]]:
    """A process for as long as the block lasts; its words go to `log`."""
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            yield process
        finally:
            process.terminate()
            process.wait()


def phantoms(folder: Path) -> list[Sent]:
    """Synthetic studies: one with its report, one with an indication, the others without words."""
    folder.mkdir()
    made = []
    for seed, guide in zip(SEEDS, GUIDES, strict=True):
        phantom = describe(seed)
        path = folder / f"phantom-{seed}.dcm"
        path.write_bytes(to_dicom(phantom))
        text = None
        if guide != "none":
            text = folder / f"phantom-{seed}.txt"
            text.write_text(phantom.report if guide == "report" else phantom.indication, encoding="utf-8")
        truth = ", ".join(f"{f.severity} {f.name}" for f in phantom.findings) or "normal"
        made.append(Sent(f"synthetic: {truth}", (path,), text, guide))
    return made


def own(paths: list[Path]) -> list[Sent]:
    """A person's own files and folders, each sent as one call: the sender groups files to studies."""
    return [
        Sent(
            path.name,
            tuple(f for f in (sorted(path.rglob("*")) if path.is_dir() else [path]) if f.is_file()),
            None,
            "none",
        )
        for path in paths
    ]


def send(studies: list[Sent], clinic: Path) -> dict[str, Sent]:
    """Hand every study to the clinic's outbox; study id to what was sent. Refusals are shown and do not stop it."""
    sent = {}
    for study in studies:
        words = command("thinwire-sender", "send", *study.paths, "--data", clinic, "--json")
        if study.text is not None:
            words += ["--text", str(study.text), "--text-source", study.source]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        for row in json.loads(done.stdout or "[]"):
            if row["accepted"]:
                sent[row["study"]] = replace(study, size=row["source_bytes"])
            else:
                console.print(f"refused: {row['what']}. {row['remedy']}", style="red", highlight=False)
        if not done.stdout:
            console.print(done.stderr, style="red", highlight=False)
    return sent


def watch(outbox: Outbox, studies: dict[str, Sent], sender: subprocess.Popen[str], log: Path) -> list[OutboxEntry]:
    """Show the outbox until everything has arrived and is triaged."""
    current_policy = CurrentPolicy(TierPolicy(), SystemClock().now(), used=0)
    with Live(console=console, refresh_per_second=4, transient=True) as view:
        while True:
            entries = [entry for entry in outbox.entries() if entry.study.hex() in studies]
            view.update(status_table(entries, outbox))
            if all(finished(entry, current_policy) for entry in entries):
                return entries
            if sender.poll() is not None:
                raise SystemExit(f"the sender ended early; see {log}")
            time.sleep(0.1)


def draw_all(hub_folder: Path, pictures: Path, studies: dict[str, Sent]) -> None:
    """The files of `thinwire-receiver export`, for every study in one process: torch is slow to load."""
    from thinwire.receiver.export.study_files import export_study
    from thinwire.receiver.hub import open_hub

    with open_hub(hub_folder, SystemClock()) as hub:
        for study in track(studies, description="drawing", console=console, transient=True):
            kept = hub.store.find(study, None)
            export_study(kept, hub.study_images(), hub.bundles, pictures, Disk())


def seconds_to_triage(entry: OutboxEntry, outbox: Outbox) -> float | None:
    at = [r.at for r in outbox.receipts(entry.study) if r.status is StudyStatus.TRIAGED]
    return (at[0] - entry.accepted).total_seconds() if at else None


def result(
    rows: list[dict[str, object]], entries: list[OutboxEntry], outbox: Outbox, studies: dict[str, Sent]
) -> Table:
    """The table for a person, most urgent study first."""
    by_id = {entry.study.hex(): entry for entry in entries}
    table = Table(title="Studies at the hub, most urgent first", header_style="bold", show_lines=True)
    table.add_column("study", max_width=24)
    table.add_column("urgency", max_width=26)
    table.add_column("findings (95 % interval)", no_wrap=True)
    table.add_column("kept of the image", no_wrap=True)
    table.add_column("text", no_wrap=True)
    table.add_column("bytes on the wire", no_wrap=True)
    table.add_column("to triage", no_wrap=True)
    for row in rows:
        entry = by_id.get(str(row["study"]))
        if entry is None:
            continue
        study = studies[entry.study.hex()]
        findings: dict[str, dict[str, float]] = row["findings"]  # type: ignore[assignment]
        likely = sorted(findings.items(), key=lambda each: -each[1]["probability"])
        shown = "\n".join(f"{n} {p['probability']:.2f} ({p['low']:.2f}-{p['high']:.2f})" for n, p in likely[:3])
        patches: dict[str, int] = row["patches"]  # type: ignore[assignment]
        sizes = [f"{part.kind.name.lower()} {bytes_text(part.size)}" for part in entry.parts]
        seconds = seconds_to_triage(entry, outbox)
        table.add_row(
            f"{entry.study.hex()[:8]}\n{study.label}",
            f"{row['urgency']}\n{row['reason']}",
            shown,
            f"{patches['kept']} of {patches['total']} patches\n{row['attention_kept']:.0%} of attention",
            str(row["text_source"]),
            "\n".join((*sizes, f"(as it came: {bytes_text(study.size)})")),
            f"{seconds:.1f} s" if seconds is not None else "",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=Path, nargs="*", help="DICOM files or folders of your own")
    parser.add_argument("--folder", type=Path, default=Path("demo-data"))
    options = parser.parse_args()
    folder: Path = options.folder
    if folder.exists() and not (folder / MARK).exists():
        raise SystemExit(f"{folder} is there and is not a demo's; choose another --folder")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MARK).touch()
    hub, clinic, pictures = folder / "hub", folder / "clinic", folder / "pictures"

    call(*command("thinwire-receiver", "init", "--data", hub))
    token = call(*command("thinwire-receiver", "enrol", "demo-clinic", "--data", hub)).strip()
    serve = command("thinwire-receiver", "serve", "--data", hub, "--listen", "127.0.0.1:0")
    with running(serve, folder / HUB_FILES[0]) as server:
        assert server.stdout is not None
        ready = server.stdout.readline()
        if "listening on" not in ready:
            raise SystemExit(f"the hub did not start; see {folder / HUB_FILES[0]}")
        target = ready.split()[-1]
        console.print(f"hub      listening on {target}, its data in {hub}", highlight=False)
        call(*command("thinwire-sender", "join", token, "--data", clinic, "--hub", target))
        console.print(f"clinic   joined as demo-clinic, its data in {clinic}", highlight=False)
        if options.studies:
            studies = own(options.studies)
        else:
            console.print("studies  [bold]synthetic phantoms[/bold]: no patient, no X-ray", highlight=False)
            studies = phantoms(folder / "studies")
        with running(command("thinwire-sender", "run", "--data", clinic), folder / HUB_FILES[1]) as sender:
            sent = send(studies, clinic)
            outbox = open_outbox(clinic, load_enrolment(clinic), Disk(), SystemClock())
            entries = watch(outbox, sent, sender, folder / HUB_FILES[1])
        rows = json.loads(call(*command("thinwire-receiver", "worklist", "--data", hub, "--all", "--json")))
        draw_all(hub, pictures, sent)
    console.print(result(rows, entries, outbox, sent))
    if not options.studies:
        console.print("[bold]These studies are synthetic.[/bold] The figures say nothing about real patients.")
    console.print(f"Pictures (the X-ray, what was kept of it, the graph): {pictures}/*.png", highlight=False)
    console.print("Research on decision support; not a medical device.", style="dim")


if __name__ == "__main__":
    main()
