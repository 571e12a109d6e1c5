"""What a rehearsal tells: machines by JSON, people by a drawing and a few lines."""

import json
from pathlib import Path

import pytest

from rehearsal.report import COLUMNS, Report, draw, in_life, summary
from rehearsal.timeline import Event

UP = [
    Event("pulumi up", 100.0, 120.0),
    *(Event(f"create {number}", 101.0 + number / 100, 102.0, 11.0) for number in range(40)),
    Event("VM boot", 103.0, 104.0, 60.0),
    Event("pull vllm-openai", 104.0, 108.0, 214.0),
    Event("weights load", 108.0, 108.2, 8.0),
]


def test_what_had_to_wait_here_waits_in_life() -> None:
    """An event begins in life after all that had ended here before it, and overlaps the rest."""
    first, beside, after = in_life(
        [Event("a", 0, 1, 10.0), Event("b", 0.5, 2, 30.0), Event("c", 2, 3, 5.0)]
    )

    assert (first.start, first.end) == (0, 10)
    assert (beside.start, beside.end) == (0, 30)
    assert (after.start, after.end) == (30, 35)


def test_the_drawing_shows_what_takes_long_and_sums_up_the_rest() -> None:
    """Forty calls of eleven seconds are one line; the minutes of a pull have their own."""
    lines = draw(UP)

    assert len(lines) == 7
    assert "create: 40 calls, 11 s at most" in lines[2]
    assert "60 s" in lines[3]
    assert "3.6 min" in lines[4]
    assert lines[5].split()[:2] == ["weights", "load"]
    assert "4.9 min" in lines[1], "a stage's heading has its whole"


def test_the_drawing_shows_from_when_to_when_a_gpu_is_paid_for() -> None:
    """Here from the boot's middle on: 41 seconds into life, to the end of what is drawn."""
    events = [*UP, Event("GPU of llm-dev-x", 103.5, 200.0, holds="nvidia-l4")]

    (line,) = (line for line in draw(events) if "GPU of" in line)

    assert "░" in line
    assert "4.2 min" in line, "half the boot, the pull, the weights"


def test_the_drawing_fits_a_hundred_columns() -> None:
    """However long the names are."""
    long = [Event(f"{'x' * 80} {number}", 101, 102, 30.0) for number in range(3)]

    assert max(map(len, draw([*UP, *long]))) <= COLUMNS
    assert max(map(len, draw([*UP, *long], columns=79))) <= 79, "nor a narrow terminal"


def test_the_drawing_says_where_its_figures_come_from() -> None:
    """Estimates are named as such."""
    assert "rehearsal/figures.py" in draw(UP)[-1]
    assert "estimates" in draw(UP)[-1]


def test_without_anything_that_takes_time_nothing_is_drawn() -> None:
    """A rehearsal that ended early has no empty table."""
    assert draw([Event("pulumi up", 0, 1)]) == []


def test_the_json_report_has_what_its_readers_expect(tmp_path: Path) -> None:
    """Its keys are a contract; a stage that was not reached is null."""
    report = Report(stack="dev", platform="vm", resources=50, timeline=UP)
    report.seconds["up"] = 12.5
    report.check("curl is answered", True, "This is")
    report.write(tmp_path / "r.json")
    written = json.loads((tmp_path / "r.json").read_text())

    assert set(written) == {
        *("stack", "platform", "ok", "seconds", "resources", "second_up_changes", "leftovers"),
        *("checks", "timeline"),
    }
    assert written["ok"] is True
    assert written["seconds"] == {
        **{"setup": None, "up": 12.5, "noop_up": None, "destroy": None, "total": None}
    }
    assert written["checks"] == [{"name": "curl is answered", "ok": True, "detail": "This is"}]
    assert written["timeline"][0] == {"name": "pulumi up", "start": 0, "end": 20, "life": None}
    assert written["timeline"][1]["life"] == 11


def test_a_rehearsal_in_which_nothing_was_checked_has_not_passed() -> None:
    """An empty report is no success."""
    assert not Report(stack="dev", platform="vm").ok


def test_the_summary_names_what_failed_first() -> None:
    """A failed check stands above the verdict, with what was seen."""
    report = Report(stack="dev", platform="vm")
    report.check("curl is answered", True)
    report.check("both clouds are empty", False, "a network")
    lines = summary(report, speed=60)

    assert lines[0] == "  FAILED  both clouds are empty: a network"
    assert lines[1].endswith("FAILED.")
    assert "1 of 2 checks held" in lines[2]


@pytest.mark.parametrize("leftovers", [None, []])
def test_the_summary_says_left_over_only_where_somebody_looked(leftovers: list[str] | None) -> None:
    """With --keep nothing was audited, and nothing is claimed."""
    report = Report(stack="dev", platform="vm", leftovers=leftovers)

    assert ("0 left over" in summary(report, speed=60)[1]) == (leftovers is not None)


def test_the_summary_says_what_a_rehearsal_cannot_know() -> None:
    """Capacity, quota and the model's real speed."""
    text = " ".join(summary(Report(stack="dev", platform="vm"), speed=60))

    for unknown in ("capacity", "quota", "latency"):
        assert unknown in text
