"""docs/cold-start.md, and what it is reckoned from."""

import re
import subprocess
from pathlib import Path

import pytest

from rehearsal import figures
from tests import cold_starts, compare_cold_starts
from tests.cold_starts import CACHED, PREPARED, SIZES, TUTORIAL, WAYS, Way
from tests.measure_cold_starts import write_tutorial

ROOT = Path(__file__).parents[1]


def test_the_page_shows_todays_tables() -> None:
    """It holds what `tests/compare_cold_starts.py` writes today."""
    page = compare_cold_starts.PAGE.read_text()

    assert compare_cold_starts.written(page) == page


@pytest.mark.parametrize("way", [PREPARED, CACHED])
def test_a_prepared_disk_is_three_times_sooner_than_the_tutorials_order(way: Way) -> None:
    """For an 8B model on one L4."""
    size = compare_cold_starts.SIZE

    assert cold_starts.again_s(TUTORIAL, size) >= 3 * cold_starts.again_s(way, size)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.title)
def test_a_longer_phase_makes_no_start_shorter(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sums follow from the figures, one by one."""
    size = SIZES[1]
    before = cold_starts.again_s(way, size)
    chain = cold_starts.chain(cold_starts.again(way, size))
    moved = chain[0]

    longer = figures.FIGURES[moved.figure]._replace(seconds=moved.seconds + 100)
    monkeypatch.setitem(figures.FIGURES, moved.figure, longer)

    assert cold_starts.again_s(way, size) == pytest.approx(before + 100)


def test_the_tutorials_order_is_a_script_that_bash_takes(tmp_path: Path) -> None:
    """It takes main's place in the startup script, and the rest stays as it is."""
    write_tutorial(tmp_path, TUTORIAL)
    script = tmp_path / "scripts" / "startup.sh"

    text = script.read_text()
    subprocess.run(["bash", "-n", script], check=True)
    assert text.count("\nmain() {\n") == 1
    theirs = (ROOT / "scripts" / "startup.sh").read_text()
    ours = (ROOT / "tests" / "one_after_the_other.sh").read_text().replace("\\\n      ", "")
    phases = [it for it in re.findall(r"phase [^\n]*", ours) if "phase driver" not in it]
    for phase in phases:  # the very phases of the startup script, with its own arguments
        call = re.sub(r"\$(engine|tunnel)/", "$new/", phase)
        assert call in theirs.replace("\\\n      ", "")
    assert "phase driver sleep" in text
    assert 'main "$@" &' in text
