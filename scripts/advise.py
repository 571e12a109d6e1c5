"""Which machines of Google's serve a model, with how much context, at what price; cheapest first.

    ./scripts/advise MODEL [--max-model-len N] [--hours-per-day H] [--region REGION] [--row N]

MODEL is a name on Hugging Face (Qwen/Qwen3-8B), or a folder with the model's config.json and
safetensors index. What components/models.csv does not have is read from the hub; for a gated or
private model the token is taken from HF_TOKEN, HF_TOKEN_PATH or ~/.cache/huggingface/token.
"""

import argparse
import json
import math
import os
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml  # (the Pulumi SDK needs it, too)

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from components import catalogue  # noqa: E402 (the path comes first)
from components.catalogue import Price  # noqa: E402
from components.models import Model, models  # noqa: E402
from components.ways import Way, ways  # noqa: E402
from scripts import command_line, hugging_face  # noqa: E402

DAYS_A_MONTH = 365 / 12
GIB = 2**30
CONTAINERS_GB = 40
"""System and containers on the boot disk, next to the weights."""


def main(arguments: list[str]) -> str | None:
    """Print the advice; returns the error for a person, or None."""
    asked = _arguments(arguments)
    try:
        known = {name.lower(): model for name, model in models().items()}
        model = known.get(asked.model.lower()) or hugging_face.read(asked.model, asked.hub)
    except hugging_face.Trouble as trouble:
        return str(trouble)
    every = ways(
        model,
        asked.max_model_len,
        utilization=float(_default("gpuMemoryUtilization")),
        region=asked.region,
    )
    fitting = [way for way in every if way.fit.fits]
    rows = [_row(way, asked) for way in fitting]
    if asked.json:
        print(json.dumps(rows, indent=2))
    if not fitting:
        return _nowhere(model, every, asked.max_model_len, asked.region)
    if asked.row > len(fitting):
        return f"--row {asked.row}: there are {len(fitting)} rows."
    if not asked.json:
        print("\n".join(_page(model, fitting, rows, asked)))
    return None


@cache
def _default(key: str) -> Any:
    """A key's default, which only Pulumi.yaml knows."""
    return yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["config"][key]["default"]


def _arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./scripts/advise",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument(
        "--max-model-len",
        type=_whole,
        default=_default("maxModelLen"),
        metavar="N",
        help="tokens of a prompt and its answer (%(default)s)",
    )
    parser.add_argument(
        "--hours-per-day",
        type=_hours,
        default=24.0,
        metavar="H",
        help="hours a day that the machine runs, for the monthly price (%(default)g)",
    )
    regions = sorted({*catalogue.regions(), *_cloud_run_regions()})
    parser.add_argument(
        "--region", choices=regions, metavar="REGION", help="only what is to be had there"
    )
    parser.add_argument(
        "--row", type=_whole, default=1, metavar="N", help="the row to print stack keys for (1)"
    )
    parser.add_argument("--json", action="store_true", help="print the list of rows as JSON")
    parser.add_argument(
        "--hub",
        default=os.environ.get("HF_ENDPOINT") or hugging_face.HUB,
        metavar="URL",
        help="where models come from (HF_ENDPOINT, or %(default)s)",
    )
    return parser.parse_args(arguments)


def _cloud_run_regions() -> Iterator[str]:
    for gpu in catalogue.gpus():
        yield from (
            region for region, anybody in catalogue.cloud_run_regions(gpu).items() if anybody
        )


def _whole(text: str) -> int:
    value = int(text) if text.strip().isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def _hours(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 24:
        raise argparse.ArgumentTypeError(f"{text} is not a number of hours, above 0 and up to 24")
    return value


# --- a row ----------------------------------------------------------------------------------------


def _row(way: Way, asked: argparse.Namespace) -> dict[str, Any]:
    """A way as it stands in the list of `--json`."""
    hours = asked.hours_per_day * DAYS_A_MONTH
    return {
        "gpu": way.gpu,
        "gpu_count": way.count,
        "platform": way.platform,
        "machine_type": way.machine_type or None,
        "precision": way.model.precision,
        "computes_precision": way.native,
        "longest_context": way.fit.context,
        "max_model_len": asked.max_model_len,
        "concurrent_requests": round(way.fit.requests, 1),
        "weights_gib_per_gpu": round(way.fit.weights_gib, 2),
        "kv_cache_gib_per_gpu": round(way.fit.cache_gib, 2),
        "usd_per_hour": {"standard": _price(way.standard), "spot": _price(way.spot)},
        "usd_per_month": round(way.cheapest.usd * hours, 2) if way.cheapest else None,
        "terms": sorted(_terms(way)),
        "regions": list(way.regions),
        "stack": _stack(way, asked.max_model_len, asked.region),
    }


def _price(price: Price | None) -> dict[str, Any] | None:
    return price and {
        "usd": round(price.usd, 4),
        "region": price.region,
        "source": price.source,
        "date": price.date,
    }


def _terms(way: Way) -> frozenset[str]:
    """On what terms it is to be had; Cloud Run knows one."""
    machines = catalogue.machines(way.gpu)
    offers = {machine.machine_type: machine.offers for machine in machines}
    return frozenset(offers.get(way.machine_type, ["standard"]))


def _stack(way: Way, length: int, region: str | None) -> dict[str, str]:
    """The stack's keys for this way."""
    if way.platform == "cloud-run":
        where = {"platform": "cloud-run", "gpu": way.gpu}
    else:
        # On the terms that the row's price a month is of.
        dearer = way.standard and way.cheapest == way.standard
        terms = "spot" if "spot" in _terms(way) and not dearer else "standard"
        where = {
            "platform": "vm",
            "gpu": way.gpu,
            "gpuCount": str(way.count),
            "provisioning": terms,
        }
        disk = math.ceil((way.model.weights * 1.1 / 1e9 + CONTAINERS_GB) / 50) * 50
        if disk > _default("bootDiskGb"):
            where["bootDiskGb"] = str(disk)
    name = way.model.name if "/" in way.model.name else "ORGANISATION/NAME"
    return {"model": name, "maxModelLen": str(length), **where, "gcp:region": _place(way, region)}


def _place(way: Way, region: str | None) -> str:
    """The region that a way is shown in: the one that was asked for, or else the usual one."""
    usual = catalogue.PRICE_REGION
    return region or (usual if usual in way.regions else way.regions[0])


# --- the page -------------------------------------------------------------------------------------

COLUMNS = (
    ("#", ">2"),
    ("GPUs", "<14"),
    ("machine type", "<15"),
    ("numbers", "<8"),
    ("longest", ">7"),
    ("at once", ">7"),
    ("$/h", ">6"),
    ("Spot", ">6"),
    ("$/month", ">7"),
    ("regions", "<18"),
)
"""Headings of the table and how their columns are laid out: 99 characters with the gaps.
With a region there is no last one."""


def _page(
    model: Model,
    fitting: list[Way],
    rows: list[dict[str, Any]],
    asked: argparse.Namespace,
) -> Iterator[str]:
    yield f"{model.name}: {model.precision}, {model.weights / GIB:.1f} GiB of weights"
    place = f", in {asked.region}" if asked.region else ""
    yield f"Made for {model.context} tokens; here {asked.max_model_len} a request{place}."
    yield ""
    yield _line([heading for heading, _ in COLUMNS][: -1 if asked.region else None])
    for number, (way, row) in enumerate(zip(fitting, rows, strict=True), start=1):
        yield _line([str(number), *_cells(way, row, asked.region)])
    yield ""
    yield from _notes(model, fitting, asked)
    yield ""
    yield f"Row {asked.row} as a stack:"
    yield ""
    chosen: int = asked.row
    stack: dict[str, str] = rows[chosen - 1]["stack"]
    for key, value in stack.items():
        yield f"  pulumi config set {key} {value}"
    if model.gated:
        yield "  pulumi config set --secret huggingFaceToken"


def _line(cells: list[str]) -> str:
    laid_out = (f"{cell:{form}}" for cell, (_, form) in zip(cells, COLUMNS, strict=False))
    return " ".join(laid_out).rstrip()


def _cells(way: Way, row: dict[str, Any], region: str | None) -> Iterator[str]:
    yield f"{way.count} {way.gpu.removeprefix('nvidia-')}"
    yield way.machine_type or "Cloud Run"
    yield _numbers(way)
    yield str(way.fit.context)
    yield f"{way.fit.requests:.1f}"
    terms = _terms(way)
    place = _place(way, region)
    yield _money(way.standard, place, sold="standard" in terms)
    yield _money(way.spot, place, sold="spot" in terms)
    month = row["usd_per_month"]
    yield "?" if month is None else f"{month:.0f}"
    if region is None:
        more = len(way.regions) - 1
        yield f"{place} +{more}" if more else place


def _numbers(way: Way) -> str:
    """What the weights are kept as, and that the GPU cannot compute with it."""
    if way.native:
        return way.model.precision
    return "fp16" if way.model.precision == "bf16" else f"{way.model.precision}{WIDENED}"


WIDENED = "/16"


def _money(price: Price | None, place: str, *, sold: bool) -> str:
    if price is None:
        return "?" if sold else "-"
    return f"{price.usd:.2f}{'' if price.region == place else '*'}"


def _notes(model: Model, fitting: list[Way], asked: argparse.Namespace) -> Iterator[str]:
    prices = [
        (price, _place(way, asked.region))
        for way in fitting
        for price in (way.standard, way.spot)
        if price
    ]
    dates = sorted(price.date for price, _ in prices)
    yield (
        f"Longest: tokens that one request may have. At once: requests of {asked.max_model_len}"
        " tokens."
    )
    if dates:
        yield (
            f"Prices in the region that is named, of {dates[0]} to {dates[-1]}, without disks and"
            " traffic."
        )
        hours = f"{asked.hours_per_day * DAYS_A_MONTH:.0f} hours ({asked.hours_per_day:g} a day)"
        yield f"A month has {hours}, on the cheaper terms."
    if any(price.region != place for price, place in prices):
        yield "*: another region's price; this one's is not known."
    if any(WIDENED in _numbers(way) for way in fitting):
        yield f"{WIDENED}: kept in memory so, and widened to 16 bits to compute with."
    if model.images:
        yield "What its encoder for images or sound needs to compute is not reckoned."
    if model.gated:
        yield f"It is gated: accept its licence on {hugging_face.HUB}/{model.name} first."


def _nowhere(model: Model, every: list[Way], length: int, region: str | None) -> str:
    """What to do where no machine takes it."""
    place = f" in {region}" if region else ""
    best = max(
        every, key=lambda way: (way.fit.context, way.count * catalogue.gpu(way.gpu).usable_gib)
    )
    longest = best.fit.context
    if longest:
        cause = (
            f"it was made for {model.context} tokens"
            if length > model.context
            else f"the longest context is {longest} tokens"
        )
        return (
            f"No machine{place} takes {model.name} with {length} tokens: {cause}."
            f" Try --max-model-len {longest}."
        )
    return f"No machine{place} takes {model.name} at any length: {'; '.join(best.fit.reasons)}." + (
        " Try without --region." if region else " Look for a quantised version of it."
    )


def _told(arguments: list[str]) -> str | None:
    outcome = main(arguments)
    return outcome and textwrap.fill(outcome, 100, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    command_line.run(_told)
