"""Notifications of network changes, after which a lost link is tried at once."""

import asyncio
import contextlib
import logging
import socket
import struct
from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)

# linux/rtnetlink.h: the groups of links, addresses and routes, and the messages for a new one.
_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
_NEW = (16, 20, 24)
_HEADER = struct.Struct("=IHHII")


def says_new(data: bytes) -> bool:
    """Whether netlink messages (struct nlmsghdr and payload, 4-byte aligned) report a new link, address or route."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        if kind in _NEW:
            return True
        if length < _HEADER.size:
            return False
        at += (length + 3) & ~3
    return False


@contextlib.contextmanager
def network_changes(tell: Callable[[], object]) -> Iterator[None]:
    """While the block runs, `tell` is called in the running event loop for each change. Without netlink (not on Linux,
    or forbidden by a sandbox) it is never called, and links are tried only by the clock."""
    with contextlib.ExitStack() as held:
        try:
            netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
            held.enter_context(netlink)
            netlink.bind((0, _GROUPS))
        except (OSError, AttributeError):
            log.info("network change notifications are not available on this system")
            yield
            return
        loop = asyncio.get_running_loop()

        def read() -> None:
            new = False
            with contextlib.suppress(BlockingIOError, OSError):  # OSError: some of many changes were dropped
                while data := netlink.recv(65536):
                    new = says_new(data) or new
            if new:
                tell()

        loop.add_reader(netlink, read)
        held.callback(loop.remove_reader, netlink)
        yield
