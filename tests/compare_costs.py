"""What a hundred requests a day cost, by how they are served: the tables of docs/cost.md.

    .venv/bin/python tests/compare_costs.py

Everything comes from components/bill.py and components/prices.csv, but for the machine that the
tutorials make, which is added up here.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from components import catalogue  # noqa: E402 (the path comes first)
from components.bill import HOURS_A_MONTH, Bill, Line, bill  # noqa: E402
from components.settings import Settings  # noqa: E402
from rehearsal import figures  # noqa: E402
from tests.stack_config import configuration  # noqa: E402

MODEL = "Qwen/Qwen3-8B"
REGION = "us-central1"
REQUESTS = 100
"""A day."""
REQUEST_S = 10
"""One answer: some 150 tokens, at the 15 a second to be expected of an 8B model on one L4 (300 GB/s
of memory, of which each token reads 16.4 GB: 18 at most)."""
COLD_START_S = sum(
    figures.seconds(name)
    for name in ("instance with GPU", "vLLM start", "torch.compile", "CUDA graphs")
) + 16.4 * figures.seconds("weights stream, 1 GB")
IDLE_S = figures.seconds("instance with GPU idle")
DAY_S = 86_400

SPREADS = (
    ("within one hour", 3600),
    ("over eight hours", 8 * 3600),
    ("over the whole day", DAY_S),
)
"""How a day's requests come, and in how many seconds of it."""


def stack(platform: str, **keys: str) -> Bill:
    """The bill of a stack that serves MODEL."""
    changes = {"platform": platform, "model": MODEL} | keys
    config = configuration("dev", {f"llm-endpoint:{key}": value for key, value in changes.items()})
    secret = {"cloudflare:apiToken"}
    return bill(Settings.parse(config | {"gcp:region": REGION}, secret), secrets=1)


def awake_hours(seconds: float) -> float:
    """Hours a day that a Cloud Run instance lives, when the requests come evenly in `seconds`.

    It goes IDLE_S after the last request; where they come more rarely, each wakes it anew.
    """
    gap = seconds / REQUESTS
    if gap < IDLE_S:
        return (COLD_START_S + seconds + IDLE_S) / 3600
    return REQUESTS * (COLD_START_S + REQUEST_S + IDLE_S) / 3600


def tutorial() -> Bill:
    """A machine with a public address, always on, that pulls from Docker Hub and Hugging Face."""
    parts = (
        ("g2-standard-8", 1, catalogue.price("g2-standard-8", 1, "standard", REGION)),
        ("disk", 100, catalogue.unit_price("pd-balanced", REGION)),
        ("address", 1, catalogue.unit_price("nat:address", REGION)),
        ("answers", 1, catalogue.unit_price("egress", REGION)),
    )
    lines = tuple(Line(what, number, price, "always") for what, number, price in parts)
    return Bill(REGION, 24, lines, ())


def rows() -> Iterator[tuple[str, float]]:
    """What serves, and what it costs a month."""
    yield "one L4 on Spot, always on", stack("vm").usd_per_month_planned
    eight = replace(stack("vm"), hours_per_day=8)
    yield (
        "the same, stopped but for 8 hours a day (its group at size 0)",
        eight.usd_per_month_planned,
    )
    yield (
        "one L4 on standard terms, always on",
        stack("vm", provisioning="standard").usd_per_month_planned,
    )
    yield "a machine as tutorials make it, always on", tutorial().usd_per_hour * HOURS_A_MONTH
    for words, seconds in SPREADS:
        hours = min(awake_hours(seconds), 24)
        asleep = replace(stack("cloud-run"), hours_per_day=hours)
        yield (
            f"Cloud Run, requests {words}: {hours:.1f} hours awake",
            asleep.usd_per_month_planned,
        )


def table() -> Iterator[str]:
    """The rows in Markdown."""
    yield "| what serves | $ a month | $ a request |"
    yield "|---|---|---|"
    for what, month in rows():
        yield f"| {what} | {month:.0f} | {month / (REQUESTS * 365 / 12):.3f} |"


if __name__ == "__main__":
    print("\n".join(table()))
