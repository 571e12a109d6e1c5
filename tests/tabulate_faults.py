"""What came of every fault: the tables of docs/reliability.md, from the reports of two runs.

./scripts/rehearse --faults all --json faults.json
./scripts/rehearse --faults interruptions --json interruptions.json
.venv/bin/python tests/tabulate_faults.py faults.json interruptions.json
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from rehearsal.fault_library import PARTS  # noqa: E402 (the path comes first)
from rehearsal.fault_library.fault import Fault  # noqa: E402

Found = dict[str, Any]

SAW = 110
"""Letters of what the user saw."""


def link(source: str) -> str:
    """Where it is said that it happens so."""
    return f"[source]({source})" if source.startswith("https://") and " " not in source else source


def cell(text: str) -> str:
    """Text that cannot end its cell."""
    return text.replace("|", "\\|").replace("\n", " ")


def outcome(found: Found) -> str:
    """The cells that a run fills."""
    left = ", ".join(found["left"]) or "nothing"
    converged = "yes" if found["converged"] else "**no**"
    broken = "".join(f" **{it}**" for it in found["broken"])
    saw = cell(found["saw"][:SAW]) + cell(broken)
    return f"{saw} | {found['known_s']:.0f} | {converged} | {cell(left)}"


def library(found: dict[str, Found]) -> Iterator[str]:
    """The faults of each part of the world, and what came of them."""
    for part, faults in PARTS.items():
        yield f"\n### {part.capitalize()}\n"
        yield "| fault | in life | what the user saw | seconds to know | next `up` | left over |"
        yield "|---|---|---|---|---|---|"
        yield from (row(fault, found[fault.name]) for fault in faults)


def row(fault: Fault, found: Found) -> str:
    """A fault of the library."""
    life = f"{cell(fault.life)} ({cell(link(fault.source))})"
    return f"| {fault.name} | {life} | {outcome(found)} |"


def interruptions(found: dict[str, Found]) -> Iterator[str]:
    """The random moments, and what came of them."""
    yield "\n| moment | what happened | seconds | next `up` | left over |"
    yield "|---|---|---|---|---|"
    yield from (f"| {name} | {outcome(it)} |" for name, it in found.items())


def summary(found: dict[str, Found]) -> str:
    """All of them in a sentence or two."""
    rows = found.values()
    kept = sum(it["ok"] for it in rows)
    watched = [it["watch"] for it in rows]
    tries = sum(sum(it["tried"].values()) for it in watched)
    seconds, longest = (
        sum(it["seconds"] for it in watched),
        max(it["longest_gap_s"] for it in watched),
    )
    let_in = sum(len(it["let_in"]) for it in watched)
    silence = max(it["silence_s"] for it in rows)
    return (
        f"{kept} of {len(found)} kept every promise. A stranger tried {tries} times, once every"
        f" {1000 * seconds / tries:.0f} ms and at least every {1000 * longest:.0f} ms; {let_in} got"
        f" in. The longest silence of a command was {silence:.0f} s."
    )


def read(path: str) -> dict[str, Found]:
    """A report's findings, by their fault."""
    return {it["fault"]: it for it in json.loads(Path(path).read_text())["faults"]}


if __name__ == "__main__":
    faults, moments = (read(path) for path in sys.argv[1:])
    print("\n".join([summary(faults), *library(faults)]))
    print("\n".join(["\n## Interrupted\n", summary(moments), *interruptions(moments)]))
