"""What vLLM said of models on GPUs, beside what components/fit.py says: the table of docs/fit.md.

    .venv/bin/python tests/compare_fit.py

tests/fit_pairs.csv holds vLLM's figures and where people published them.
"""

import csv
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from components import catalogue  # noqa: E402 (the path comes first)
from components.fit import Fit, fit  # noqa: E402
from components.memory_flags import Engine  # noqa: E402
from components.models import models  # noqa: E402


@dataclass(frozen=True)
class Pair:
    """A model that somebody started on some GPUs."""

    model: str
    gpu: str
    count: int
    utilization: float
    length: int
    flags: str
    vllm: str
    """Its version, where it is told."""
    runs: bool
    """False where vLLM refused to serve that length."""
    cache_gib: float | None
    """`Available KV cache memory`, where it is told."""
    tokens: int | None
    """`GPU KV cache size`, where it is told."""
    source: str

    @property
    def fit(self) -> Fit:
        """What the program says."""
        engine = Engine.read(self.flags.split())
        if engine is None:
            raise ValueError(f"the reckoning does not follow {self.flags}")
        return fit(
            models()[self.model],
            catalogue.gpu(self.gpu),
            self.count,
            self.length,
            utilization=self.utilization,
            engine=engine,
        )


def pairs() -> Iterator[Pair]:
    """All of them."""
    with (ROOT / "tests" / "fit_pairs.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            yield Pair(
                model=row["model"],
                gpu=row["gpu"],
                count=int(row["gpus"]),
                utilization=float(row["utilization"]),
                length=int(row["max_model_len"]),
                flags=row["flags"],
                vllm=row["vllm"],
                runs=row["runs"] == "yes",
                cache_gib=float(row["cache_gib"]) if row["cache_gib"] else None,
                tokens=int(row["tokens"]) if row["tokens"] else None,
                source=row["source"],
            )


def source(text: str) -> str:
    """A source as a link, where it is a thread or a commit on GitHub."""
    for mark, path in (("#", "issues"), ("@", "tree")):
        repository, found, number = text.partition(mark)
        if found:
            return f"[{text}](https://github.com/{repository}/{path}/{number})"
    return text


def row(pair: Pair) -> str:
    """A pair as a row of the table."""
    said = pair.fit
    verdict = "fits" if said.fits else "refused" if said.hopeless else "may not fit"
    off = "" if pair.cache_gib is None else f"{said.cache_gib - pair.cache_gib:+.2f}"
    tokens = round(said.requests * pair.length)
    share = "" if pair.tokens is None else f"{tokens / pair.tokens - 1:+.1%}"
    gpus = f"{pair.count} x {pair.gpu.removeprefix('nvidia-')}"
    asked = f"{pair.length} at {pair.utilization} {pair.flags}".strip()
    cells = [
        pair.model.partition("/")[2],
        gpus,
        asked,
        pair.vllm,
        "runs" if pair.runs else "refuses",
        verdict,
        "" if pair.cache_gib is None else f"{pair.cache_gib:.2f}",
        f"{said.cache_gib:.2f}",
        off,
        share,
        source(pair.source),
    ]
    return f"| {' | '.join(cells)} |"


HEADINGS = (
    "model",
    "GPUs",
    "tokens asked for, share of memory, flags",
    "vLLM",
    "it",
    "here",
    "its cache, GiB",
    "here",
    "off",
    "tokens off",
    "source",
)


def table() -> str:
    """The table in Markdown."""
    rules = ["---"] * len(HEADINGS)
    heads = [f"| {' | '.join(cells)} |" for cells in (HEADINGS, rules)]
    return "\n".join([*heads, *map(row, pairs())])


if __name__ == "__main__":
    print(table())
