"""The table of what goes wrong: whole, sourced, and each kind of it played."""

import re
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from rehearsal import fault_run, homes, interruptions
from rehearsal.fault_library import FAULTS, PARTS
from rehearsal.fault_library.fault import Fault
from rehearsal.fault_library.machine import MORE_PHASES, PHASES
from rehearsal.fault_run import Finding
from rehearsal.progress import Progress
from rehearsal.watcher import Watch
from tests import tabulate_faults
from tests.conftest import ROOT

KINDS = (
    "operation-fails",  # an operation of a provider's
    "dns-record-exists",  # something made by hand
    "image-pull-throttled",  # a site that a machine asks
    "tunnel-deleted-outside",  # something changed by hand, and a repair that `up` names
    "engine-killed",  # a process in a machine
    "reboot-at-gpu",  # a machine
    "edge-drops-tunnel",  # the edge
    "passphrase-wrong",  # a person
    "tunnel-stays",  # a deletion
)
"""One of each kind."""


def test_the_library_is_whole() -> None:
    """Many faults, in every part of the world and at every moment, each named once."""
    rows = [fault for part in PARTS.values() for fault in part]

    assert len(rows) == len(FAULTS) >= 45
    assert all(len(part) >= 9 for part in PARTS.values())
    assert {fault.when for fault in rows} == {"up", "serving", "update", "destroy"}
    assert {fault.stack for fault in rows} == {"dev", "cloud-run"}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_every_fault_says_what_it_is_in_life_and_who_says_so(fault: Fault) -> None:
    """A sentence; a source, or that none was found and how it is played then."""
    assert re.fullmatch(r"[A-Z`].*\.", fault.life)
    assert len(fault.source) > 12
    if fault.source.startswith("nothing found"):
        assert fault.source.startswith("nothing found: ")
    re.compile(fault.says)


def test_a_reboot_is_played_at_every_phase_of_the_startup_script() -> None:
    """Each that `scripts/startup.sh` names, some on machines that are configured for it."""
    script = (ROOT / "scripts" / "startup.sh").read_text()
    named = set(re.findall(r"^ +phase ([a-z-]+) ", script, re.MULTILINE)) | {"engine-ready"}

    assert {*PHASES, *MORE_PHASES} == named


def test_the_same_seed_draws_the_same_interruptions() -> None:
    """As many of `up` as of `destroy`, in every way."""
    drawn = list(interruptions.moments(20, seed=1))

    assert Counter(fault.when for fault in drawn) == {"up": 20, "destroy": 20}
    assert all(fault.act for fault in drawn)
    assert {fault.repair for fault in drawn} == {(), (interruptions.REPAIR,)}


def test_the_report_and_the_tables_made_of_it_tell_what_was_found(tmp_path: Path) -> None:
    """Every fault with its source, what the user saw, and how often a stranger was refused."""
    watch = Watch(Counter({"public name": 30}), Counter({"public name 401": 30}), [], 1.5, 0.2)
    findings = [Finding(name, "QUOTA | 0", 2.4, True, watch=watch) for name in FAULTS]

    fault_run.write(findings, tmp_path / "faults.json")
    found = tabulate_faults.read(str(tmp_path / "faults.json"))

    assert found["quota-exceeded"]["watch"]["tried"] == {"public name": 30}
    told = tabulate_faults.summary(found)
    assert f"tried {30 * len(FAULTS)} times, once every 50 ms and at least every 200 ms" in told
    (row,) = [it for it in tabulate_faults.library(found) if it.startswith("| quota-exceeded |")]
    assert FAULTS["quota-exceeded"].source in row
    assert row.endswith(r"| QUOTA \| 0 | 2 | yes | nothing |")


@pytest.mark.rehearsal
def test_one_fault_of_each_kind_ends_as_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is known, the next `up` converges, nothing is left, nobody got in, nothing leaked."""
    with tempfile.TemporaryDirectory() as folder:
        for name, path in (("ALL", ""), ("RUNS", "runs"), ("LAST", "last")):
            monkeypatch.setattr(homes, name, Path(folder) / path)
        killed = list(interruptions.moments(3, seed=1))[-2:]
        chosen = [*(FAULTS[name] for name in KINDS), *killed]

        findings = fault_run.play(chosen, Progress())

    assert {it.fault: it.broken for it in findings if not it.ok} == {}
    assert all(it.converged for it in findings)
    for finding in findings:
        assert min(finding.watch.tried.values()) > 0
        assert finding.watch.let_in == []
