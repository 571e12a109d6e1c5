"""Rehearse cold starts of an 8B model on one L4, way by way, and note how long they took.

    .venv/bin/python tests/measure_cold_starts.py [--speed N] [--json docs/cold-start.json]

The real engine, program and startup script; clouds that take as long as rehearsal/figures.py says,
divided by the speed. Cloud time is told as in life again: what the longest chain takes by the
figures, plus what this machine took beside it, which is not compressed. The other column counts
that as many times as time was compressed, so it is too much by that. Beside it the tutorials'
order, in the same run: the same phases, one after the other (tests/one_after_the_other.sh).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from rehearsal import figures  # noqa: E402 (the path comes first)
from rehearsal.checks import CHAT, Consoles, Endpoint, moment  # noqa: E402
from rehearsal.faults import Faults  # noqa: E402
from rehearsal.google.cloud_run import INSTANCE  # noqa: E402
from rehearsal.google.metadata import INSTANCE as MACHINE  # noqa: E402
from rehearsal.session import ENDPOINT, Project, Session  # noqa: E402
from tests import cold_starts  # noqa: E402
from tests.cold_starts import BUCKET, HUB, PREPARED, RUN_BUCKET, SIZES, TUTORIAL, Way  # noqa: E402

SIZE = next(it for it in SIZES if it.title == "8B")
DRIVER_IN_PLACE = TUTORIAL._replace(title="the same, driver in the image", driver=False)
MACHINES = (PREPARED, HUB, BUCKET)
LIMIT_S = 600.0
"""Real seconds in which a machine, or a service, must have come back."""
PAUSE_S = 0.1


@dataclass(frozen=True)
class Measured:
    """A cold start as it was rehearsed."""

    way: str
    what: str
    """first (from `pulumi up`), boot (a first machine's, which is part of it), or again."""
    wall_s: float
    """Here."""
    chain_s: float
    """Of the longest chain, by the figures."""
    speed: float

    @property
    def seconds(self) -> float:
        """In life, this machine's own time counted once."""
        return self.chain_s + max(0.0, self.wall_s - self.chain_s / self.speed)

    @property
    def at_most_s(self) -> float:
        """In life, this machine's own time counted as if it were cloud time."""
        return self.wall_s * self.speed


class Rehearsed:
    """A stack in a world of its own."""

    def __init__(self, stack: str, speed: float, **config: str) -> None:
        self.stack, self.speed = stack, speed
        self.session = Session(Path(tempfile.mkdtemp()))
        self.session.own(stack)
        self.session.start_daemon(speed=speed, outlives_us=False)
        self.session.prepare_stack(stack)
        self._consoles = Consoles(self.session, stack)
        for key, value in ({"model": SIZE.model} | config).items():
            self.must("config", "set", key, value)

    def must(self, *arguments: str, project: Project = ENDPOINT) -> float:
        """Run the CLI; the wall time that it took."""
        began = time.monotonic()
        run = self.session.pulumi(*arguments, stack=self.stack, project=project)
        self.session.must(run)
        return time.monotonic() - began

    def up(self, project: Project = ENDPOINT) -> float:
        """`pulumi up` without its preview; the wall time."""
        return self.must("up", "--yes", "--skip-preview", project=project)

    def noted_answer(self) -> float:
        """When `up` had its answer, in seconds since the epoch."""
        export = self.session.must(self.session.pulumi("stack", "export", stack=self.stack))
        resources = json.loads(export.stdout)["deployment"]["resources"]
        (answer,) = (it for it in resources if it["urn"].endswith(f"::llm-{self.stack}-answer"))
        return moment(answer["modified"]).timestamp()

    def rows(self, type_: str) -> list[dict[str, Any]]:
        """What the clouds have of a type."""
        return [it["body"] for it in self._consoles.console("GET") if it["type"] == type_]

    def created(self) -> float:
        """When the machine was made that was made last, in seconds since the epoch; 0 without."""
        machines = [it for it in self.rows(MACHINE) if it.get("gpu")]
        times = [it["creationTimestamp"] for it in machines if it.get("creationTimestamp")]
        return max((moment(it).timestamp() for it in times), default=0.0)

    def answered(self, endpoint: Endpoint) -> bool:
        """Whether the endpoint answers just now."""
        try:
            return endpoint.request("POST", CHAT, endpoint.headers).status == 200
        except OSError:
            return False


@contextmanager
def rehearsed(stack: str, speed: float, **config: str) -> Generator[Rehearsed]:
    """Such a stack, not up yet; gone with its world afterwards."""
    it = Rehearsed(stack, speed, **config)
    try:
        yield it
    finally:
        it.session.discard()


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for it. TimeoutError when it never comes."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(PAUSE_S)


def measure_machine(way: Way, speed: float) -> Generator[Measured]:
    """Up from nothing, then preempted; then, where the weights come from the hub, the tutorials."""
    with rehearsed("dev", speed, weights=way.weights, **dict(way.config)) as it:
        boot_s, first_s = cold_starts.again_s(way, SIZE), cold_starts.first_s(way, SIZE)
        wall, ended = it.up(), it.noted_answer()
        if first_s is not None:
            yield Measured(way.title, "first", wall, first_s, speed)
        yield Measured(way.title, "boot", ended - it.created(), boot_s, speed)
        yield Measured(way.title, "again", preempt(it), boot_s, speed)
        if way == HUB:
            for other in (TUTORIAL, DRIVER_IN_PLACE):
                yield measure_tutorial(it, other)


def preempt(it: Rehearsed) -> float:
    """Take the machine away; wall seconds from the creation of the next one to its answer."""
    endpoint, before = Endpoint(it.session, it.stack), it.created()
    Faults(it.session.world / "faults").set("preemption", 1)
    until(lambda: it.created() > before, "no other machine was made")
    until(lambda: it.answered(endpoint), "the next machine does not answer")
    return time.time() - it.created()


def measure_tutorial(it: Rehearsed, way: Way) -> Measured:
    """Another program on the same stack: its machine goes about things one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        it.up(project=write_tutorial(Path(folder), way))
    ended = it.noted_answer()
    wall, chain_s = ended - it.created(), cold_starts.again_s(way, SIZE)
    return Measured(way.title, "boot", wall, chain_s, it.speed)


def write_tutorial(folder: Path, way: Way) -> Project:
    """This program with another startup script."""
    for name in ("components", "scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("__main__.py", "Pulumi.yaml"):
        shutil.copy(ROOT / name, folder)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    script = folder / "scripts" / "startup.sh"
    before, _, after = script.read_text().partition("\nmain() {\n")
    _, _, after = after.partition("\n}\n")
    driver_s = figures.seconds("driver install") if way.driver else 0
    other = (ROOT / "tests" / "one_after_the_other.sh").read_text()
    script.write_text(f"{before}\nreadonly DRIVER_S={driver_s:.0f}\n{other}{after}")
    return Project(ENDPOINT.name, folder)


def measure_service(way: Way, speed: float) -> Generator[Measured]:
    """Up from nothing, then woken when it sleeps."""
    with rehearsed("cloud-run", speed, weights=way.weights) as it:
        first_s = cold_starts.first_s(way, SIZE)
        assert first_s is not None
        yield Measured(way.title, "first", it.up(), first_s, speed)
        endpoint = Endpoint(it.session, it.stack)
        until(lambda: not any(row.get("gpu") for row in it.rows(INSTANCE)), "it does not sleep")
        began = time.monotonic()
        until(lambda: it.answered(endpoint), "it does not wake")
        wall = time.monotonic() - began
        yield Measured(way.title, "again", wall, cold_starts.again_s(way, SIZE), speed)


def measured(speed: float) -> Generator[Measured]:
    """All of them."""
    for way in MACHINES:
        yield from measure_machine(way, speed)
    yield from measure_service(RUN_BUCKET, speed)


def table(rows: Sequence[Measured]) -> list[str]:
    """What was measured, as a table."""
    lines = [
        "| way | | by the figures | rehearsed | ratio | at most |",
        "|---|---|---|---|---|---|",
    ]
    for it in rows:
        lines.append(
            f"| {it.way} | {WHAT[it.what]} | {it.chain_s:.0f} s | {it.seconds:.0f} s |"
            f" {it.seconds / it.chain_s:.2f} | {it.at_most_s:.0f} s |"
        )
    return lines


WHAT = {
    "first": "from `pulumi up`",
    "boot": "first boot",
    "again": "again",
}


def main() -> None:
    """Measure, and leave nothing behind."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--speed", type=float, default=10, help="cloud seconds in one here (10)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    options = parser.parse_args()
    engine = subprocess.check_output([ROOT / "scripts" / "setup"], text=True).strip()
    os.environ["LLM_ENDPOINT_ENGINE_BIN"] = engine
    began, rows = time.monotonic(), list[Measured]()
    for row in measured(options.speed):
        rows.append(row)
        print(f"{row.way}, {row.what}: {row.wall_s:.1f} s here", flush=True)
    print("\n".join(table(rows)))
    took_s = time.monotonic() - began
    print(f"{took_s:.0f} s, at speed {options.speed:g}")
    if options.json:
        document = {"took_s": round(took_s), "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
