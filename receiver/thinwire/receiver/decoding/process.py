"""The decoding process seen from the hub: started when it is first needed, kept, and started again after a failure."""

import atexit
import contextlib
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import IO

from thinwire.receiver.decoding.messages import DONE, TOO_MUCH, Message, Received, receive, send
from thinwire.shared.errors import (
    BadArchive,
    BadCrops,
    BadPreview,
    HubBusy,
    NotChestRadiograph,
    OverLimits,
    UnreadableDicom,
)

MEMORY = 1 << 30
"""Bytes for one request, with four times its own bytes. A radiograph of 64 million pixels takes 0.7 GB."""
SECONDS = 120.0
"""For one request, and one second more for each megabyte. A radiograph of 20 million pixels takes half a second."""

log = logging.getLogger(__name__)

_ERRORS = {
    each.__name__: each for each in (BadArchive, BadCrops, BadPreview, NotChestRadiograph, OverLimits, UnreadableDicom)
}
_PIPE = 1 << 20
"""Bytes that a pipe holds: Linux allows no more to a user. With 64 KB a large image takes twice as long."""
_TRIES = 2
"""A process that ended may have been ended from outside; it is asked once more."""
_REMEDY = "Send this study directly to the PACS, and report the file's device to the hub's administrator."


class DecodingProcess:
    """Answers one request at a time; safe from any thread."""

    def __init__(self, memory: int = MEMORY, seconds: float = SECONDS) -> None:
        self._memory = memory
        self._seconds = seconds
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def ask(self, name: str, fields: Sequence[object], data: Sequence[bytes], most_bytes: int) -> Received:
        """The answer to a request, without its first field. most_bytes: limit of the answer.

        Raises the error of the operation; OverLimits: too much memory or time; HubBusy: no process can be started.
        """
        with self._lock:
            for _ in range(_TRIES):
                done = threading.Event()
                child, stdin, stdout = self._running()
                seconds = self._seconds + sum(len(each) for each in data) / 1e6
                watch = threading.Timer(seconds, lambda child=child, done=done: (done.set(), child.kill()))
                watch.daemon = True
                watch.start()
                try:
                    send(stdin, Message([name, *fields], list(data)))
                    answer = receive(stdout, most_bytes)
                except (OSError, EOFError):
                    log.warning("the decoding process ended while it was to %s", name)
                    self._end()
                    if done.is_set():
                        raise OverLimits(f"it could not be opened within {seconds:.0f} seconds", _REMEDY) from None
                    continue
                finally:
                    watch.cancel()
                return _read(answer)
        raise OverLimits("the process that opens it ended", _REMEDY)

    @property
    def pid(self) -> int | None:
        """Of the running process; None before the first request."""
        return None if self._child is None else self._child.pid

    def close(self) -> None:
        """End the process; the next request starts another."""
        with self._lock:
            self._end()

    def _running(self) -> tuple[subprocess.Popen[bytes], IO[bytes], IO[bytes]]:
        if self._child is None or self._child.poll() is not None:
            self._end()
            try:
                self._child = subprocess.Popen(
                    [sys.executable, "-m", "thinwire.receiver.decoding.worker", str(self._memory)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    pipesize=_PIPE,
                    stderr=subprocess.DEVNULL,  # a library's message may quote a patient's values
                    env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
                    start_new_session=True,  # Ctrl-C is for the hub, which ends this process
                )
            except OSError as error:
                raise HubBusy("the hub cannot start the process that opens files") from error
        child = self._child
        if child.stdin is None or child.stdout is None:
            raise HubBusy("the hub cannot reach the process that opens files")
        return child, child.stdin, child.stdout

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        child.wait()


def _read(answer: Received) -> Received:
    """Raises the error that it carries."""
    kind, *fields = answer.fields
    if kind == DONE:
        return Received(fields, answer.buffers)
    if kind == TOO_MUCH:
        raise OverLimits("it takes more memory than the hub gives one object", _REMEDY)
    what, remedy = (*map(str, fields), "", "")[:2]
    raise _ERRORS.get(str(kind), UnreadableDicom)(what, remedy)


EXAMINING, RENDERING = DecodingProcess(), DecodingProcess()
"""One process for what arrives and one for what readers ask for, so that a reader does not wait for an archive."""
atexit.register(EXAMINING.close)
atexit.register(RENDERING.close)
