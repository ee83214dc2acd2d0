"""A cohort on disk: graphs for researchers as shards of tensors, without identity. Format: docs/researcher.md, Cohorts.

`Cohort` is a PyG data set on a folder; `fetch_cohort` brings one from an object store. Nothing in a shard is pickled.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor
from torch_geometric.data import Data, Dataset, HeteroData

from thinwire.receiver.export.pyg import to_hetero
from thinwire.receiver.inference.mpnn import to_data
from thinwire.shared.errors import BadFormat
from thinwire.shared.formats.graph import Concepts, FusedGraph, Grid, Patches, empty_measurements
from thinwire.shared.identifiers import BundleId, StudyKey, TextSource
from thinwire.shared.storage.durable import Disk
from thinwire.shared.storage.object_store import object_store

FORMAT, VERSION = "thinwire-cohort", 1
MANIFEST = "manifest.json"
SOURCES = tuple(map(str, TextSource))
MODALITIES, VIEWS = ("DX", "CR", "other"), ("PA", "AP", "other")
"""A header's other words are not given on: a clinic may have written anything there."""
NOBODY = StudyKey(bytes(16))
NONE = -1
"""Of an index that a graph has not."""


@lru_cache(maxsize=8)
def _opened(path: Path) -> Any:
    """Mapped, not read: a graph costs its own bytes."""
    return safe_open(path, framework="pt")


def shard_bytes(
    graphs: Sequence[FusedGraph], keys: Sequence[bytes], patients: Sequence[bytes], sites: Sequence[int]
) -> bytes:
    """The safetensors file of graphs of one bundle. keys, patients: 16 bytes each, zeros for an unknown patient.
    sites: the index of each one's site in the manifest, NONE where it is not told."""
    patches, concepts = [g.patches for g in graphs], [g.concepts for g in graphs]
    fused = [(NONE, NONE) if g.fusion is None else g.fusion for g in graphs]
    arrays = {
        "key": np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16),
        "patient": np.frombuffer(b"".join(patients), np.uint8).reshape(-1, 16),
        "site": np.array(sites, np.int32),
        "source": np.array([SOURCES.index(g.text_source) for g in graphs], np.int8),
        "modality": np.array([_index(MODALITIES, g.modality) for g in graphs], np.int8),
        "view": np.array([_index(VIEWS, g.view_position) for g in graphs], np.int8),
        "context": np.stack([g.context for g in graphs]),
        "fusion": np.array(fused, np.int32),
        "patch_ptr": _pointers([len(each.cell) for each in patches]),
        "patch_cell": np.concatenate([each.cell for each in patches]),
        "patch_score": np.concatenate([each.score for each in patches]),
        "patch_feature": np.concatenate([each.feature for each in patches]),
        "concept_ptr": _pointers([len(each.concept) for each in concepts]),
        "concept": np.concatenate([each.concept for each in concepts]),
        "assertion": np.concatenate([each.assertion for each in concepts]),
        "relation_ptr": _pointers([len(each.relations) for each in concepts]),
        "relation": np.concatenate([each.relations for each in concepts]),
    }
    return bytes(save({name: np.ascontiguousarray(each) for name, each in arrays.items()}))


def read_manifest(folder: Path) -> dict[str, Any]:
    """Raises BadFormat for a folder that holds no whole cohort."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
        known = (manifest["format"], manifest["version"]) == (FORMAT, VERSION)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadFormat("the folder holds no whole cohort", "Export it to the end, or fetch it again.") from error
    if not known:
        raise BadFormat("the cohort is of another version", "Read it with the release of thinwire that made it.")
    return manifest


class Cohort(Dataset):  # type: ignore[misc]
    """The graphs of a cohort's folder, in no order that means anything. Index, slice, or give it to PyG's DataLoader.

    Each is a HeteroData as `export` writes it (docs/store-format.md), or with network=True the Data that the hub's
    network reads (`mpnn.to_data`). Both have `key` and `patient` (16 bytes in hex; no patient: None), `bundle` (its
    index in `manifest["bundles"]`), `text_source`, `modality`, `view_position`, and `site` where sites are named. A
    graph is read when it is asked for: memory does not grow with the cohort.
    """

    def __init__(self, folder: Path, network: bool = False) -> None:
        """Raises BadFormat."""
        super().__init__()
        self.folder = folder
        self.manifest = read_manifest(folder)
        self.network = network
        self._starts = _pointers([each["graphs"] for each in self.manifest["shards"]])

    def len(self) -> int:
        return int(self._starts[-1])

    def get(self, idx: int) -> Data | HeteroData:
        number = int(np.searchsorted(self._starts, idx, side="right")) - 1
        shard, row = self.manifest["shards"][number], int(idx - self._starts[number])
        try:
            file = _opened(self.folder / shard["name"])
            return self._read(file, shard, row)
        except (OSError, SafetensorError) as error:
            raise BadFormat("a shard of the cohort is missing or damaged", "Fetch the cohort again.") from error

    def _read(self, file: Any, shard: dict[str, Any], row: int) -> Data | HeteroData:
        def one(name: str) -> Tensor:
            value: Tensor = file.get_slice(name)[row : row + 1][0]
            return value

        def some(pointers: str, *names: str) -> list[Any]:
            first, last = file.get_slice(pointers)[row : row + 2].tolist()
            return [file.get_slice(name)[first:last].numpy() for name in names]

        bundle = self.manifest["bundles"][shard["bundle"]]
        cell, score, feature = some("patch_ptr", "patch_cell", "patch_score", "patch_feature")
        concept, assertion = some("concept_ptr", "concept", "assertion")
        (relations,) = some("relation_ptr", "relation")
        fusion = tuple(one("fusion").tolist())
        size = bundle["working_size"]
        graph = FusedGraph(
            study=NOBODY,
            bundle=BundleId(bytes.fromhex(bundle["id"])),
            grid=Grid(size, size, size),  # of which both forms need the side alone
            patches=Patches(cell, score, feature),
            context=one("context").numpy(),
            concepts=Concepts(concept, assertion, relations),
            measurements=empty_measurements(),
            fusion=None if NONE in fusion else (fusion[0], fusion[1]),
            text_source=TextSource(SOURCES[int(one("source"))]),
            modality=MODALITIES[int(one("modality"))],
            view_position=VIEWS[int(one("view"))],
        )
        data = to_data(graph) if self.network else to_hetero(graph)
        patient, site = bytes(one("patient").tolist()), int(one("site"))
        data.key = bytes(one("key").tolist()).hex()
        data.patient = patient.hex() if any(patient) else None
        data.bundle, data.text_source = shard["bundle"], str(graph.text_source)
        data.modality, data.view_position = graph.modality, graph.view_position
        if site != NONE:
            data.site = self.manifest["sites"][site]
        return data


def verify_cohort(folder: Path) -> None:
    """Compare every shard with its digest. Raises BadFormat for the first one that differs."""
    for shard in read_manifest(folder)["shards"]:
        if not _is_whole(folder / shard["name"], shard["sha256"]):
            raise BadFormat("a shard of the cohort is missing or damaged", "Fetch the cohort again.")


def fetch_cohort(url: str, folder: Path) -> Path:
    """Bring a cohort from an object store into a folder; one that was interrupted goes on. Returns the folder. Raises
    BadConfiguration, BadFormat, ObjectStoreBusy, StorageFailed, DiskFull."""
    disk = Disk()
    store = object_store(url, disk)
    disk.make_folder(folder)
    found = store.get(MANIFEST)
    if found is None:
        raise BadFormat("there is no whole cohort at this URL", "Let its export end.")
    for shard in json.loads(found)["shards"]:
        path = folder / Path(shard["name"]).name
        if not _is_whole(path, shard["sha256"]):
            data = store.get(shard["name"])
            if data is None or hashlib.sha256(data).hexdigest() != shard["sha256"]:
                raise BadFormat("a shard of the cohort is missing or damaged in the object store", "Export it again.")
            disk.write(path, data, "cohort")
    disk.write(folder / MANIFEST, found, "cohort")
    return folder


def _is_whole(path: Path, digest: str) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == digest
    except OSError:
        return False


def _index(words: tuple[str, ...], word: str) -> int:
    return words.index(word) if word in words else len(words) - 1


def _pointers(counts: Sequence[int]) -> Any:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
