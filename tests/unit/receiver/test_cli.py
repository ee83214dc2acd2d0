"""The commands as a person runs them; the served hub has its own tests with real processes."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest
from typer.testing import CliRunner, Result

from benchmarks.load.filled_hub import fill
from tests.support.dicoms import chest, dicom
from tests.support.hub_folder import StudyParts, join, study_parts
from tests.support.power import Fuse, PowerCut
from tests.support.tiny_bundle import tiny_bundle
from thinwire.receiver.cli.bundle import figures
from thinwire.receiver.cli.main import app, main
from thinwire.receiver.cli.models import training_installed
from thinwire.receiver.cli.progress import meter
from thinwire.receiver.config import Settings, load_settings
from thinwire.receiver.forward.forwarding import forwarders
from thinwire.receiver.hub import open_hub
from thinwire.receiver.inference.bundles import Bundles, add_bundle
from thinwire.receiver.transport.link_status import SiteLink, write_status
from thinwire.shared.clock import SystemClock
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.crypto.keys import read_token
from thinwire.shared.errors import BadBundle, BadConfiguration, BadInput, ThinwireError, UnknownBundle, UnknownStudy
from thinwire.shared.formats.bundle import MPNN, Bundle, write_index
from thinwire.shared.identifiers import SiteName
from thinwire.shared.logs import LogFormat
from thinwire.shared.storage.durable import Disk


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def said(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def data(tmp_path: Path, bundle: Bundle) -> str:
    folder = str(tmp_path / "hub")
    said(run("init", "--data", folder, "--bundle", str(bundle.folder)))
    return folder


@pytest.fixture
def parts(data: str, bundle: Bundle) -> StudyParts:
    """One study that the hub has read, without its originals."""
    with open_hub(Path(data), SystemClock()) as hub:
        clinic, pipeline = join(hub), hub.pipeline()
        made = study_parts(clinic, bundle)
        part = made.graph
        pipeline.put(clinic.site, part.object, part.header, part.plaintext, True)
        pipeline.predict_waiting()
    return made


def test_a_hub_is_never_replaced(data: str, bundle: Bundle, tmp_path: Path) -> None:
    result = run("init", "--data", data, "--bundle", str(bundle.folder))
    assert isinstance(result.exception, BadConfiguration)
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    assert isinstance(run("init", "--data", str(other), "--bundle", str(bundle.folder)).exception, BadConfiguration)


def test_enrol_prints_the_token_and_nothing_else(data: str) -> None:
    out = said(run("enrol", "north-valley", "--data", data))
    assert read_token(out).site == SiteName("north-valley")
    assert out.count("\n") == 1
    told = json.loads(said(run("enrol", "north-valley", "--data", data, "--json")))
    assert read_token(told["token"]).site == told["site"]
    assert told["expires"].endswith("Z")


def test_export_without_a_study_is_for_clinics(data: str, parts: StudyParts, tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    assert said(run("export", "--data", data, "--to", str(stick))) == "north-valley: 2 receipts\n"
    (reply,) = (stick / "receipts").iterdir()
    told = json.loads(said(run("import", str(stick), "--data", data, "--json")))
    assert told == {"objects": [], "graphs_read": 0, "missing": {}, "receipts_on_the_stick": {}}
    assert reply.exists()
    assert isinstance(run("import", str(tmp_path / "nowhere"), "--data", data).exception, BadInput)


@pytest.mark.parametrize("revoke", [("revoke",), ("enrol", "--remove")])
def test_enrol_refuses_what_is_no_name_and_revoke_ends_it(data: str, revoke: tuple[str, ...]) -> None:
    assert isinstance(run("enrol", "North Valley", "--data", data).exception, BadInput)
    with open_hub(Path(data), SystemClock()) as hub:
        join(hub)
        join(hub, "coast")
        said(run(*revoke, "coast", "--data", data))
        assert hub.enrolment.served() == ["north-valley"]
    assert run(*revoke, "nowhere", "--data", data).exit_code != 0


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (("request", "preview"), Kind.PREVIEW),
        (("request", "crops"), Kind.CROPS),
        (("request", "originals"), Kind.ORIGINALS),
        (("ask", "evidence"), Kind.CROPS),
        (("ask", "pixels"), Kind.ORIGINALS),
    ],
)
def test_a_tier_is_requested_by_its_name_or_its_older_one(
    data: str, parts: StudyParts, words: tuple[str, str], kind: Kind
) -> None:
    said(run(words[0], parts.study.hex()[:8], words[1], "--data", data))
    with open_hub(Path(data), SystemClock()) as hub:
        assert hub.store.requested_parts(SiteName("north-valley")) == [(parts.study, kind)]
    assert run("request", parts.study.hex()[:8], "graph", "--data", data).exit_code == 2


@pytest.mark.parametrize("option", ["--name-on-reports", "--shown"])
def test_an_account_has_the_name_for_reports(data: str, option: str) -> None:
    said(run("account", "add", "a.lund", option, "Dr. Anna Lund", "--data", data))
    assert said(run("account", "list", "--data", data)) == "a.lund\treader\tDr. Anna Lund\tlink not used yet\n"
    assert run("account", "add", "b.lund", "--data", data).exit_code == 2


def test_older_names_are_hidden(data: str) -> None:
    assert " ask " not in said(run("--help"))
    for command in (("enrol",), ("account", "add"), ("train",)):
        assert not {"--remove", "--shown", "--painting"} & set(said(run(*command, "--help")).split())


def test_an_empty_worklist_is_a_worklist(data: str) -> None:
    assert json.loads(said(run("worklist", "--data", data, "--json"))) == []
    assert "0 studies" in said(run("worklist", "--data", data))


def test_the_worklist_is_a_page_of_what_is_to_read_and_all_of_it_on_request(data: str) -> None:
    fill(Path(data), 100, [number < 90 for number in range(100)], SystemClock().now())
    shown = run("worklist", "--data", data)
    assert "90 studies to read" in said(shown)
    assert shown.stderr.strip() == "50 more to read; --all lists every study."
    page = json.loads(run("worklist", "--data", data, "--json").stdout)
    assert len(page) == 40
    whole = run("worklist", "--data", data, "--all", "--json")
    every = json.loads(said(whole))
    assert whole.stderr == ""
    assert every[:40] == page
    assert [row["report"] == "final" for row in every] == [False] * 90 + [True] * 10
    assert len({row["study"] for row in every}) == 100
    assert "100 studies\n" in said(run("worklist", "--data", data, "--all"))


def test_worklist_and_show(data: str, parts: StudyParts) -> None:
    (row,) = json.loads(said(run("worklist", "--data", data, "--json")))
    assert row["study"] == parts.study.hex()
    assert row["urgent_asked"] is True
    assert row["urgency"] in ("immediate", "urgent", "uncertain")
    assert parts.study.hex()[:8] in said(run("worklist", "--data", data))
    shown = json.loads(said(run("show", parts.study.hex()[:6], "--data", data, "--json")))
    more: dict[str, object] = {
        "arriving": {},
        "draft": None,
        "other_predictions": [],
        "picture": None,
        "sop_instance_uid": None,
    }
    assert shown == {**row, **more, "warnings": []}
    assert parts.study.hex() in said(run("show", parts.study.hex()[:6].upper(), "--data", data))
    assert isinstance(run("show", "nothing", "--data", data).exception, UnknownStudy)
    assert isinstance(run("show", parts.study.hex(), "--data", data, "--site", "other").exception, UnknownStudy)


def test_a_prefix_of_two_studies_is_refused(data: str, parts: StudyParts, bundle: Bundle) -> None:
    with open_hub(Path(data), SystemClock()) as hub:
        clinic = join(hub, "south-ridge")
        part = study_parts(clinic, bundle).graph
        hub.pipeline().put(clinic.site, part.object, part.header, part.plaintext, False)
    assert isinstance(run("show", parts.study.hex(), "--data", data).exception, UnknownStudy)
    said(run("show", parts.study.hex(), "--data", data, "--site", "south-ridge"))


def test_export_asks_for_the_originals_and_writes_them_once_they_are_here(
    data: str, parts: StudyParts, tmp_path: Path
) -> None:
    stem = parts.study.hex()[:16]
    names = [f"{stem}.graphml", f"{stem}.png", f"{stem}.pyg.safetensors", f"{stem}.thinwire"]
    said(run("export", parts.study.hex(), "--data", data, "--to", str(tmp_path / "a")))
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == names
    with open_hub(Path(data), SystemClock()) as hub:
        (site,) = hub.enrolment.site_names()
        assert len(hub.store.requested_parts(site)) == 1
        clinic = join(hub, site)
        part = clinic.seal(parts.originals.header.kind, parts.study, parts.originals.plaintext)
        hub.pipeline().put(site, part.object, part.header, part.plaintext, False)
    said(run("export", parts.study.hex(), "--data", data, "--to", str(tmp_path / "b")))
    restored = sorted((tmp_path / "b" / stem).iterdir())
    assert tuple(path.read_bytes() for path in restored) == parts.files


def test_export_writes_the_result_as_dicom_where_nothing_was_drafted(data: str, bundle: Bundle, tmp_path: Path) -> None:
    image = dicom(chest(300, 280), ViewPosition="PA")
    with open_hub(Path(data), SystemClock()) as hub:
        clinic, pipeline = join(hub), hub.pipeline()
        parts = study_parts(clinic, bundle, files=(image,))
        for part in (parts.graph, parts.originals):
            pipeline.put(clinic.site, part.object, part.header, part.plaintext, False)
        pipeline.predict_waiting()
    said(run("export", parts.study.hex(), "--data", data, "--to", str(tmp_path / "out")))
    stem = parts.study.hex()[:16]
    classes = {path.name: pydicom.dcmread(path).SOPClassUID for path in (tmp_path / "out").glob("*.dcm")}
    assert classes == {
        f"{stem}.sr.dcm": pydicom.uid.ComprehensiveSRStorage,
        f"{stem}.capture.dcm": pydicom.uid.SecondaryCaptureImageStorage,
    }
    assert not (tmp_path / "out" / f"{stem}.draft.json").exists()


def test_a_bundle_shows_its_card_and_its_figures(bundle: Bundle, tmp_path: Path) -> None:
    shown = said(run("bundle", "show", str(bundle.folder)))
    assert "it knows nothing" in shown
    assert bundle.id.hex() in shown
    told = json.loads(said(run("bundle", "show", str(bundle.folder), "--json")))
    assert (told["id"], told["name"], told["figures"]) == (bundle.id.hex(), bundle.spec.name, {})
    assert json.loads(said(run("bundle", "show", "--json")))["card"].startswith("# Model card")
    assert isinstance(run("bundle", "show", str(tmp_path)).exception, BadConfiguration)


def test_a_bundle_is_added_whole_and_may_become_the_default(data: str, bundle: Bundle, tmp_path: Path) -> None:
    other = tiny_bundle(tmp_path / "other", seed=1)
    with open_hub(Path(data), SystemClock()) as serving:
        with pytest.raises(UnknownBundle):
            serving.bundles.bundle(other.id)
        for _ in range(2):
            said(run("bundle", "add", str(other.folder), "--data", data))
        assert serving.bundles.predictor(other.id).spec == other.spec
    ids = sorted([bundle.id.hex(), other.id.hex()])
    told = json.loads(said(run("bundle", "list", "--data", data, "--json")))
    assert [row["id"] for row in told] == ids
    assert [row["id"] for row in told if row["default"]] == [bundle.id.hex()]
    said(run("bundle", "default", other.id.hex()[:8], "--data", data))
    assert f"{other.id.hex()} {other.spec.name} (default)" in said(run("bundle", "list", "--data", data))
    assert isinstance(run("bundle", "default", "no such", "--data", data).exception, UnknownBundle)
    said(run("bundle", "add", str(bundle.folder), "--data", data, "--default"))
    (Path(data) / "bundles" / other.id.hex() / MPNN).write_bytes(b"")
    assert f"{other.id.hex()} damaged\n" in said(run("bundle", "list", "--data", data))
    assert isinstance(run("bundle", "default", other.id.hex(), "--data", data).exception, BadBundle)


@pytest.mark.parametrize("harm", ["altered", "does not load"])
def test_a_bundle_that_cannot_be_used_is_not_added(data: str, tmp_path: Path, harm: str) -> None:
    other = tiny_bundle(tmp_path / "other", seed=1)
    (other.folder / MPNN).write_bytes(b"no weights")
    if harm == "does not load":
        write_index(other.folder, other.spec, {}, {})
    before = sorted(path.name for path in (Path(data) / "bundles").iterdir())
    assert isinstance(run("bundle", "add", str(other.folder), "--data", data, "--default").exception, BadBundle)
    assert sorted(path.name for path in (Path(data) / "bundles").iterdir()) == before


def test_wherever_the_power_is_cut_a_bundle_is_whole_or_not_there(data: str, bundle: Bundle, tmp_path: Path) -> None:
    folder, other = Path(data) / "bundles", tiny_bundle(tmp_path / "other", seed=1)
    watched = Fuse()
    add_bundle(tmp_path / "elsewhere", other.folder, Disk(watched))
    for step in dict.fromkeys(watched.passed):
        with pytest.raises(PowerCut):
            add_bundle(folder, other.folder, Disk(Fuse((step, 1))))
        added = Bundles(folder).ids() != [bundle.id]
        assert not added or Bundles(folder).bundle(other.id) == replace(other, folder=folder / other.id.hex())
        assert add_bundle(folder, other.folder, Disk()) == other.id
        shutil.rmtree(folder / other.id.hex())


def test_figures_are_named_by_their_path() -> None:
    tree = {"auc": {"nodule": 0.91234, "effusion": 1}, "made": "here"}
    assert list(figures(tree)) == [("auc / effusion", "1"), ("auc / nodule", "0.9123"), ("made", "here")]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["worklist", "--data", "nowhere"], BadConfiguration.code),
        (["enrol", "Not A Name", "--data", "nowhere"], BadInput.code),
        (["serve", "--data", "nowhere"], BadConfiguration.code),
        (["train", "all", "--out", "x", "--preset", "paper"], BadConfiguration.code),
        (["--help"], 0),
        (["no-such-command"], 2),
    ],
)
def test_an_error_is_a_line_a_remedy_and_a_code(
    arguments: list[str],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["thinwire-receiver", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code or 0) == code
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    if code > 2:
        assert shown.out == ""
        assert len(shown.err.strip().splitlines()) == 2


def test_what_training_alone_needs_is_named_where_it_is_missing() -> None:
    with pytest.raises(BadConfiguration, match="sacrebleu is not installed") as error, training_installed():
        raise ModuleNotFoundError(name="sacrebleu")
    assert "thinwire[receiver,training]" in error.value.remedy
    with pytest.raises(ModuleNotFoundError), training_installed():
        raise ModuleNotFoundError(name="thinwire.receiver.training.mistyped")


@pytest.mark.parametrize("command", ["init", "enrol", "serve", "worklist", "show", "export", "train", "evaluate"])
def test_every_command_teaches(command: str) -> None:
    assert "Example" in said(run(command, "--help"))


@pytest.mark.parametrize("listen", ["7443", "host:port", ":1", "127.0.0.1:99999"])
def test_an_address_that_is_none_is_refused(data: str, listen: str) -> None:
    assert isinstance(run("serve", "--data", data, "--listen", listen).exception, BadConfiguration)


@pytest.mark.parametrize("text", ["batch = 0", "no toml", "unknown = 1", "listen = 7"])
def test_a_wrong_setting_is_named(data: str, text: str) -> None:
    (Path(data) / "config.toml").write_text(text)
    result = run("worklist", "--data", data)
    assert isinstance(result.exception, ThinwireError)
    assert "config.toml" in result.exception.remedy


def test_every_setting_of_a_new_hub_s_file_can_be_uncommented(data: str) -> None:
    path = Path(data) / "config.toml"
    assert load_settings(Path(data)) == Settings()
    path.write_text(re.sub(r"^# ?", "", path.read_text(), flags=re.MULTILINE))
    settings = load_settings(Path(data))
    assert (settings.log, settings.reflection, settings.draft.enabled) == (LogFormat.JSON, True, True)
    assert settings.metrics.listen == "127.0.0.1:9464"
    assert [target.name for target in settings.forward.targets] == ["pacs"]


def test_the_environment_goes_before_the_file(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (Path(data) / "config.toml").write_text('batch = 7\nlisten = "127.0.0.1:9"\n')
    monkeypatch.setenv("THINWIRE_RECEIVER_BATCH", "9")
    with open_hub(Path(data), SystemClock()) as hub:
        assert (hub.settings.batch, hub.settings.listen) == (9, "127.0.0.1:9")


def test_progress_away_from_a_terminal_is_a_line_a_tenth() -> None:
    from io import StringIO

    from rich.console import Console

    out = StringIO()
    with meter(Console(file=out, width=80)) as progress:
        for done in range(101):
            progress("images", done, 100, f"{done} of 100")
        progress("graphs", 1, 1, "")
    assert len(out.getvalue().splitlines()) == 12


def test_status_names_every_clinic_whether_or_not_the_hub_serves(data: str) -> None:
    said(run("enrol", "north-valley", "--data", data))
    told = json.loads(said(run("status", "--data", data, "--json")))
    assert told == {"serving": False, "sites": ["north-valley"], "links": [], "parked": []}
    shown = said(run("status", "--data", data))
    assert "is not running" in shown
    assert "never connected" in shown
    valley = SiteLink(SiteName("north-valley"), True, SystemClock().now(), SystemClock().now())
    write_status(Path(data), [valley], SystemClock().now())
    told = json.loads(said(run("status", "--data", data, "--json")))
    assert (told["serving"], told["links"][0]["connected"]) == (True, True)


def test_what_goes_on_is_shown_and_tried_again(data: str, bundle: Bundle) -> None:
    assert "no target" in said(run("forward", "status", "--data", data))
    toml = '[[forward.targets]]\nname = "pacs"\nkind = "c-store"\nhost = "h"\nport = 104\ncalled = "PACS"\n'
    (Path(data) / "config.toml").write_text(toml)
    with open_hub(Path(data), SystemClock()) as hub:
        clinic = join(hub)
        parts = study_parts(clinic, bundle)
        for part in (parts.graph, parts.originals):
            pipeline = hub.pipeline()
            pipeline.put(clinic.site, part.object, part.header, part.plaintext, False)
        (each,) = forwarders(hub)
        assert each.work()
    shown = json.loads(said(run("forward", "status", "--data", data, "--json")))
    assert shown["targets"] == {"pacs": {"refused": 2}}
    assert {row["reason"] for row in shown["deliveries"]} == {"not a DICOM file"}
    assert "pacs: 2 refused" in said(run("forward", "status", "--data", data))
    assert "2 objects" in run("forward", "retry", "--data", data, "--study", parts.study.hex()[:6]).stderr
    assert isinstance(run("forward", "retry", "--data", data, "--target", "none").exception, BadInput)
    shown = json.loads(said(run("forward", "status", "--data", data, "--json")))
    assert shown["targets"] == {"pacs": {"waiting": 2}}


@pytest.mark.parametrize(
    "toml",
    [
        '[[forward.targets]]\nname = "Some Body"\nkind = "c-store"\nhost = "h"\nport = 104\ncalled = "PACS"\n',
        '[[forward.targets]]\nname = "pacs"\nkind = "c-store"\nhost = "h"\nport = 104\ncalled = "SEVENTEEN LETTERS"\n',
        2 * '[[forward.targets]]\nname = "pacs"\nkind = "fhir"\nurl = "http://h"\n',
        '[[forward.targets]]\nname = "pacs"\nkind = "ftp"\nurl = "http://h"\n',
    ],
)
def test_a_target_that_cannot_be_is_named(data: str, toml: str) -> None:
    (Path(data) / "config.toml").write_text(toml)
    error = run("forward", "status", "--data", data).exception
    assert isinstance(error, BadConfiguration)
    assert "forward" in str(error)
