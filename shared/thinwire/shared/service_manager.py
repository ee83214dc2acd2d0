"""The service manager's protocol (sd_notify(3), sd_watchdog_enabled(3)): a process tells systemd that it is ready, and
that it is alive. Without a manager nothing is told."""

import asyncio
import contextlib
import os
import socket

from thinwire.shared.heartbeats import Heartbeats

READY, STOPPING, ALIVE = "READY=1", "STOPPING=1", "WATCHDOG=1"
EVERY = 5.0
"""Most seconds between two looks at the loops."""


def tell(state: str) -> None:
    """Send a state to the service manager, if there is one; what cannot be sent is lost."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
        to.setblocking(False)
        to.sendto(state.encode(), address.replace("@", "\0", 1) if address.startswith("@") else address)


async def keep_alive(heartbeats: Heartbeats) -> None:
    """Tell the service manager that the process is alive while all its loops move, until cancelled. The watchdog kills
    a process with a loop that has stopped, this one among them, and starts it again."""
    every = min(EVERY, _watchdog() / 3)
    while True:
        if not heartbeats.stopped():
            tell(ALIVE)
        await asyncio.sleep(every)


def _watchdog() -> float:
    """Seconds in which the service manager wants to hear that the process is alive."""
    with contextlib.suppress(ValueError):
        if int(os.environ.get("WATCHDOG_PID") or os.getpid()) == os.getpid():
            return int(os.environ["WATCHDOG_USEC"]) / 1e6 if "WATCHDOG_USEC" in os.environ else 3 * EVERY
    return 3 * EVERY
