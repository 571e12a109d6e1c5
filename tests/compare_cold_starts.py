"""The tables of docs/cold-start.md: where the minutes of a cold start go, way by way.

    .venv/bin/python tests/compare_cold_starts.py

writes them into the page. Figures are rehearsal/figures.py's; what was rehearsed is in
docs/cold-start.json, which tests/measure_cold_starts.py writes.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from components.stack_rules import LARGEST_IMAGE_GB  # noqa: E402 (the path comes first)
from rehearsal import figures  # noqa: E402
from tests import cold_starts  # noqa: E402
from tests.cold_starts import (  # noqa: E402
    ANSWER,
    BUCKET,
    CACHED,
    DISK,
    HUB,
    PREPARED,
    RUN_BUCKET,
    SIZES,
    TUTORIAL,
    WAYS,
    Phase,
    Way,
)
from tests.measure_cold_starts import DRIVER_IN_PLACE, SIZE, Measured, table  # noqa: E402

PAGE = ROOT / "docs" / "cold-start.md"
RESULTS = ROOT / "docs" / "cold-start.json"

YARDSTICKS = (
    ("a Spot L4 group in production, Qwen2.5-14B-AWQ, after a preemption", "about 15 min",
     "tenkenco/declaude, commit 88ae660 (2026-08)"),
    ("Ollama on a VM, by the closest Pulumi program: first boot; a boot with a warm disk",
     "30 min; 3 to 5 min", "stewartpark/private-llm, README (2026-03)"),
    ("Llama-3.1-8B on one L4, GKE, node there already", "409 s", "llm-d PR #1902 (2026-06)"),
    ("the same, image streamed", "199 s", "the same"),
    ("the same, image streamed and the engine's memory restored from a snapshot", "15 s",
     "the same"),
    ("Cloud Run from zero, Gemma-4-31B on an RTX PRO 6000", "about 20 min", "leeharden.com"),
    ("a 27B model on one A100, Azure, node included", "966 s", "kaito#2325 (2026-09)"),
)  # fmt: skip
"""What others have published."""

UNKNOWN = (
    "Whether a zone has a GPU at once. A stockout adds as long as it lasts; nobody publishes how"
    " often.",
    "How long a machine with a GPU is PROVISIONING and STAGING, and how long the Deep Learning VM"
    " image boots: estimates. vLLM#41893 has two to five minutes for both, with the driver's"
    " installation.",
    "How fast the first reads of a disk made from an image are, which a prepared machine starts its"
    " engine from. 168 MiB/s is Google's limit for a balanced disk of 100 GB, not a measurement;"
    " vLLM's start may take longer there than the 25 s of a machine that has just unpacked it.",
    "Whether a remote repository in the region is faster than Docker Hub: no figure tells them"
    " apart. It spares Docker Hub's rate limits in any case.",
    "How fast a container of Cloud Run reads weights that lie in its image, which is streamed.",
    "The disks of newer machines: for an RTX PRO 6000 they are Hyperdisk, with a pace of its own.",
    "The hub's pace on a given day; 429 for shared addresses of Cloud Run.",
    "Compiling and capturing on an L4: the figures are of other GPUs.",
    "The first request after a start: vLLM#19824 has seen 30 to 60 s.",
    "A preempted machine's 30 seconds of notice are not in these times; nor are the seconds until"
    " the group sees that it is gone.",
)


def yardsticks() -> Iterator[str]:
    """What others have published."""
    yield "| what | first token after | source |"
    yield "|---|---|---|"
    for what, time, source in YARDSTICKS:
        yield f"| {what} | {time} | {source} |"


def minutes(seconds: float | None) -> str:
    """A time in words."""
    return "" if seconds is None else f"{seconds:.0f} s"


def overview() -> Iterator[str]:
    """Every way and size: from `up`, and again."""
    titles = [f"{it.title}: first | again" for it in SIZES]
    yield f"| way | {' | '.join(titles)} |"
    yield "|---|" + "---|" * 2 * len(SIZES)
    for way in WAYS:
        cells: list[str] = []
        for size in SIZES:
            if way.source == "image" and size.gb > LARGEST_IMAGE_GB:
                cells += ["", ""]
                continue
            first_s, again_s = cold_starts.first_s(way, size), cold_starts.again_s(way, size)
            cells += [minutes(first_s), minutes(again_s)]
        yield f"| {way.title} | {' | '.join(cells)} |"


def phases(ways: tuple[Way, ...]) -> Iterator[str]:
    """What an 8B model's start goes through, each way a column; brackets: beside the chain."""
    columns = [{it.name: it for it in cold_starts.again(way, SIZE)} for way in ways]
    chains = [{it.name for it in cold_starts.chain(cold_starts.again(way, SIZE))} for way in ways]
    names = [
        *dict.fromkeys(name for column in columns for name in column if name != ANSWER),
        ANSWER,
    ]
    yield f"| phase | {' | '.join(way.title for way in ways)} |"
    yield "|---|" + "---|" * len(ways)
    for name in names:
        cells = [
            _cell(column.get(name), name in chain)
            for column, chain in zip(columns, chains, strict=True)
        ]
        yield f"| {name} | {' | '.join(cells)} |"
    sums = " | ".join(f"**{minutes(cold_starts.again_s(way, SIZE))}**" for way in ways)
    yield f"| **the longest chain** | {sums} |"


def _cell(phase: Phase | None, waited_for: bool) -> str:
    if phase is None:
        return ""
    return minutes(phase.seconds) if waited_for else f"({minutes(phase.seconds)})"


STEPS = (
    (TUTORIAL, "the tutorials' order"),
    (DRIVER_IN_PLACE, "an image that has the driver"),
    (HUB, "tunnel, secrets and images at once"),
    (BUCKET, "weights streamed from a bucket"),
    (PREPARED, "a disk that has the images"),
    (CACHED, "what was compiled is kept"),
)
"""Each on top of the one before."""


def ablation() -> Iterator[str]:
    """What each step brings, by the figures, and as far as it was rehearsed."""
    yield "| step | first token after | brings | times sooner | rehearsed | times sooner |"
    yield "|---|---|---|---|---|---|"
    boots = {row.way: row.seconds for row in rows() if row.what == "boot"}
    slowest = before = cold_starts.again_s(TUTORIAL, SIZE)
    for way, what in STEPS:
        now, seen = cold_starts.again_s(way, SIZE), boots.get(way.title)
        brings = minutes(before - now) if way != TUTORIAL else ""
        times = f"{boots[TUTORIAL.title] / seen:.1f}" if seen else ""
        yield (
            f"| {what} | {minutes(now)} | {brings} | {slowest / now:.1f} |"
            f" {minutes(seen)} | {times} |"
        )
        before = now


def sources() -> Iterator[str]:
    """The figures that were used, each with its source."""
    used = {it.figure for way in WAYS for size in SIZES for it in cold_starts.again(way, size)}
    yield "| figure | seconds | source |"
    yield "|---|---|---|"
    for name, figure in figures.FIGURES.items():
        if name in used:
            yield f"| {name} | {figure.seconds:g} | {figure.source} |"


def rows() -> list[Measured]:
    """What was measured."""
    return [Measured(**row) for row in json.loads(RESULTS.read_text())["rows"]]


def rehearsed() -> Iterator[str]:
    """What tests/measure_cold_starts.py has noted."""
    yield from table(rows())
    yield ""
    took, speed = json.loads(RESULTS.read_text())["took_s"] / 60, rows()[0].speed
    yield f"At speed {speed:g}; {took:.0f} minutes in all, on two cores that others used as well."


def tables() -> dict[str, list[str]]:
    """The page's tables and lists, by the names that stand before them."""
    found: dict[str, Iterable[str]] = {
        "sizes": (f"- {it.title}: {it.model} ({it.gb:.1f} GB) on {it.gpu}" for it in SIZES),
        "overview": overview(),
        "yardsticks": yardsticks(),
        "phases": phases((TUTORIAL, HUB, BUCKET, PREPARED, DISK, RUN_BUCKET)),
        "ablation": ablation(),
        "rehearsed": rehearsed(),
        "sources": sources(),
        "unknown": (f"- {it}" for it in UNKNOWN),
    }
    return {name: [*lines] for name, lines in found.items()}


def written(text: str) -> str:
    """The page with today's tables. KeyError where it has a place for one that there is not."""
    now = tables()

    def table_of(place: re.Match[str]) -> str:
        lines = "\n".join(now.pop(place[1]))
        return f"<!-- {place[1]} -->\n\n{lines}\n\n<!-- end -->"

    return re.sub("<!-- (\\w+) -->\n.*?<!-- end -->", table_of, text, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
