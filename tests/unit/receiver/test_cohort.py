"""A cohort for researchers: every graph once, nothing of identity, and the same cohort after a cut."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch_geometric.loader import DataLoader
from typer.testing import CliRunner

from tests.support.hub_folder import Clinic, StudyParts, fused, join, study_parts
from tests.support.object_store import bucket
from tests.support.plain_loop import Loop
from tests.support.planted import MARK
from tests.support.power import Fuse, PowerCut
from thinwire.receiver import cohort
from thinwire.receiver.cli.main import app
from thinwire.receiver.export.cohort_files import Cohort, fetch_cohort, verify_cohort
from thinwire.receiver.export.pyg import to_hetero
from thinwire.receiver.hub import Hub, open_hub
from thinwire.receiver.inference.mpnn import to_data
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import BadConfiguration, BadFormat
from thinwire.shared.formats.bundle import Bundle
from thinwire.shared.formats.coder import load_coder
from thinwire.shared.formats.payload import decode, encode
from thinwire.shared.storage.durable import Disk


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohort, "SHARD", 3)


def stored(hub: Hub, clinic: Clinic, bundle: Bundle, *seeds: int, patient: str = "P-1") -> list[StudyParts]:
    made = [study_parts(clinic, bundle, seed, identity={"PatientID": patient}) for seed in seeds]
    for parts in made:
        for part in (parts.graph, parts.manifest):
            hub.pipeline().put(clinic.site, part.object, part.header, part.plaintext, False)
    return made


def export(hub: Hub, to: Path | str, name_sites: bool = False) -> cohort.Cohort:
    return cohort.export_cohort(hub, str(to), name_sites, Loop, lambda *_: None)


def test_every_graph_is_in_the_cohort_as_the_hub_reads_it(
    hub: Hub, clinic: Clinic, bundle: Bundle, tmp_path: Path
) -> None:
    parts = stored(hub, clinic, bundle, 0, 1, 2, 3, patient="P-1") + stored(hub, clinic, bundle, 4, patient="P-2")
    done = export(hub, tmp_path / "out")
    assert (done.graphs, done.left_out, done.shards) == (5, 0, 2)
    verify_cohort(tmp_path / "out")
    plain, network = Cohort(tmp_path / "out"), Cohort(tmp_path / "out", network=True)
    graphs = {
        tuple(decoded.context): decoded
        for each in parts
        for decoded in [decode(each.graph.plaintext, each.study, lambda _: load_coder(bundle))]
    }
    assert len(plain) == len(graphs) == 5
    for number in range(5):
        wanted = graphs.pop(tuple(plain[number]["context"].x[0].tolist()))
        expected, read = to_hetero(wanted).to_dict(), plain[number].to_dict()
        for kind, values in expected.items():
            for name, value in values.items():
                assert torch.equal(torch.as_tensor(value), torch.as_tensor(read[kind][name])), (kind, name)
        assert torch.equal(to_data(wanted).x, network[number].x)
        assert torch.equal(to_data(wanted).edge_index, network[number].edge_index)
        assert (plain[number].text_source, plain[number].view_position) == (wanted.text_source, "PA")
    # Studies of one patient can be kept together; the batch loader of PyG takes it.
    patients = [each.patient for each in plain]
    assert sorted(patients.count(each) for each in set(patients)) == [1, 4]
    assert next(iter(DataLoader(network, batch_size=5))).num_graphs == 5


def test_nothing_of_a_patient_a_clinic_or_a_study_is_in_a_cohort(hub: Hub, bundle: Bundle, tmp_path: Path) -> None:
    clinic = join(hub, "zq000001k")
    parts = study_parts(clinic, bundle, 0, identity={"PatientID": "ZQ000002K", "PatientName": "ZQ000003K"})
    graph = replace(fused(bundle.id, parts.study, 0), modality="ZQ000004K", view_position="ZQ000005K")
    payload = encode(graph, load_coder(bundle))
    planted = clinic.seal(Kind.GRAPH, parts.study, payload)
    for part in (planted, parts.manifest):
        hub.pipeline().put(clinic.site, part.object, part.header, part.plaintext, False)
    study = hub.store.study(clinic.site, parts.study)
    assert study.patient is not None
    export(hub, tmp_path / "out")
    secrets = [study.study, study.patient, planted.object, next(iter(hub.blobs.pages()))[0]]
    files = sorted((tmp_path / "out").iterdir())
    assert [each.name for each in files] == ["manifest.json", "shard-000001.safetensors"]
    for path in files:
        data = path.read_bytes()
        assert MARK.findall(data.upper()) == []
        for secret in secrets:
            assert secret not in data
            assert secret.hex().encode() not in data
        assert b"2026" not in data  # no time
    (read,) = Cohort(tmp_path / "out")
    assert (read.modality, read.view_position) == ("other", "other")
    # Another cohort has other keys, and the hub keeps nothing that could tell whose they are.
    export(hub, tmp_path / "again", name_sites=True)
    (again,) = Cohort(tmp_path / "again")
    assert again.site == "zq000001k"
    assert {read.key, read.patient}.isdisjoint({again.key, again.patient})
    assert list((hub.data / "cohorts").iterdir()) == []


def test_a_cohort_that_is_cut_anywhere_becomes_the_same_one(
    hub: Hub, data: Path, clinic: Clinic, bundle: Bundle, tmp_path: Path
) -> None:
    stored(hub, clinic, bundle, *range(4))
    for cut in (("cohort.shard.before_rename", 1), ("cohort.shard.done", 1), ("cohort.manifest.before_rename", 1)):
        with open_hub(data, hub.clock, Disk(step=Fuse(cut))) as failing, pytest.raises(PowerCut):
            export(failing, tmp_path / "out")
        with pytest.raises(BadFormat):
            Cohort(tmp_path / "out")
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    stored(hub, clinic, bundle, 9)  # too late for this cohort
    assert export(hub, tmp_path / "out").graphs == 4
    assert all((tmp_path / "out" / name).read_bytes() == data for name, data in first.items())
    verify_cohort(tmp_path / "out")
    with pytest.raises(BadConfiguration):
        export(hub, tmp_path / "out")


def test_a_damaged_graph_is_left_out_and_counted(hub: Hub, clinic: Clinic, bundle: Bundle, tmp_path: Path) -> None:
    parts = stored(hub, clinic, bundle, 0, 1)
    for path in (hub.data / "blobs").rglob("*"):
        if path.is_file() and path.read_bytes() == parts[0].graph.plaintext:
            path.write_bytes(b"damaged")
    done = export(hub, tmp_path / "out")
    assert (done.graphs, done.left_out) == (1, 1)
    assert json.loads((tmp_path / "out" / "manifest.json").read_bytes())["left_out"] == 1


def test_a_cohort_in_a_bucket_is_fetched_and_goes_on(
    hub: Hub, data: Path, clinic: Clinic, bundle: Bundle, tmp_path: Path
) -> None:
    stored(hub, clinic, bundle, *range(4))
    with bucket() as url:
        with pytest.raises(BadFormat):
            fetch_cohort(url, tmp_path / "fetched")
        arguments = ["export", "--data", str(data), "--cohort", url, "--workers", "1", "--json"]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout) == {"graphs": 4, "left_out": 0, "shards": 2}
        fetch_cohort(url, tmp_path / "fetched")
        damaged = tmp_path / "fetched" / "shard-000002.safetensors"
        damaged.write_bytes(b"cut off")
        with pytest.raises(BadFormat):
            verify_cohort(tmp_path / "fetched")
        verify_cohort(fetch_cohort(url, tmp_path / "fetched"))
    assert len(Cohort(tmp_path / "fetched")) == 4
