"""Open-i, the Indiana University collection (Demner-Fushman 2016, doi 10.1093/jamia/ocv080): reports, and images.

Its text is CC BY-NC-ND 4.0: evaluation and research; no weights that learned from it are shipped.
"""

import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

from thinwire.receiver.training.corpus import FINDINGS
from thinwire.receiver.training.datasets.image_size import found_image
from thinwire.receiver.training.datasets.patients import FoundStudy, Patient
from thinwire.receiver.training.datasets.report_text import ReportText
from thinwire.receiver.training.datasets.summary import Summary
from thinwire.shared.errors import BadConfiguration

ARCHIVE = "NLMCXR_reports.tgz"
_IMAGES = ("NLMCXR_png", "images", "")
_HEADINGS = {
    "Consolidation": "consolidation",
    "Pneumonia": "consolidation",
    "Infiltrate": "consolidation",
    "Airspace Disease": "consolidation",
    "Pleural Effusion": "effusion",
    "Pneumothorax": "pneumothorax",
    "Hydropneumothorax": "pneumothorax",
    "Cardiomegaly": "cardiomegaly",
    "Nodule": "nodule",
    "Mass": "nodule",
}
"""Major MeSH and RadLex headings, which people assigned, to ours."""


@dataclass(frozen=True)
class OpenIReport:
    """One report of the collection; the collection names no patients, so each counts as another patient."""

    number: str
    text: ReportText
    headings: tuple[str, ...]
    """Major headings with their qualifiers, e.g. "Pleural Effusion/right/small"."""
    images: tuple[str, ...]
    """Names of its images without suffix."""

    @property
    def labels(self) -> tuple[float, ...]:
        """In the order of FINDINGS: 1 where a heading names it, else 0."""
        found = {_HEADINGS.get(heading.split("/")[0]) for heading in self.headings}
        return tuple(float(name in found) for name in FINDINGS)


def reports(path: Path, summary: Summary) -> Iterator[OpenIReport]:
    """Reports of `NLMCXR_reports.tgz`, or of a folder of its XML files.

    Raises BadConfiguration that names the archive when it cannot be read.
    """
    for name, data in _documents(path):
        try:
            root = ElementTree.fromstring(data)
            number = _attribute(root, "uId", "id")
        except (ElementTree.ParseError, ValueError) as error:
            summary.fault(name, f"report malformed ({type(error).__name__})")
            continue
        said = {each.get("Label", ""): " ".join((each.text or "").split()) for each in root.iter("AbstractText")}
        text = ReportText(said.get("FINDINGS", ""), said.get("IMPRESSION", ""), said.get("INDICATION", ""))
        if not text.told:
            summary.skip("a report without findings and impression")
            continue
        headings = tuple((each.text or "").strip() for each in root.iterfind("./MeSH/major"))
        yield OpenIReport(number, text, headings, tuple(each.get("id", "") for each in root.iter("parentImage")))


def patients(root: Path, summary: Summary) -> Iterator[Patient]:
    """Each report with its image. A report names frontal and lateral images alike; the first is taken as frontal."""
    archive = root / ARCHIVE
    for report in reports(archive if archive.is_file() else root, summary):
        yield [partial(_found, root, report, summary)]


def _found(root: Path, report: OpenIReport, summary: Summary) -> FoundStudy | None:
    if not report.images:
        summary.skip("a report without an image")
        return None
    name = f"{report.images[0]}.png"
    found = found_image((root / folder / name for folder in _IMAGES), name, summary)
    if found is None:
        return None
    image, size = found
    return FoundStudy(
        f"openi-{report.number}", f"openi:{report.number}", image, report.text, size, labels=report.labels
    )


def _documents(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        if path.is_dir():
            for each in sorted(path.rglob("*.xml")):
                yield each.name, each.read_bytes()
            return
        with tarfile.open(path) as archive:
            for member in archive:  # in its own order: going back in a gzip reads it again from the start
                file = archive.extractfile(member) if member.name.endswith(".xml") else None
                if file is not None:
                    yield member.name, file.read()
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise BadConfiguration(
            f"{path} cannot be read: {type(error).__name__} {error}", "Fetch NLMCXR_reports.tgz again from Open-i."
        ) from error


def _attribute(root: ElementTree.Element, tag: str, name: str) -> str:
    found = root.find(tag)
    value = found.get(name) if found is not None else None
    if not value:
        raise ValueError(f"no {name} of {tag}")
    return value
