"""A PostgreSQL server of the tests' own, in a folder and on a Unix socket: `new_database` gives a test a hub's database
of its own. The test is skipped by name where the server is not installed."""

import atexit
import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

import pytest

from tests.support.peers import free_port
from thinwire.receiver.store.tables import HUB
from thinwire.shared.identifiers import GENERATION_BYTES
from thinwire.shared.storage.migrations import create_database

USER = "postgres"
PATIENCE = 60.0
"""Seconds until it takes connections."""
SETTINGS = {
    # The power stays on: what a killed server wrote is in the kernel's memory.
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "300",
    "shared_buffers": "32MB",
    "autovacuum": "off",
}


def programs() -> Path | None:
    """The folder of the server's programs; None where none is installed."""
    if (found := shutil.which("initdb")) is not None:
        return Path(found).resolve().parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda each: int(each.parent.name))
    return folders[-1] if folders else None


class PostgresServer:
    """A server that is started by `start`. tcp: it listens on a port of 127.0.0.1 as well. settings: others than
    SETTINGS. It runs as user `postgres` where the tests run as root, which the server refuses."""

    def __init__(self, tcp: bool = False, settings: Mapping[str, str] = MappingProxyType({})) -> None:
        self._psycopg = pytest.importorskip("psycopg", reason="needs thinwire[cluster]")
        found = programs()
        if found is None:
            pytest.skip("needs PostgreSQL (Debian: postgresql)")
        self._programs = found
        self._user = USER if os.getuid() == 0 else None
        self.port = free_port() if tcp else 5432
        # Not in pytest's folder: a socket's path has at most 107 bytes, and another user may not enter there.
        self.folder = Path(tempfile.mkdtemp(prefix="thinwire-pg-"))
        self.folder.chmod(0o755)
        if self._user is not None:
            shutil.chown(self.folder, self._user)
        self._data = self.folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._run("initdb", "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N", "-D", self._data)
        listen = {"listen_addresses": "127.0.0.1" if tcp else "", "port": self.port}
        chosen = {**SETTINGS, **settings, **listen, "unix_socket_directories": self.folder}
        with (self._data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in chosen.items())

    def url(self, database: str = "postgres", tcp: bool = False) -> str:
        """For SQLAlchemy."""
        if tcp:
            return f"postgresql+psycopg://{USER}@127.0.0.1:{self.port}/{database}"
        return f"postgresql+psycopg://{USER}@/{database}?host={self.folder}&port={self.port}"

    def start(self) -> None:
        """Start it, also after `kill`; it takes connections when this returns."""
        with (self.folder / "log").open("a") as log:
            words = self._as_user("postgres", "-D", self._data)
            # A child of this process, which waits for it: a killed server whose number stays would seem to run.
            self._process = subprocess.Popen(words, cwd=self.folder, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(self._psycopg.OperationalError):
                self.sql("SELECT 1")
                return
            told = (self.folder / "log").read_text()[-2000:]
            assert self._process.poll() is None, told
            assert time.monotonic() < deadline, told
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop it, with its connections."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        self._process.wait(PATIENCE)

    @property
    def pid(self) -> int:
        """Of the main process."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """kill -9 of the server and its processes; none runs when this returns."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGSTOP)  # it starts no other in the meantime
        each = [*map(int, Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split())]
        self._process.kill()
        for process in each:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self._process.wait()
        for process in each:
            while _runs(process):
                time.sleep(0.01)

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def sql(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """The rows of one statement, outside of a transaction."""
        where = {"host": str(self.folder), "port": self.port, "user": USER, "dbname": database}
        with self._psycopg.connect(**where, autocommit=True) as connection:
            done = connection.execute(statement)
            return [] if done.description is None else done.fetchall()

    @contextlib.contextmanager
    def database(self, template: str = "template0") -> Iterator[str]:
        """The name of a new database, which is dropped at the end."""
        name = f"test_{secrets.token_hex(6)}"
        self.sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield name
        finally:
            self.sql(f"DROP DATABASE {name} WITH (FORCE)")

    def _run(self, program: str, *arguments: str | Path) -> None:
        # Not into a pipe, which the server would keep open.
        with (self.folder / "programs").open("w+") as said:
            command = self._as_user(program, *arguments)
            done = subprocess.run(command, cwd=self.folder, stdout=said, stderr=said)
            assert done.returncode == 0, (said.seek(0), said.read())

    def _as_user(self, program: str, *arguments: str | Path) -> list[str | Path]:
        # Not by `user=`: Python then forks, and gRPC's threads do not survive that.
        ids = ["setpriv", f"--reuid={self._user}", f"--regid={self._user}", "--clear-groups"] if self._user else []
        return [*ids, self._programs / program, *arguments]


def _runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


@cache
def server() -> PostgresServer:
    """The server of all tests of this process; a test that stops one has its own."""
    made = PostgresServer()
    atexit.register(made.remove)
    made.start()
    made.sql(f"CREATE DATABASE {_TEMPLATE} TEMPLATE template0")
    create_database(made.url(_TEMPLATE), HUB)
    return made


_TEMPLATE = "hub_tables"


@contextlib.contextmanager
def new_database() -> Iterator[str]:
    """The URL of a database with a new hub's tables."""
    with server().database(_TEMPLATE) as name:
        url = server().url(name)
        # The first generation of each hub is its own.
        server().sql(f"UPDATE generations SET generation = '\\x{secrets.token_hex(GENERATION_BYTES)}'", name)
        yield url
