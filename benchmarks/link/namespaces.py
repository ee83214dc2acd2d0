"""Two hosts on one machine: network namespaces and their settings. Linux and root.

Everything goes through iproute2; `inside` alone speaks to the kernel itself, so that a bench can open a socket in
another host without a process for it.
"""

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.link.profiles import MTU

CLINIC_ADDRESS, HUB_ADDRESS = "10.77.0.1", "10.77.0.2"
TUN = Path("/dev/net/tun")
_CLONE_NEWNET = 0x40000000
_SETTINGS = {
    # TCP's metrics of a path from one run must not help the next.
    "net.ipv4.tcp_no_metrics_save": "1",
    # A transfer that is silent is TCP's to end, not the lab's: Linux's own defaults are kept everywhere else.
    "net.ipv6.conf.all.disable_ipv6": "1",
}


@dataclass(frozen=True)
class Host:
    """A namespace, and its end of the link."""

    name: str
    address: str
    device: str

    def words(self, command: Sequence[str]) -> list[str]:
        """The command as it is started inside. The process that it starts becomes the command: its id is the id."""
        return ["ip", "netns", "exec", self.name, *command]

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """This thread is on the host within the block; a socket that it opens stays there."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        try:
            _enter(there)
            try:
                yield
            finally:
                _enter(home)
        finally:
            os.close(there)
            os.close(home)


def missing() -> str | None:
    """The packet emulator's missing requirement, in words; None where it can run."""
    if os.name != "posix" or not Path("/proc/self/ns/net").exists():
        return "network namespaces are Linux's, and this is not Linux"
    if os.geteuid() != 0:
        return "network namespaces and TUN devices need root; run it with sudo"
    if not TUN.exists():
        return "/dev/net/tun is not there; load the module with: modprobe tun"
    if subprocess.run(["which", "ip"], capture_output=True, check=False).returncode:
        return "the ip command is not there; install it with: apt-get install iproute2"
    probe = f"tw-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"this machine does not let root make network namespaces ({made.stderr.strip()})"
    _ip("netns", "del", probe)
    return None


@contextlib.contextmanager
def two_hosts(label: str, congestion: str) -> Iterator[tuple[Host, Host]]:
    """(clinic, hub), not yet joined by anything; gone when the block ends. congestion: TCP's algorithm at both."""
    hosts = (
        Host(f"tw-{label}-clinic", CLINIC_ADDRESS, f"tw{label}c"),
        Host(f"tw-{label}-hub", HUB_ADDRESS, f"tw{label}h"),
    )
    _allow(congestion)
    made = []
    try:
        for host in hosts:
            _ip("netns", "add", host.name)
            made.append(host)
            _ip("-n", host.name, "link", "set", "lo", "up")
            settings = {**_SETTINGS, "net.ipv4.tcp_congestion_control": congestion}
            with host.inside():
                for name, value in settings.items():
                    Path("/proc/sys/" + name.replace(".", "/")).write_text(value, encoding="ascii")
        yield hosts
    finally:
        for host in made:
            _ip("netns", "del", host.name)


def give_device(host: Host, device: str) -> None:
    """Move a TUN device into the host and bring it up under the host's address."""
    _ip("link", "set", "dev", device, "netns", host.name)
    _ip("-n", host.name, "link", "set", "dev", device, "mtu", str(MTU), "up")
    _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", device)


def _allow(congestion: str) -> None:
    """Let a namespace choose this algorithm: the kernel lets it only have those that any process may choose."""
    allowed = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
    there = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text(encoding="ascii").split()
    if congestion not in there:
        raise SystemExit(f"this kernel has no {congestion}; it has {', '.join(there)} (modprobe tcp_{congestion}?)")
    names = allowed.read_text(encoding="ascii").split()
    if congestion not in names:
        allowed.write_text(" ".join([*names, congestion]), encoding="ascii")


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"ip {' '.join(words)}: {done.stderr.strip()}")


def _enter(handle: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(handle, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "setns")
