"""Fault scripts, rows on disk and tables of the link laboratory; rows are made up here."""

import json
import os
import sys
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pydicom
import pytest

from benchmarks.link import tables
from benchmarks.link.__main__ import cases, main, parse
from benchmarks.link.faults import Act, AfterBytes, Barrage, PowerCuts, kill, outage
from benchmarks.link.model import Counts
from benchmarks.link.peers import PEERS
from benchmarks.link.peers.recompress import recompressed
from benchmarks.link.rows import Rows
from benchmarks.link.scenarios import SCENARIOS, Case
from benchmarks.link.shared_counters import SharedCounters
from benchmarks.link.studies import STUDIES, make_study, pixels, study_file


def test_an_outage_begins_with_the_bytes_and_ends_with_the_clock() -> None:
    script = outage(1000, 60.0)
    assert script.due(5.0, 999, False) == []
    assert script.due(6.0, 1000, False) == [Act.CUT]
    assert script.due(65.9, 1000, True) == []
    assert script.due(66.0, 1000, True) == [Act.BACK]
    assert script.due(99.0, 9999, False) == []


def test_what_is_killed_is_started_again() -> None:
    for clinic, acts in ((True, [Act.KILL_CLINIC, Act.START_CLINIC]), (False, [Act.KILL_HUB, Act.START_HUB])):
        script = kill(10, clinic)
        assert script.due(0.0, 10, False) + script.due(9.0, 10, False) == acts


def test_a_script_that_is_looked_at_late_leaves_nothing_out() -> None:
    script = AfterBytes(0, ((0.0, Act.CUT), (1.0, Act.BACK), (2.0, Act.CUT)))
    assert script.due(0.0, 0, False) == [Act.CUT]
    assert script.due(7.0, 0, False) == [Act.BACK, Act.CUT]


def test_a_power_cut_ends_the_clinics_processes() -> None:
    cuts = PowerCuts()
    acts = [cuts.due(at, 0, down) for at, down in enumerate([False, True, True, False, False])]
    assert acts == [[], [Act.KILL_CLINIC], [], [Act.START_CLINIC], []]


def test_a_barrage_follows_from_its_seed_and_repairs_what_it_breaks() -> None:
    def script(seed: int) -> list[Act]:
        barrage = Barrage(Random(seed))
        return [act for second in range(0, 7000) for act in barrage.due(second / 10, 0, False)]

    assert script(1) == script(1) != script(2)
    acts = script(1)
    assert acts.count(Act.CUT) == acts.count(Act.BACK) == 20
    assert acts.count(Act.KILL_CLINIC) == acts.count(Act.START_CLINIC) > 0
    assert acts.count(Act.KILL_HUB) == acts.count(Act.START_HUB) > 0


def test_counters_are_seen_by_another_that_maps_the_file(tmp_path: Path) -> None:
    with SharedCounters(tmp_path / "board") as mine, SharedCounters(tmp_path / "board") as its:
        mine.switch(True)
        assert (its.begun, mine.ready) == (None, False)
        mine.begin(12.5)
        assert (its.begun, its.switched_down, mine.ready) == (12.5, True, False)
        its.tell_ready()
        its.tell_down(True)
        its.tell(Counts(5, 500, 3, 300, 1, 1, 0), Counts(delivered_bytes=7))
        its.tell_late(0.004)
        its.tell_late(0.0061)
        assert mine.ready
        assert mine.is_down
        assert (mine.up.offered, mine.up.delivered_bytes, mine.up.overflowed) == (5, 300, 1)
        assert mine.down.delivered_bytes == 7
        assert mine.lateness == pytest.approx((0.0061, 1))


def test_a_row_is_kept_and_found_again(tmp_path: Path) -> None:
    rows, case = Rows(tmp_path / "rows"), Case("transfer", "gprs", "https", "1MB-8bit")
    assert rows.find(case) is None
    rows.keep(case, {"a": 1})
    assert rows.find(case) == {"a": 1}
    assert rows.of([Case("transfer", "gprs", "rsync", "1MB-8bit"), case]) == [{"a": 1}]


def test_every_peer_of_a_run_meets_the_same_line() -> None:
    seeds = {Case("transfer", "gprs", peer, "1MB-8bit", 1).seed for peer in PEERS}
    assert len(seeds) == 1
    assert seeds != {Case("transfer", "gprs", "https", "1MB-8bit", 2).seed}
    phases = {Case("transfer", "flaky-vsat", peer, "1MB-8bit", 1).phase for peer in PEERS}
    assert len(phases) == 1
    assert 0 < phases.pop() < 40
    assert Case("transfer", "vsat", "https", "1MB-8bit").phase == 0


def test_the_cases_are_what_was_asked_for() -> None:
    everything = list(cases(parse([])))
    assert {case.scenario for case in everything} == set(SCENARIOS)
    assert len({case.name for case in everything}) == len(everything)
    # 10 MB on 64 kbit/s takes longer than a bench has.
    assert not [case for case in everything if case.profile == "gprs" and case.study.startswith("10MB")]
    assert [case.name for case in cases(parse(["--quick", "--peers", "https"]))]
    chosen = list(cases(parse(["--scenarios", "transfer", "--profiles", "leo", "--peers", "https", "--repeats", "2"])))
    assert [(case.study, case.repeat) for case in chosen] == [
        (s, r) for r in (0, 1) for s in ("1MB-8bit", "10MB-12bit")
    ]
    with pytest.raises(SystemExit):
        parse(["--profiles", "warp"])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return study_file(STUDIES["small-8bit"], tmp_path_factory.mktemp("studies"))


def test_a_study_follows_from_its_seed(small: Path) -> None:
    assert make_study(STUDIES["small-8bit"]) == small.read_bytes()
    file = pydicom.dcmread(small)
    assert (file.BitsAllocated, file.BitsStored, file.pixel_array.dtype) == (8, 8, np.uint8)
    assert "SYNTHETIC" in file.PatientName


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"])
def test_recompression_loses_nothing(small: Path, tmp_path: Path, syntax: str) -> None:
    made = recompressed(small, syntax, tmp_path / "made.dcm")
    assert pydicom.dcmread(made).file_meta.TransferSyntaxUID == syntax
    assert made.stat().st_size < small.stat().st_size
    assert np.array_equal(pixels(made), pixels(small))


def row(peer: str, profile: str = "gprs", **more: Any) -> dict[str, Any]:
    journey: dict[str, Any] = {"study": "a", "bytes": 1000, "given": 1.0, "moments": {}, "attempts": 1, "failures": []}
    journey["needed_bytes"] = 1000
    journey |= {"kept_at_failure": [], "verified": True} | more.pop("journey", {})
    base = {"scenario": "transfer", "profile": profile, "peer": peer, "study": "1MB-8bit", "repeat": 0}
    base |= {"taken_at": 1.8e9, "versions": {"thinwire commit": "abc1234"}}
    base |= {"congestion": "cubic", "emulation": "packets", "silences": [], "up_bytes_sent": 1200}
    return base | {"journeys": [journey]} | more


def test_a_table_has_medians_and_says_what_failed() -> None:
    ours = {"moments": {"accepted": 2.0, "tier0_made": 2.4, "tier0": 3.0, "stored": 42.0}}
    never = {"moments": {}, "failures": [{"at": 60.0, "what": "timeout"}], "verified": False}
    rows = [
        row("thinwire", journey=ours, sealed={"graph": 800}),
        row("thinwire-pixels", journey={"moments": {"accepted": 2.0, "stored": 34.0}}),
        row("storescu", journey={"moments": {"stored": 58.0}}),
        row("storescu", journey={"moments": {"stored": 60.0}}, repeat=1),
        row("storescu", journey=never, repeat=2),
        row("https", journey={"moments": {"stored": 81.0}}),
    ]
    table = tables.transfers(rows, "1MB-8bit")
    assert "| storescu, study stored, from the command | 58.0 s (1 of 3 failed) |" in table
    assert "| thinwire, study stored, from accepted | 40.0 s |" in table
    # A peer that failed once is not the best one.
    assert "| gprs | 1MB-8bit | https, 80.0 s | 80 times sooner | 0.50 | 0.40 |" in tables.against(rows)
    # Half of 700 ms and 800 bytes at 64 kbit/s.
    assert "| 800 B | 0.450 s | 0.600 s | 1.33 |" in tables.floors(rows)


def test_aims_are_met_or_not() -> None:
    ours = {"moments": {"accepted": 2.0, "tier0_made": 2.4, "tier0": 2.9, "stored": 42.0}}
    small = [{"given": 0.0, "moments": {"tier0_made": 1.0, "tier0": 1.0 + each / 100}} for each in range(40, 50)]
    late = [{"given": 0.0, "moments": {"tier0_made": 1.0, "tier0": 1.0 + each / 50}} for each in range(40, 50)]
    rows = [
        row("thinwire", journey=ours, sealed={"graph": 800}),
        row("https", journey={"moments": {"stored": 41.0}}),
        row("thinwire", "vsat", scenario="urgent-idle", urgent=small),
        row("thinwire", "vsat", scenario="urgent-bulk", urgent=late, line_share=0.96),
        row("thinwire", "vsat", scenario="outage", silences=[0.5, 2.5]),
        row("thinwire", "vsat", scenario="barrage", up_bytes_sent=1320),
        row("thinwire", "vsat", scenario="no-barrage"),
    ]
    assert [(came.split(" ")[0], met) for _, came, met in tables.aims(rows)] == [
        ("1", True),  # 0.5 s, and 0.45 s is the floor
        ("44", False),
        ("2.00", False),
        ("0.98", True),
        ("96%", True),
        ("1.00", False),
        ("2.50", False),
        ("1", True),
        ("1.10", False),
    ]


def test_faults_and_urgent_studies_have_their_tables() -> None:
    lost = {"failures": [{"at": 70.0, "what": "exit code 1"}], "kept_at_failure": [0], "moments": {"stored": 200.0}}
    rows = [row("storescu", "vsat", scenario="outage", journey=lost, silences=[31.0])]
    assert "| 1 of 1 | 200 s | 1 (exit code 1) | 0 B | 31.0 s | 1,200 / 1,000 |" in tables.faults(rows)
    urgent = [{"given": at, "moments": {"tier0_made": at + 1, "tier0": at + 1.5 + at / 100}} for at in range(10)]
    more: dict[str, Any] = {"scenario": "urgent-bulk", "urgent": urgent, "line_share": 0.964}
    table = tables.urgents([row("thinwire", "vsat", **more)])
    assert "| vsat | thinwire | urgent-bulk | 10 | 0.54 s | 0.59 s | 0.59 s | 96% |" in table
    assert "none arrived" in tables.urgents([row("storescu", **(more | {"urgent": []}))])


def test_the_page_names_what_was_not_measured(tmp_path: Path) -> None:
    moments = {"accepted": 2.0, "tier0": 3.0, "stored": 9.0}
    rows = [row("thinwire", journey={"moments": moments}), row("https", taken_at=1.8e9 + 600)]
    told: dict[str, object] = {"command": "c", "machine": "m", "file": "link.json", "skipped": {"rsync": "not here"}}
    told["not_taken"] = ["transfer.edge.https.1MB-8bit.0", "transfer.edge.https.1MB-8bit.1"]
    page = tables.document(rows, told)
    assert "rsync (not here)" in page
    assert "not run: transfer, edge, 1MB-8bit (2 runs). `link.json` names them." in page
    assert "packets" in page
    assert "Medians of 1 run. Taken between 2027-01-15 08:00 and 2027-01-15 08:10 UTC; thinwire at abc1234." in page
    assert "never" in tables.transfers(rows, "1MB-8bit")
    (picture,) = tables.plots(rows, tmp_path)
    assert picture.stat().st_size > 1000
    json.dumps(rows)


def test_without_root_the_bench_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "argv", ["benchmarks.link", "--quick"])
    assert main() == 2
    said = capsys.readouterr().err
    assert "need root" in said or "not Linux" in said
    assert "--relay" in said
