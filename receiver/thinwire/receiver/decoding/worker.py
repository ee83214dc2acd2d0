"""The decoding process: `python -m thinwire.receiver.decoding.worker MEMORY`, requests on stdin, answers on stdout.

It writes no file and ends with its parent. What needs more than MEMORY bytes, and four times the request, ends in an
answer, or ends the process; the parent starts another.
"""

import contextlib
import logging
import os
import resource
import sys
from collections.abc import Callable, Sequence
from typing import IO, Any

from thinwire.receiver.decoding.copied_header import fields_of
from thinwire.receiver.decoding.dicom_object import dicom_object, same_object
from thinwire.receiver.decoding.messages import DONE, TOO_MUCH, Message, receive, send
from thinwire.receiver.decoding.results import of_crops, of_object, of_preview, of_radiograph
from thinwire.receiver.decoding.study_files import examined, study_files
from thinwire.shared.errors import ThinwireError
from thinwire.shared.formats import crops, preview
from thinwire.shared.identifiers import StudyKey
from thinwire.shared.imaging.dicom import DEFAULT_LIMITS
from thinwire.shared.imaging.frontal import choose
from thinwire.shared.imaging.header import parse
from thinwire.shared.imaging.radiograph import open_radiograph

Fields = Sequence[Any]

_LARGEST_REQUEST = 4 << 30


def _examine(fields: Fields, data: Sequence[bytes]) -> Message:
    study, max_bytes = fields
    return Message([[bytes(sha), size] for sha, size in examined(data[0], StudyKey(study), max_bytes)], [])


def _files(fields: Fields, data: Sequence[bytes]) -> Message:
    study, max_bytes = fields
    members = study_files(data[0], StudyKey(study), max_bytes)
    return Message([each.name for each in members], [each.data for each in members])


def _preview(fields: Fields, data: Sequence[bytes]) -> Message:
    (whole,) = fields
    return of_preview(preview.decode(data[0]) if whole else preview.decode_prefix(data[0]))


def _crops(fields: Fields, data: Sequence[bytes]) -> Message:
    whole, max_bytes = fields
    return of_crops((crops.decode if whole else crops.decode_prefix)(data[0], max_bytes))


def _open(_: Fields, data: Sequence[bytes]) -> Message:
    return of_radiograph(open_radiograph(data[0]))


def _choose(_: Fields, data: Sequence[bytes]) -> Message:
    found = choose(data)
    return of_radiograph(found.radiograph, found.index, list(found.warnings))


def _header(_: Fields, data: Sequence[bytes]) -> Message:
    return Message([fields_of(parse(data[0], DEFAULT_LIMITS))], [])


def _object(_: Fields, data: Sequence[bytes]) -> Message:
    return of_object(dicom_object(data[0]), data[0])


def _same(_: Fields, data: Sequence[bytes]) -> Message:
    return Message([same_object(*data)], [])


OPERATIONS: dict[str, Callable[[Fields, Sequence[bytes]], Message]] = {
    "examine": _examine,
    "files": _files,
    "preview": _preview,
    "crops": _crops,
    "open": _open,
    "choose": _choose,
    "header": _header,
    "object": _object,
    "same": _same,
}


def run(memory: int, requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer requests until they end."""
    for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(limit, (0, 0))
    logging.disable()
    with contextlib.suppress(EOFError):
        while True:
            send(answers, _answer(memory, *receive(requests, _LARGEST_REQUEST)))


def _answer(memory: int, fields: Fields, data: Sequence[bytes]) -> Message:
    most = memory + 4 * sum(len(each) for each in data)
    _limit_memory(most)
    try:
        made = OPERATIONS[fields[0]](fields[1:], data)
        return Message([DONE, *made.fields], made.buffers)
    except MemoryError:
        return Message([TOO_MUCH], [])
    except ThinwireError as error:
        return Message([type(error).__name__, str(error), error.remedy], [])
    finally:
        _limit_memory(resource.RLIM_INFINITY)  # the next request is read by its stated size


def _limit_memory(size: int) -> None:
    """Bytes of private memory (RLIMIT_DATA, getrlimit(2)); unlike RLIMIT_AS it does not count shared libraries."""
    resource.setrlimit(resource.RLIMIT_DATA, (size, resource.RLIM_INFINITY))


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # no library can print between the answers
        run(int(sys.argv[1]), sys.stdin.buffer, out)
