"""Makes a virtual environment from a lock: `python requirements/set_up.py FOLDER LOCK`.

One line a step. pip's output goes to FOLDER/set-up.log; where a step fails, its errors are shown whole.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent


class Step(NamedTuple):
    words: str
    command: Sequence[str]
    packages: int = 0
    """That pip is expected to name."""


def packages(lock: Path) -> set[str]:
    return {line.partition("==")[0] for line in lock.read_text().splitlines() if "==" in line}


def steps(folder: Path, lock: Path) -> list[Step]:
    pip = [str(folder / "bin/python"), "-m", "pip"]
    install = [*pip, "install", "--disable-pip-version-check", "--no-input", "--progress-bar=off"]
    clinic, build = lock.stem == "clinic", HERE / "build.lock"

    # Without its byte code, half of what a package of Python takes, a clinic's environment fits on a small disk;
    # Python adds that of the modules that are used.
    lean = ["--no-compile"] if clinic else []
    project = [*install, "--no-deps", "--no-build-isolation", *lean, str(HERE.parent)]
    found = [Step("virtual environment", [sys.executable, "-m", "venv", str(folder)])]
    for each in (build, lock):
        words = f"{len(packages(each))} packages of {each.relative_to(HERE.parent)}"
        command = [*install, "--no-deps", "--require-hashes", *lean, "-r", str(each)]
        found.append(Step(words, command, len(packages(each))))
    if clinic:
        found.append(Step("thinwire", project))
        # 30 MB that no clinic needs; the next set-up brings them back.
        tools = [*sorted(packages(build) - packages(lock)), "setuptools", "pip"]
        found.append(Step("installers removed", [*pip, "uninstall", "--yes", *tools]))
    else:
        torch = HERE / "torch.txt"
        found.append(Step(torch.read_text().split()[-1], [*install, "-r", str(torch)], 1))
        found.append(Step("thinwire, editable", [*project[:-1], "--editable", project[-1]]))
    return found


def run(step: Step, title: str, log: Path) -> None:
    """Raises SystemExit with all that the step wrote to its standard error, and where the rest is."""
    began, named = time.monotonic(), 0
    print(title, end="", flush=True)
    with log.open("a") as kept, log.with_suffix(".errors").open("w+") as errors:
        print("$", *step.command, file=kept, flush=True)
        with subprocess.Popen(step.command, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
            for line in process.stdout or ():
                kept.write(line)
                if step.packages and line.startswith(("Collecting ", "Requirement already satisfied: ")):
                    named = min(named + 1, step.packages)
                    if sys.stdout.isatty():
                        print(f"\r{title}{named} of {step.packages}", end="", flush=True)
        errors.seek(0)
        said = errors.read()
        kept.write(said)
    Path(errors.name).unlink()
    if process.returncode:
        print("failed")
        # `python -m venv` explains itself on its standard output.
        raise SystemExit(f"{said or log.read_text()}\nSet-up stopped at this step. All that it wrote: {log}")
    took = f"{time.monotonic() - began:.0f} s"
    # Spaces over what was counted.
    print(f"\r{title}{took:12}" if sys.stdout.isatty() else took)


def main(folder: Path, lock: Path) -> None:
    if sys.version_info < (3, 11):
        raise SystemExit("thinwire needs Python 3.11 or later; set PYTHON=/path/to/python3.11")
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "set-up.log"
    log.write_text("")
    found = steps(folder, lock)
    for number, step in enumerate(found, 1):
        run(step, f"[{number}/{len(found)}] {step.words}: ", log)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
