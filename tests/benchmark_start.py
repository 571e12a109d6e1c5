"""How much CPU the program's imports take, with the garbage collector as it is set, and as usual.

    .venv/bin/python tests/benchmark_start.py [--rounds N]

Every round starts Python anew, turn by turn, imports what `__main__.py` imports, and ends.
"""

import argparse
import ast
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

AS_USUAL = """
import atexit, gc
gc.set_threshold = lambda *numbers: None
register = atexit.register
atexit.register = lambda what, *args: None if what is gc.freeze else register(what, *args)
"""
WAYS = {"as `components/__init__.py` sets it": "", "as Python has it": AS_USUAL}


def imports() -> str:
    """The import statements of the program."""
    tree = ast.parse((ROOT / "__main__.py").read_text())
    return "\n".join(
        ast.unparse(it) for it in tree.body if isinstance(it, ast.Import | ast.ImportFrom)
    )


def cpu_s(program: str) -> float:
    """CPU seconds of a Python that runs it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-c", program], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print a row for each way."""
    parser = argparse.ArgumentParser(description="How much CPU the program's imports take.")
    parser.add_argument("--rounds", type=int, default=7, help="how often each; 7 unless given")
    rounds: int = parser.parse_args().rounds
    program = imports()
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, first in WAYS.items():
            taken[way].append(cpu_s(f"{first}\n{program}"))
    print("| garbage collector | CPU seconds: min, median, max |\n|---|---|")
    for way, seconds in taken.items():
        row = (min(seconds), statistics.median(seconds), max(seconds))
        print(f"| {way} | {', '.join(f'{it:.1f}' for it in row)} |")


if __name__ == "__main__":
    main()
