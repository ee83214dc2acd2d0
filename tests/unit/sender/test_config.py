import re
from datetime import UTC, datetime, time
from pathlib import Path

import pytest

from thinwire.sender.config import SenderConfig, read_config, read_hours, read_when, template
from thinwire.sender.intake.deidentify import Identity
from thinwire.sender.intake.samples import Rectangle
from thinwire.sender.outbox.tiers import Hours, TierPolicy, When
from thinwire.shared.crypto.envelope import Kind
from thinwire.shared.errors import BadConfiguration
from thinwire.shared.logs import LogFormat


def configured(folder: Path, text: str) -> TierPolicy:
    (folder / "config.toml").write_text(text, encoding="utf-8")
    return read_config(folder).tier_policy()


def test_without_a_section_the_defaults_hold(tmp_path: Path) -> None:
    assert configured(tmp_path, 'hub = "hub:1"\n') == TierPolicy()


def test_a_clinic_chooses_when_parts_go(tmp_path: Path) -> None:
    policy = configured(
        tmp_path,
        """
        [tiers]
        preview = "always"
        crops = "on-request"
        originals = "in window"
        window = "19:30-05:00"
        monthly_bytes = 2_000_000_000
        time_zone = "Africa/Blantyre"
        """,
    )
    assert [policy.when[kind] for kind in (Kind.PREVIEW, Kind.CROPS, Kind.ORIGINALS)] == [
        When.ALWAYS,
        When.ON_REQUEST,
        When.IN_WINDOW,
    ]
    assert (policy.window, policy.budget) == (Hours(time(19, 30), time(5)), 2_000_000_000)
    assert policy.local(datetime(2026, 3, 4, 12, tzinfo=UTC)).hour == 14


def test_every_setting_of_a_new_clinic_s_file_can_be_uncommented(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(template('hub"\n:1'), encoding="utf-8")
    assert read_config(tmp_path).model_dump() == SenderConfig(hub='hub"\n:1').model_dump()
    path.write_text(re.sub(r"^# ?", "", path.read_text(), flags=re.MULTILINE), encoding="utf-8")
    config = read_config(tmp_path)
    assert (config.log, config.identity, config.page.port) == (LogFormat.JSON, Identity.SEALED, 8080)
    assert config.released().blank[0].rectangles[1] == Rectangle(-600, -80, 600, 80)
    assert config.dicom.machines["XRAY1"].report_port == 104
    assert config.tier_policy().budget == 2_000_000_000


def test_the_environment_goes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THINWIRE_SENDER_TIERS__ORIGINALS", "when idle")
    assert configured(tmp_path, '[tiers]\noriginals = "always"\n').when[Kind.ORIGINALS] is When.WHEN_IDLE


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('originals = "sometimes"', "when idle"),
        ('originals = "never"', "not complete"),
        ('graph = "on request"', "graph"),
        ('window = "night"', "20:00-06:00"),
        ("monthly_bytes = -1", "monthly_bytes"),
        ('time_zone = "Nowhere/Land"', "time zone"),
        ('time_zone = "/etc/passwd"', "time zone"),
    ],
)
def test_what_cannot_be_is_named(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(BadConfiguration, match=said):
        configured(tmp_path, f"[tiers]\n{line}\n")


FORMER = {
    "evidence": ('[tiers]\nevidence = "always"\n', "tiers.crops"),
    "pixels": ('[tiers]\npixels = "in window"\n', "tiers.originals"),
    "settle_seconds": ("[dicom]\nsettle_seconds = 3\n", "dicom.quiet_seconds"),
}


@pytest.mark.parametrize("former", FORMER)
def test_a_setting_under_its_former_name_still_holds(
    tmp_path: Path, former: str, caplog: pytest.LogCaptureFixture
) -> None:
    text, today = FORMER[former]
    section, name = today.split(".")
    (tmp_path / "config.toml").write_text(text.replace(former, name), encoding="utf-8")
    expected = read_config(tmp_path)
    assert caplog.messages == []
    assert expected != SenderConfig()
    (tmp_path / "config.toml").write_text(text, encoding="utf-8")
    assert read_config(tmp_path).model_dump() == expected.model_dump()
    assert caplog.messages == [f"setting {section}.{former} is read, but is now called {today}: rename it"]


@pytest.mark.parametrize("former", FORMER)
def test_a_setting_under_both_of_its_names_is_refused(tmp_path: Path, former: str) -> None:
    text, today = FORMER[former]
    (tmp_path / "config.toml").write_text(text + f"{today.split('.')[1]} = {text.split('= ')[1]}", encoding="utf-8")
    with pytest.raises(BadConfiguration, match=f"both are set; remove {former}"):
        read_config(tmp_path)


def test_the_environment_may_use_a_former_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THINWIRE_SENDER_TIERS__PIXELS", "when idle")
    monkeypatch.setenv("THINWIRE_SENDER_DICOM__SETTLE_SECONDS", "3")
    assert configured(tmp_path, '[tiers]\npixels = "always"\n').when[Kind.ORIGINALS] is When.WHEN_IDLE
    assert read_config(tmp_path).dicom.quiet_seconds == 3
    with pytest.raises(BadConfiguration, match="both are set"):
        configured(tmp_path, '[tiers]\noriginals = "always"\n')


IDENTITIES = {
    "send_identity = true\n": Identity.FULL,
    "send_identity = false\n": Identity.NONE,
    '[deidentify]\npolicy = "none"\n': Identity.FULL,
    '[deidentify]\npolicy = "basic"\ndates = "remove"\n': Identity.NONE,
    'send_identity = false\n[deidentify]\npolicy = "none"\n': Identity.NONE,
}


@pytest.mark.parametrize("text", IDENTITIES)
def test_the_former_settings_of_identity_become_its_word(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "config.toml").write_text(text, encoding="utf-8")
    config = read_config(tmp_path)
    assert (config.identity, "policy" in config.deidentify.model_dump()) == (IDENTITIES[text], False)
    (line,) = caplog.messages
    assert f'is read as identity = "{IDENTITIES[text]}"' in line


def test_the_environment_may_use_the_former_settings_of_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THINWIRE_SENDER_SEND_IDENTITY", "False")
    assert read_config(tmp_path).identity is Identity.NONE
    monkeypatch.setenv("THINWIRE_SENDER_SEND_IDENTITY", "true")
    monkeypatch.setenv("THINWIRE_SENDER_DEIDENTIFY__POLICY", "basic")
    assert read_config(tmp_path).identity is Identity.NONE
    (tmp_path / "config.toml").write_text('identity = "full"\n', encoding="utf-8")
    with pytest.raises(BadConfiguration, match="identity replaces"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('identity = "some"\n', "full"),
        ('[deidentify]\npolicy = "strict"\n', "now called identity"),
        ("[[deidentify.blank]]\nrectangles = [[0, 0, 5, 5]]\n", "released files alone"),
        ('identity = "none"\n[[deidentify.blank]]\nrectangles = [[0, 0, 5, 0]]\n', "width"),
        ('identity = "none"\n[[deidentify.blank]]\nmodell = "X"\nrectangles = [[0, 0, 5, 5]]\n', "modell"),
    ],
)
def test_what_identity_cannot_be_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BadConfiguration, match=said):
        configured(tmp_path, text)


def test_people_write_choices_in_their_way() -> None:
    assert {read_when(text) for text in ("on request", "on-request", " On_Request ")} == {When.ON_REQUEST}
    assert read_hours("8:00 - 17:30".replace("8:00", "08:00")) == Hours(time(8), time(17, 30))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[dicom]\nport = 11112\n", "nobody may send"),
        ("[dicom]\nport = 11112\n[dicom.machines.X]\nreport_port = 104\n", "address beside it"),
        ('[dicom]\naet = "too long for an AE title"\n', "aet"),
        ('[page]\nport = 80\nbind = "0.0.0.0"\n', "needs `hosts`"),
        ('log = "xml"\n', "log"),
    ],
)
def test_a_port_that_would_be_open_to_all_or_to_nobody_is_refused(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(BadConfiguration, match=what):
        configured(tmp_path, text)


def test_ports_are_closed_unless_configured(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("", encoding="utf-8")
    config = read_config(tmp_path)
    assert (config.dicom.port, config.page.port) == (None, None)
