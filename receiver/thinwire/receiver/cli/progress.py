"""Progress of long commands: a bar with the remaining time in a terminal, else a line for each tenth."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

Meter = Callable[[str, float, float, str], None]
"""(stage, done, total, words)"""


@contextlib.contextmanager
def meter(console: Console) -> Iterator[Meter]:
    """console: stderr, so that stdout has only the command's result."""
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), TextColumn("{task.fields[words]}"))
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def draw(stage: str, done: float, total: float, words: str) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, words=words)
            bars.update(tasks[stage], completed=done, total=total, words=words)

        yield draw


def _lines(console: Console) -> Meter:
    """A line at each new stage and after each tenth of it."""
    printed: dict[str, int] = {}

    def write(stage: str, done: float, total: float, words: str) -> None:
        tenth = int(10 * done / total) if total else 10
        if printed.get(stage, -1) < tenth:
            printed[stage] = tenth
            console.print(f"{stage}: {10 * tenth} % {words}", highlight=False)

    return write


def rate(meter: Meter, stage: str) -> Callable[[int, int], None]:
    """A meter for (done, total) of many equal items: with their number a second, and the time that is left."""
    began: list[tuple[float, int]] = []

    def draw(done: int, total: int) -> None:
        now = time.monotonic()
        began.append((now, done)) if not began else None
        since, first = began[0]
        words = f"{done:,} of {total:,}"
        if done > first and now > since:
            pace = (done - first) / (now - since)
            words += f", {pace:,.0f} a second, {_time((total - done) / pace)} left"
        meter(stage, done, total, words)

    return draw


def _time(seconds: float) -> str:
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"
