"""How `pulumi preview` and `pulumi up` grow with the number of consumers.

    .venv/bin/python tests/benchmark_consumers.py [--rounds N] [--speed N]

Stack dev with one consumer, ten, and as many as Cloudflare lets an account have, each with the real
engine and the rehearsal's providers, in a world of its own. `up` does not wait for the model, which
takes as long whoever calls. What a further resource costs should not depend on how many there are.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from rehearsal.session import Session  # noqa: E402 (the path comes first)
from tests.benchmark_preview import cpu_of_children_s  # noqa: E402
from tests.conftest import deploy  # noqa: E402

STACK = "dev"
MOST = 49
"""Cloudflare has 50 service tokens for an account, and the stack itself needs one."""
NUMBERS = (1, 10, MOST)


@dataclass(frozen=True)
class Cost:
    """What a stack with so many consumers took, in seconds; of several runs the least."""

    consumers: int
    resources: int
    program_cpu_s: float
    """Of the program alone, in a process that has imported everything."""
    preview_s: float
    preview_cpu_s: float
    up_s: float
    up_cpu_s: float


def names(number: int) -> list[str]:
    """So many consumers."""
    return [f"app-{index}" for index in range(number)]


def timed(session: Session, *arguments: str) -> tuple[float, float, int]:
    """Wall and CPU seconds of one run of the CLI, and how many resources it would create."""
    cpu, wall = cpu_of_children_s(), time.perf_counter()
    run = session.must(session.pulumi(*arguments, stack=STACK))
    return time.perf_counter() - wall, cpu_of_children_s() - cpu, run.changes["create"]


def program_cpu_s(number: int, rounds: int) -> float:
    """CPU seconds of the program under the recording engine, without garbage collections."""
    taken: list[float] = []
    for _ in range(2 * rounds + 1):
        began = time.process_time()
        deploy(STACK, {"llm-endpoint:consumers": json.dumps(names(number))})
        taken.append(time.process_time() - began)
    return min(taken[1:])  # the first one imports


def measure(number: int, rounds: int, speed: float) -> Cost:
    """One stack: previewed, then made."""
    session = Session(Path(tempfile.mkdtemp()))
    try:
        session.own(STACK)
        session.start_daemon(speed=speed, outlives_us=False)
        session.prepare_stack(STACK)
        for index, consumer in enumerate(names(number)):
            path = ("--path", f"llm-endpoint:consumers[{index}]")
            session.must(session.pulumi("config", "set", *path, consumer, stack=STACK))
        for key, value in (("weights", "hub"), ("waitUntilReady", "false")):
            session.must(session.pulumi("config", "set", key, value, stack=STACK))
        previews = [timed(session, "preview") for _ in range(rounds)]
        up = timed(session, "up", "--yes", "--skip-preview")
        return Cost(
            consumers=number,
            resources=up[2],
            program_cpu_s=program_cpu_s(number, rounds),
            preview_s=min(it[0] for it in previews),
            preview_cpu_s=min(it[1] for it in previews),
            up_s=up[0],
            up_cpu_s=up[1],
        )
    finally:
        session.discard()


def table(costs: Sequence[Cost]) -> list[str]:
    """The figures, and what each further resource costs between one number and the next."""
    lines = [
        "| consumers | resources | program, CPU | preview | preview, CPU | up | up, CPU |",
        "|---|---|---|---|---|---|---|",
    ]
    for it in costs:
        figures = it.program_cpu_s, it.preview_s, it.preview_cpu_s, it.up_s, it.up_cpu_s
        seconds = " | ".join(f"{value:.2f} s" for value in figures)
        lines.append(f"| {it.consumers} | {it.resources} | {seconds} |")
    for fewer, more in pairwise(costs):
        count = more.resources - fewer.resources
        steps = (
            more.program_cpu_s - fewer.program_cpu_s,
            more.preview_s - fewer.preview_s,
            more.preview_cpu_s - fewer.preview_cpu_s,
            more.up_s - fewer.up_s,
            more.up_cpu_s - fewer.up_cpu_s,
        )
        each = " | ".join(f"{1000 * step / count:.0f} ms" for step in steps)
        lines.append(f"| {fewer.consumers} to {more.consumers}: a resource | {count} | {each} |")
    return lines


def main() -> None:
    """Measure, and leave nothing behind."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="previews of each (default: 3)")
    parser.add_argument("--speed", type=float, default=60, help="of the clouds (default: 60)")
    options = parser.parse_args()
    engine = subprocess.check_output([ROOT / "scripts" / "setup"], text=True).strip()
    os.environ["LLM_ENDPOINT_ENGINE_BIN"] = engine
    costs: list[Cost] = []
    for number in NUMBERS:
        costs.append(measure(number, options.rounds, options.speed))
        print(costs[-1], flush=True)
    print("\n".join(table(costs)))


if __name__ == "__main__":
    main()
