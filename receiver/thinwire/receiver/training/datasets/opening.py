"""Any data set by one line of text, as given on the command line."""

from collections.abc import Callable, Iterable
from pathlib import Path

from thinwire.receiver.training.corpus import Sample, phantom
from thinwire.receiver.training.datasets import chexpert_plus, folder, mimic, open_i
from thinwire.receiver.training.datasets.manifest import manifest
from thinwire.receiver.training.datasets.patients import Patient, StudySelection, samples_of
from thinwire.receiver.training.datasets.report_text import ReportParser
from thinwire.receiver.training.datasets.summary import Summary
from thinwire.receiver.training.proxy import pair, read
from thinwire.shared.errors import BadConfiguration

_STUDIES: dict[str, Callable[[Path, StudySelection, Summary], Iterable[Patient]]] = {
    "mimic-cxr": lambda root, choice, summary: mimic.patients(root, ".dcm", choice, summary),
    "mimic-cxr-jpg": lambda root, choice, summary: mimic.patients(root, ".jpg", choice, summary),
    "chexpert-plus": chexpert_plus.patients,
    "open-i": lambda root, _, summary: open_i.patients(root, summary),
    "folder": folder.patients,
}
KINDS = (*_STUDIES, "manifest", "phantoms")
_OPTIONS: dict[str, dict[str, str]] = {
    **{kind: {"subset": "paper", "split": "official"} for kind in ("mimic-cxr", "mimic-cxr-jpg", "chexpert-plus")},
    **{kind: {"subset": "paper"} for kind in ("open-i", "folder")},
    "manifest": {"sources": "", "proxies": ""},
    "phantoms": {},
}
"""The options of each kind with the one value that each may have; empty: any."""


def open_data(spec: str, strict: bool = False, seed: int = 0) -> tuple[list[Sample], Summary]:
    """The samples of a data set, and the files left out.

    spec: `kind:place`, e.g. "mimic-cxr:/data/mimic", "manifest:/data/manifest.csv", "phantoms:4000". After a "?",
    joined by "&": subset=paper (10,000 images, 15 % with pneumonia, the impression as text), split=official (the data
    set's own), sources=nih14,kermany224 (of a manifest), proxies=NLMCXR_reports.tgz (of a manifest: each image with a
    report of Open-i that says the same of it, for research). strict: stop at the first missing or malformed file. seed:
    splits, and which study of a patient.

    Raises BadConfiguration for an unknown kind or option and for a folder without the files of its kind.
    """
    kind, separator, rest = spec.partition(":")
    place, _, query = rest.partition("?")
    if not separator or not place or kind not in KINDS:
        raise BadConfiguration(f"{spec!r} names no data set", f"Write KIND:PLACE with one of {', '.join(KINDS)}.")
    options = _options(spec, kind, query)
    summary = Summary(kind, strict)
    if kind == "phantoms":
        return _phantoms(place, summary), summary
    if kind == "manifest":
        sources = options["sources"].split(",") if "sources" in options else None
        samples = manifest(Path(place), summary, sources, seed=seed)
        return with_proxies(
            samples, Path(options["proxies"]), summary, seed
        ) if "proxies" in options else samples, summary
    choice = StudySelection(seed, paper="subset" in options, official="split" in options)
    return samples_of(kind, _STUDIES[kind](Path(place), choice, summary), choice, ReportParser(), summary), summary


def without_folder(spec: str) -> str:
    """A data set's line without where it lies: that is nobody else's business."""
    kind, _, rest = spec.partition(":")
    place, mark, query = rest.partition("?")
    options = [f"{name}={Path(value).name}" for name, _, value in (each.partition("=") for each in query.split("&"))]
    return f"{kind}:{Path(place).name}{mark}{'&'.join(options) if mark else ''}"


def with_proxies(samples: list[Sample], archive: Path, summary: Summary, seed: int) -> list[Sample]:
    """The samples that find a report in the archive, with it (`proxy.pair`); the others are left out and counted."""
    found = pair(samples, read(open_i.reports(archive, summary), ReportParser(), seed), seed)
    summary.used = len(found)
    summary.skip("no report of Open-i says the same of it", len(samples) - len(found))
    return found


def _phantoms(count: str, summary: Summary) -> list[Sample]:
    if not count.isdecimal() or not int(count):
        raise BadConfiguration(f"phantoms:{count} is no count", "Write phantoms:4000, for example.")
    summary.used = int(count)
    return [phantom(seed) for seed in range(int(count))]


def _options(spec: str, kind: str, query: str) -> dict[str, str]:
    options = {}
    for each in filter(None, query.split("&")):
        name, _, value = each.partition("=")
        if name not in _OPTIONS[kind] or value == "" or _OPTIONS[kind][name] not in ("", value):
            known = " and ".join(f"{n}={v or '...'}" for n, v in _OPTIONS[kind].items()) or "no options"
            raise BadConfiguration(f"{spec!r}: unknown option {each}", f"{kind} takes {known}.")
        options[name] = value
    return options
