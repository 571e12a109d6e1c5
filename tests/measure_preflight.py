"""Prints how long the preflight takes where every answer comes 150 ms late.

PYTHONPATH=. .venv/bin/python tests/measure_preflight.py
"""

import os
import tempfile
import time
from pathlib import Path

from tests.preflight_world import running
from tests.stack_config import STACKS

DELAY_S = 0.15


def main() -> None:
    """One line for each committed stack."""
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as here:
        os.environ.update(here.environment)
        for stack in STACKS:
            here.begin()
            here.answer(delay_s=DELAY_S)
            start = time.monotonic()
            found = here.look(stack)
            took = time.monotonic() - start
            ok = sum(it.verdict == "ok" for it in found.values())
            print(f"{stack}: {ok} of {len(found)} checks ok in {took:.1f} s")


if __name__ == "__main__":
    main()
