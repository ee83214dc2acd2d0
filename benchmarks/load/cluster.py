"""A hub of several processes for the load laboratory: PostgreSQL, an S3 server, replicas behind a TCP balancer, and
workers that predict and forward; each can be killed.

The S3 server is moto's, which keeps its objects in memory: a killed one would lose them, as no real one does. Its death
is therefore played by the line to it, which ends every connection, refuses new ones, and comes back: the same for a
client, which cannot know how many of its requests were done.
"""

import asyncio
import contextlib
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.load.balancer import LOCAL, Balancer
from benchmarks.load.hub import BIN, PATIENCE, LoadHub
from benchmarks.load.processes import Used, free_port, used
from benchmarks.load.studies import Clinic
from tests.support.postgresql import PostgresServer

BUCKET = "thinwire-load"
WORK = {"predict": 2, "forward": 1}
DURABLE = {"fsync": "on", "full_page_writes": "on", "autovacuum": "on", "shared_buffers": "128MB"}
"""Settings of the database under measurement, which the tests' own server saves time by doing without."""


@dataclass
class Part:
    """A process of the hub that is started again after it was killed."""

    name: str
    start: Callable[[], "subprocess.Popen[str]"]
    process: "subprocess.Popen[str] | None" = None
    kills: int = 0

    async def begin(self) -> None:
        self.process = await asyncio.to_thread(self.start)

    async def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        await asyncio.to_thread(self.process.wait)
        self.kills += 1


@dataclass
class Cluster:
    """folder: holds all but the database's files. replicas: of `serve`. config: of every replica, as TOML."""

    folder: Path
    postgres: PostgresServer
    replicas: int = 3
    config: str = ""
    work: dict[str, int] = field(default_factory=lambda: dict(WORK))

    def __post_init__(self) -> None:
        self.hub = LoadHub(self.folder)
        self._ports = [free_port() for _ in range(self.replicas)]
        self.balancer = Balancer(self._ports)
        self.moto_port = free_port()
        self.store_line = Balancer([self.moto_port])
        self.serving = [Part(f"replica {n}", self._serve(n)) for n in range(self.replicas)]
        self.workers = [
            Part(f"work {kind} {n}", self._work(kind, n)) for kind, count in self.work.items() for n in range(count)
        ]

    async def make(self, clinics: int) -> list[Clinic]:
        """The hub and its clinics; PostgreSQL and the object store run."""
        self.hub.environment = {
            "THINWIRE_RECEIVER_DATABASE": self.postgres.url(),
            "THINWIRE_RECEIVER_BLOBS": f"s3://{BUCKET}/hub",
            "AWS_ENDPOINT_URL": f"http://{self.store_line.target}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "load",
            "AWS_SECRET_ACCESS_KEY": "load",
            "AWS_REGION": "us-east-1",
        } | {f"THINWIRE_RECEIVER_WORK__{kind.upper()}": "false" for kind in self.work}
        joined = await asyncio.to_thread(self.hub.make, clinics)
        with (self.hub.data / "config.toml").open("a", encoding="utf-8") as file:
            file.write(self.config)
        names = [f"serve-{n}" for n in range(self.replicas)]
        names += [f"{kind}-{n}" for kind, count in self.work.items() for n in range(count)]
        for data in map(self._data, names):
            data.mkdir()
            shutil.copy(self.hub.data / "config.toml", data)
            shutil.copytree(self.hub.data / "keys", data / "keys")
        return joined

    @asynccontextmanager
    async def store(self) -> AsyncIterator[None]:
        """The S3 server runs within the block, and its line."""
        words = [sys.executable, "-m", "moto.server", "-H", LOCAL, "-p", str(self.moto_port)]
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with (self.folder.parent / "moto.log").open("w") as log:
            self.moto = subprocess.Popen(words, stdout=log, stderr=log)
        try:
            await asyncio.to_thread(self._make_bucket)
            async with self.store_line.running():
                yield
        finally:
            self.moto.kill()
            self.moto.wait()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Cluster"]:
        """Replicas, workers and balancer run within the block."""
        try:
            await asyncio.gather(*(each.begin() for each in (*self.serving, *self.workers)))
            async with self.balancer.running():
                yield self
        finally:
            await asyncio.to_thread(self._end)

    def _end(self) -> None:
        running = [each.process for each in (*self.serving, *self.workers) if each.process is not None]
        for each in running:
            each.terminate()
        for each in running:
            try:
                each.wait(30)
            except subprocess.TimeoutExpired:
                each.kill()
                each.wait()

    @property
    def used(self) -> dict[str, Used]:
        """By the processes of each kind."""
        kinds: dict[str, list[int]] = {"object store": [self.moto.pid], "PostgreSQL": [self.postgres.pid]}
        for each in (*self.serving, *self.workers):
            if each.process is not None:
                kinds.setdefault(each.name.rpartition(" ")[0], []).append(each.process.pid)
        return {name: used(pids) for name, pids in kinds.items()}

    def check(self) -> str:
        """The findings of `check` on the whole store; its last lines."""
        words = [BIN / "thinwire-receiver", "check", "--data", self.hub.data]
        return self.hub.call(*words)

    def _data(self, name: str) -> Path:
        return self.folder / name

    def _serve(self, n: int) -> Callable[[], "subprocess.Popen[str]"]:
        return lambda: self.hub.serve(self._ports[n], self._data(f"serve-{n}")).process

    def _work(self, kind: str, n: int) -> Callable[[], "subprocess.Popen[str]"]:
        return lambda: self.hub.start(BIN / "thinwire-receiver", "work", kind, "--data", self._data(f"{kind}-{n}"))

    def _make_bucket(self) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError):
                url = f"http://{LOCAL}:{self.moto_port}/{BUCKET}"
                urllib.request.urlopen(urllib.request.Request(url, method="PUT")).close()
                return
            if time.monotonic() > end:
                raise RuntimeError("the S3 server does not start")
            time.sleep(0.1)
