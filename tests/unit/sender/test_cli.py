import json
from pathlib import Path

from typer.testing import CliRunner

from tests.support.dicoms import chest, dicom
from tests.support.tiny_bundle import tiny_bundle
from thinwire.sender.cli import app
from thinwire.sender.graph.budget import on_the_link
from thinwire.shared.crypto.envelope import sealed_size

run = CliRunner().invoke


def test_a_graph_takes_as_many_bytes_as_it_may(tmp_path: Path) -> None:
    study = tmp_path / "study.dcm"
    study.write_bytes(dicom(chest(400, 420)))
    bundle = tiny_bundle(tmp_path / "tiny").folder
    kept, overhead = [], on_the_link(0) - sealed_size(0)
    for most in (400, 4000):
        words = ["inspect", str(study), "--bundle", str(bundle), "--graph-bytes", str(most), "--json"]
        facts = json.loads(run(app, words, catch_exceptions=False).stdout)
        assert facts["bytes"]["graph"] + overhead <= most
        kept.append(facts["patches"]["kept"])
    assert kept[0] < kept[1]


def test_a_budget_without_a_graph_to_make_is_refused(tmp_path: Path) -> None:
    told = run(app, ["send", "study.dcm", "--data", str(tmp_path), "--graph-bytes", "400"])
    assert told.exit_code == 2
    assert "give --graph-bytes to `run`" in " ".join(told.output.replace("│", " ").split())
