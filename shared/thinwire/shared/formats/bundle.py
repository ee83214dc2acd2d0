"""A bundle: one folder of model files with their digests, shapes, provenance and measured figures.

The hub trains and issues it; a payload names it by its bundle id. Format: docs/model-bundle.md.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from thinwire.shared.errors import BadBundle, BadConfiguration
from thinwire.shared.formats.graph import CELL, MAX_WORKING_SIZE
from thinwire.shared.identifiers import BUNDLE_ID_BYTES, BundleId

BUNDLE_VERSION = 3
INDEX = "bundle.json"
ENCODER = "encoder.onnx"
DECODER = "decoder.onnx"
TOKENIZER = "tokenizer.json"
CODER = "coder.npz"
MPNN = "mpnn.safetensors"
CARD = "MODEL_CARD.md"
REQUIRED = (ENCODER, DECODER, TOKENIZER, CODER, MPNN, CARD)


@dataclass(frozen=True)
class Concept:
    """A word of the closed vocabulary, in the RadGraph schema."""

    name: str
    kind: Literal["anatomy", "observation"]


@dataclass(frozen=True)
class BundleSpec:
    """The facts of a bundle that both ends need before they load a model."""

    name: str
    preset: str
    working_size: int
    """Pixels along the edge of the square canvas; a multiple of CELL."""
    feature_size: int
    """d: values per patch feature and of the context vector."""
    max_tokens: int
    """Longest text of the decoder, in tokens."""
    keep_percent: float
    """Share of the image's cells that the default pruning policy keeps, in percent."""
    findings: tuple[str, ...]
    """The findings of the hub's predictor, in the order of its outputs."""
    concepts: tuple[Concept, ...]
    """The closed vocabulary; a payload's concept ids index it."""


@dataclass(frozen=True)
class Bundle:
    folder: Path
    id: BundleId
    spec: BundleSpec
    figures: Mapping[str, Any]
    """Measured figures, as bundle.json holds them."""
    files: Mapping[str, str]
    """SHA-256 of each file by its name, in hex."""

    def unread(self, other: "Bundle") -> str | None:
        """Why this bundle's networks cannot read the graphs of another one; None if they can.

        Features have a meaning for the networks of the encoder that made them alone, and a concept is a place in its
        bundle's vocabulary. So both bundles have the same encoder, byte for byte, and this one's vocabulary begins with
        the other's. Findings and coder may differ.
        """
        if self.files[ENCODER] != other.files[ENCODER]:
            return "their encoder is another one"
        if self.spec.feature_size != other.spec.feature_size or self.spec.working_size != other.spec.working_size:
            return "their features have another shape"
        if self.spec.concepts[: len(other.spec.concepts)] != other.spec.concepts:
            return "their vocabulary is another one"
        return None


def default_bundle_folder() -> Path:
    """The bundle that comes with thinwire."""
    return Path(__file__).parents[1] / "bundles" / "nano"


def bundle_id(index: Mapping[str, Any]) -> BundleId:
    """Bundle id, computed from the index: from the model files and their provenance.

    The figures and the model card are excluded, since they are measured on the named bundle.
    """
    files = {name: digest for name, digest in index["files"].items() if name != CARD}
    named = {**{key: value for key, value in index.items() if key != "figures"}, "files": files}
    text = json.dumps(named, sort_keys=True, separators=(",", ":"))
    return BundleId(hashlib.sha256(text.encode()).digest()[:BUNDLE_ID_BYTES])


def load_bundle(folder: Path) -> Bundle:
    """Read a bundle and check every file against its digest.

    Raises BadBundle for a missing, altered or unlisted required file or a malformed index, BadConfiguration for a
    missing folder.
    """
    if not (folder / INDEX).is_file():
        raise BadConfiguration(
            f"no bundle in {folder}",
            "Give a folder that holds bundle.json, or train one: thinwire-receiver train.",
        )
    try:
        index = json.loads((folder / INDEX).read_bytes())
        if index["version"] != BUNDLE_VERSION:
            raise BadBundle(
                f"the bundle is of version {index['version']}, this release reads version {BUNDLE_VERSION}",
                "Take the bundle that comes with this release, or train it again: thinwire-receiver train.",
            )
        files: dict[str, str] = dict(index["files"])
        spec = _spec(index)
    except (KeyError, TypeError, ValueError) as error:
        raise BadBundle(f"{INDEX} is malformed ({type(error).__name__})") from error
    for name in REQUIRED:
        if name not in files:
            raise BadBundle(f"{name} is not listed in {INDEX}")
    for name, expected in sorted(files.items()):
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise BadBundle(f"{name} is missing")
        if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise BadBundle(f"{name} does not match its digest")
    return Bundle(folder, bundle_id(index), spec, index.get("figures", {}), files)


def write_index(folder: Path, spec: BundleSpec, provenance: Mapping[str, Any], figures: Mapping[str, Any]) -> None:
    """Seal a folder of model files as a bundle: digests of all files in it, then bundle.json last."""
    files = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != INDEX and not path.name.startswith(".")
    }
    index = {
        "version": BUNDLE_VERSION,
        "name": spec.name,
        "preset": spec.preset,
        "working_size": spec.working_size,
        "feature_size": spec.feature_size,
        "max_tokens": spec.max_tokens,
        "keep_percent": spec.keep_percent,
        "findings": list(spec.findings),
        "concepts": [[c.name, c.kind] for c in spec.concepts],
        "files": files,
        "provenance": dict(provenance),
        "figures": dict(figures),
    }
    (folder / INDEX).write_text(json.dumps(index, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _spec(index: dict[str, Any]) -> BundleSpec:
    working = int(index["working_size"])
    if working % CELL or not CELL <= working <= MAX_WORKING_SIZE:
        raise ValueError("working size")
    if any(kind not in ("anatomy", "observation") for _, kind in index["concepts"]):
        raise ValueError("concepts")
    return BundleSpec(
        name=str(index["name"]),
        preset=str(index["preset"]),
        working_size=working,
        feature_size=int(index["feature_size"]),
        max_tokens=int(index["max_tokens"]),
        keep_percent=float(index["keep_percent"]),
        findings=tuple(str(f) for f in index["findings"]),
        concepts=tuple(Concept(str(name), kind) for name, kind in index["concepts"]),
    )
