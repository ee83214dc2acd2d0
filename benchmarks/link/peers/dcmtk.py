"""DICOM C-STORE by DCMTK: storescu at the clinic, storescp at the hub."""

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless

from benchmarks.link.lab import Lab
from benchmarks.link.peers.certificates import make_certificates
from benchmarks.link.peers.peer import TLS_NAME, Peer, Sending, same_pixels
from benchmarks.link.peers.recompress import recompressed

PORT = 11112
DELIMITER = bytes.fromhex("feffdde000000000")
"""Sequence delimitation item, which ends encapsulated pixels (PS3.5 A.4)."""


class Storescu(Peer):
    """The file as it is, in an association of its own."""

    name: ClassVar[str] = "storescu"
    programs = ("storescu", "storescp")
    package = "dcmtk"
    ports = (PORT,)
    retries = "nothing: a person gives the command again"
    proposes: ClassVar[tuple[str, ...]] = ()
    syntax: ClassVar[str] = ""
    tls: ClassVar[bool] = False

    def __init__(self, lab: Lab, folder: Path) -> None:
        super().__init__(lab, folder)
        self._certificates = make_certificates(folder, TLS_NAME) if self.tls else None
        self._whole: dict[Path, float] = {}
        self._looked: dict[Path, tuple[int, int]] = {}
        self._uids: dict[Path, str] = {}

    def start_hub(self) -> None:
        words = [self.program("storescp"), *self._tls_words(), "--accept-all", "--bit-preserving", "--fork"]
        self.hub_process = self.lab.hub([*words, "-od", str(self.at_hub), str(PORT)], self.log)

    def send(self, study: Path, urgent: bool = False) -> Sending:
        self._uids[study] = str(pydicom.dcmread(study, stop_before_pixels=True).SOPInstanceUID)
        began = time.monotonic()
        sending = super().send(self._given(study), urgent)
        self._uids[sending.study] = self._uids[study]
        sending.study, sending.began = study, began  # the recompression's time is part of it
        return sending

    def needed(self, sending: Sending) -> int:
        return self._given(sending.study).stat().st_size

    def _given(self, study: Path) -> Path:
        """The file that storescu gets: recompressed once, also where it is given again."""
        if not self.syntax:
            return study
        made = self.at_clinic / f"recompressed-{study.name}"
        return made if made.exists() else recompressed(study, self.syntax, made)

    def command(self, study: Path, urgent: bool) -> Sequence[str]:
        host, port = self.lab.reach(PORT)
        return [self.program("storescu"), *self._tls_words(), *self.proposes, host, str(port), str(study)]

    def moments(self, sending: Sending) -> dict[str, float]:
        path = next(iter(self.at_hub.glob(f"*{self._uids[sending.study]}*")), None)
        if path is None:
            return {}
        if sending.study not in self._whole:
            status = path.stat()
            now, stamp = time.monotonic(), (status.st_size, status.st_mtime_ns)
            # Read anew only when it has changed: a large file costs more than a look.
            if self._looked.get(path) != stamp and _is_whole(path, bool(self.syntax)):
                self._whole[sending.study] = now
            self._looked[path] = stamp
        return {"stored": self._whole[sending.study]} if sending.study in self._whole else {}

    def verified(self, sending: Sending) -> bool:
        paths = list(self.at_hub.glob(f"*{self._uids[sending.study]}*"))
        return len(paths) == 1 and same_pixels(sending.study, paths[0])

    def _tls_words(self) -> list[str]:
        made = self._certificates
        return [] if made is None else ["+tls", str(made.key), str(made.certificate), "+cf", str(made.authority)]


def _is_whole(path: Path, encapsulated: bool) -> bool:
    """Whether storescp, which writes while it receives, has written the end. The pixels are a file's last element."""
    if encapsulated:
        return path.read_bytes()[-len(DELIMITER) :] == DELIMITER
    with contextlib.suppress(InvalidDicomError, EOFError, OSError, ValueError, AttributeError, KeyError):
        file = pydicom.dcmread(path)
        return bool(len(file.PixelData) >= file.Rows * file.Columns * file.BitsAllocated // 8)
    return False


class StorescuJpegLs(Storescu):
    """Recompressed as JPEG-LS first."""

    name = "storescu-jpegls"
    proposes = ("--propose-jls-lossless",)
    syntax = JPEGLSLossless


class StorescuJpeg2000(Storescu):
    """Recompressed as JPEG 2000, reversible, first."""

    name = "storescu-jpeg2000"
    proposes = ("--propose-j2k-lossless",)
    syntax = JPEG2000Lossless


class StorescuTls(Storescu):
    """The file as it is, over TLS with certificates on both sides."""

    name = "storescu-tls"
    tls = True


class StorescuTlsJpegLs(StorescuJpegLs):
    """Recompressed as JPEG-LS, over TLS: the nearest to thinwire in its guarantees."""

    name = "storescu-tls-jpegls"
    tls = True
