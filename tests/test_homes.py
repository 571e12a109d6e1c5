"""Where rehearsals live."""

import threading
import time
from pathlib import Path

import pytest

from rehearsal import homes


@pytest.mark.timeout(30)
def test_two_that_begin_at_the_same_moment_have_a_home_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one process, too: faults are played in two worlds at a time."""
    for name, path in (("ALL", ""), ("RUNS", "runs"), ("LAST", "last")):
        monkeypatch.setattr(homes, name, tmp_path / path)
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_000_000_000)
    both = threading.Barrier(2, timeout=20)
    seen: list[Path] = []

    def live() -> None:
        with homes.one_run() as home:
            seen.append(home)
            both.wait()

    threads = [threading.Thread(target=live, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert len(set(seen)) == 2
    assert [path.name for path in (tmp_path / "runs").iterdir()] == []
