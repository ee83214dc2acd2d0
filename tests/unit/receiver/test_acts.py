"""Every command that changes the hub, or shows or takes out a study, is in the audit log."""

import os
import pwd
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tests.support.hub_folder import Clinic, StudyParts
from thinwire.receiver.cli.acts import operator
from thinwire.receiver.cli.main import app
from thinwire.receiver.hub import Hub

AUDITED = {
    "account add",
    "account link",
    "account remove",
    "audit accept",
    "audit export",
    "backup",
    "bundle add",
    "bundle default",
    "predict-archive",
    "check",
    "draft",
    "enrol",
    "export",
    "forward retry",
    "import",
    "init",
    "keys retire",
    "keys rotate",
    "migrate",
    "move",
    "request",
    "restore",
    "retention erase",
    "retention hold",
    "retention release",
    "retention run",
    "retention undo",
    "retry",
    "revoke",
    "serve",
    "show",
    "site quota",
    "work",
}
READS_NO_STUDY = {
    "account list",
    "audit verify",
    "bundle list",
    "forward status",
    "keys list",
    "retention plan",
    "site list",
    "status",
    "worklist",
}
"""They change nothing and show no study's content or patient."""
AT_NO_HUB = {"bundle card", "bundle show", "evaluate", "train"}


def names(group: Any, above: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from names(command, f"{above}{name} ")
        elif not command.hidden:
            yield above + name


def test_every_command_is_known_to_be_audited_or_to_need_it_not() -> None:
    assert set(names(typer.main.get_command(app))) == AUDITED | READS_NO_STUDY | AT_NO_HUB


def run(hub: Hub, *words: str) -> None:
    done = CliRunner().invoke(app, [*words, "--data", str(hub.data)])
    assert done.exit_code == 0, done.output


def test_an_act_has_its_user_and_its_object(hub: Hub, clinic: Clinic, parts: StudyParts, tmp_path: Path) -> None:
    pipeline = hub.pipeline()
    for part in (parts.graph, parts.manifest):
        pipeline.put(clinic.site, part.object, part.header, part.plaintext, False)
    key = parts.study.hex()
    acts: list[tuple[tuple[str, ...], str]] = [
        (("enrol", "south-ridge"), 'ID="south-ridge"'),
        (("site", "quota", "south-ridge", "--bytes", "9"), "bytes 9"),
        (("site", "quota", "south-ridge", "--default"), "the default"),
        (("show", key), key),
        (("request", key, "crops"), key),
        (("export", key, "--to", f"{tmp_path}/out"), "Export"),
        (("retry",), "parked items"),
        (("forward", "retry"), "Forwarding repeated"),
        (("check", "--repair"), "Damaged parts requested"),
        (("bundle", "default", hub.bundles.default().hex()), hub.bundles.default().hex()),
        (("account", "add", "anna", "--name-on-reports", "Anna"), 'ID="anna"'),
        (("audit", "accept", "--reason", "a restored backup"), "a restored backup"),
        (("revoke", "south-ridge"), 'ID="south-ridge"'),
    ]
    for words, said in acts:
        before = hub.audit.head().number
        run(hub, *words)
        written = [each.message for each in hub.audit.entries(before)]
        assert len(written) == 1, words
        assert said in written[0], words
        assert f'UserID="{operator()}"' in written[0], words
    assert hub.audit.verify().number == hub.audit.head().number


def test_the_user_is_the_system_s_and_not_the_environment_s(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(name, "somebody-else")
    assert operator() == f"os:{pwd.getpwuid(os.getuid()).pw_name}"


def test_an_act_that_fails_says_so(hub: Hub) -> None:
    done = CliRunner().invoke(app, ["import", str(hub.data / "no-stick"), "--data", str(hub.data)])
    assert done.exit_code != 0
    ordered, failed = [each.message for each in hub.audit.entries()][-2:]
    assert 'EventOutcomeIndicator="0"' in ordered
    assert 'EventOutcomeIndicator="8"' in failed
