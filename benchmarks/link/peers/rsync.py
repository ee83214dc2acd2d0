"""rsync to a daemon at the hub, without encryption: the least that it can send."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from benchmarks.link.lab import Lab
from benchmarks.link.peers.peer import Peer, Sending, same_pixels

PORT = 8730


class Rsync(Peer):
    name: ClassVar[str] = "rsync"
    programs = ("rsync",)
    package = "rsync"
    ports = (PORT,)
    retries = "nothing: a person gives the command again; --partial goes on from what arrived"
    options: ClassVar[tuple[str, ...]] = ("--partial",)

    def __init__(self, lab: Lab, folder: Path) -> None:
        super().__init__(lab, folder)
        self._configuration = folder / "rsyncd.conf"
        module = f"[in]\npath = {self.at_hub}\nread only = false\nuse chroot = false\nuid = 0\ngid = 0\n"
        self._configuration.write_text(f"address = {lab.hub_bind}\nreverse lookup = no\n{module}", encoding="utf-8")
        self._stored: dict[Path, float] = {}

    def start_hub(self) -> None:
        words = ["--daemon", "--no-detach", f"--config={self._configuration}", f"--port={PORT}"]
        self.hub_process = self.lab.hub(["rsync", *words], self.log)

    def command(self, study: Path, urgent: bool) -> Sequence[str]:
        host, port = self.lab.reach(PORT)
        return ["rsync", *self.options, str(study), f"rsync://{host}:{port}/in/{study.name}"]

    def moments(self, sending: Sending) -> dict[str, float]:
        arrived = self.at_hub / sending.study.name
        # An interrupted one stands under the same name with its received bytes (--partial).
        if (
            sending.study not in self._stored
            and arrived.exists()
            and arrived.stat().st_size == sending.study.stat().st_size
        ):
            self._stored[sending.study] = time.monotonic()
        return {"stored": self._stored[sending.study]} if sending.study in self._stored else {}

    def verified(self, sending: Sending) -> bool:
        return same_pixels(sending.study, self.at_hub / sending.study.name)

    def kept(self, sending: Sending) -> int:
        arrived = self.at_hub / sending.study.name
        return arrived.stat().st_size if arrived.exists() else 0


class RsyncCompressed(Rsync):
    name = "rsync-z"
    options = ("--partial", "-z")
