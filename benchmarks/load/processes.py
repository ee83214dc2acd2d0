"""Processes under measurement: their processor time, memory and threads, from /proc."""

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Used:
    """By one process or several together."""

    seconds: float
    """Processor time."""
    megabytes: float
    """Resident; shared pages count for each process."""
    threads: int


def processor(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> float:
    """Resident MB."""
    return int(_status(pid, "VmRSS").split()[0]) / 1000


def used(pids: Iterable[int]) -> Used:
    """By these processes and all that they started. One that ends in the meantime is left out."""
    seconds, megabytes, threads = 0.0, 0.0, 0
    for pid in family(pids):
        with contextlib.suppress(OSError, ValueError):
            seconds += processor(pid)
            megabytes += memory(pid)
            threads += int(_status(pid, "Threads"))
    return Used(seconds, megabytes, threads)


def family(pids: Iterable[int]) -> list[int]:
    """These processes and their descendants."""
    found = list(pids)
    for pid in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                found.extend(int(each) for each in (task / "children").read_text().split())
    return found


def _status(pid: int, name: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(f"{name}:")), "0")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def commit(checkout: Path) -> str:
    words = "git", "-C", str(checkout), "rev-parse", "--short", "HEAD"
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
