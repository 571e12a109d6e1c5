"""Tries every adversarial configuration and metadata value, and counts: for docs/reliability.md.

    .venv/bin/python tests/count_adversarial.py [--settings-only]

The same ones as in tests/test_adversarial.py and tests/test_adversarial_metadata.py; the latter
boot a simulated machine. Ends with another status than 0 when a promise is broken.
"""

import asyncio
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests import test_adversarial_metadata as metadata
from tests.adversarial import KINDS
from tests.test_adversarial import Outcomes, examine


def table(outcomes: Outcomes) -> str:
    """By kind: in how many configurations it was, and what became of them."""
    planned, refused = Counter[str](), Counter[str]()
    for given, outcome in outcomes:
        (planned if outcome.deployment else refused).update(given.kinds)
    lines = [f"{'has in it':24}{'tried':>8}{'planned':>9}{'refused':>9}"]
    for kind in KINDS:
        tried = planned[kind] + refused[kind]
        lines.append(f"{kind:24}{tried:8}{planned[kind]:9}{refused[kind]:9}")
    return "\n".join(lines)


def main() -> int:
    """Exit status: 1 when a promise is broken."""
    asyncio.set_event_loop(asyncio.new_event_loop())
    with tempfile.TemporaryDirectory() as folder:
        outcomes = examine(Path(folder))
    planned = sum(1 for _, outcome in outcomes if outcome.deployment)
    different = len({(given.stack, given.changes) for given, _ in outcomes})
    print(f"{len(outcomes)} configurations, {different} of them different:")
    print(f"{planned} planned as meant, {len(outcomes) - planned} refused in words, 0 otherwise.\n")
    print(table(outcomes))
    return 0 if "--settings-only" in sys.argv[1:] else boot()


def boot() -> int:
    """The metadata's part: boots the machine, and counts. Exit status as in `main`."""
    tests = [sys.executable, "-m", "pytest", "-q", "--no-header", metadata.__file__]
    status = subprocess.run(tests, cwd=Path(__file__).parents[1]).returncode
    refused = metadata.cases()
    whole = len(metadata.ARGUMENTS) + len(metadata.VARIABLES)
    print(
        f"\n{len(refused) + whole + len(metadata.PHASES)} metadata values:"
        f" {len(refused)} for {len(metadata.SPECIAL)} keys, to be refused by name;"
        f" {len(metadata.ARGUMENTS)} arguments and {len(metadata.VARIABLES)} variables of the"
        f" engine, to arrive whole; {len(metadata.PHASES)} expressions. Nothing that was injected"
        f" is to run: {'it held' if status == 0 else 'IT DID NOT HOLD'}."
    )
    return int(status != 0)


if __name__ == "__main__":
    raise SystemExit(main())
