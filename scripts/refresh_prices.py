"""Bring components/prices.csv up to date from Google's price list, and show what changed.

    ./scripts/refresh-prices [--dry-run] [--accept]

It reads the Cloud Billing Catalog (cloudbilling.googleapis.com) with your Application Default
Credentials. Machines and balanced disks are priced there by parts whose names are known; all other
lines stay as they are, to be corrected by hand.
"""

import argparse
import csv
import io
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import requests

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from components import catalogue  # noqa: E402 (the path comes first)
from scripts import google_api  # noqa: E402
from scripts.google_api import GoogleError  # noqa: E402

TABLE = ROOT / "components" / "prices.csv"
COMPUTE_ENGINE = "services/6F81-5844-456A"
"""Google's id of the service, https://cloud.google.com/skus."""
SOURCE = "Cloud Billing Catalog API"
PAGE = 5000
LEAP = 3.0
"""A price that went up or down by more than this factor is another thing's price, until a person
has looked."""

SERIES = {"a2": "A2 Instance", "a3": "A3 Instance", "e2": "E2 Instance", "g2": "G2 Instance"} | {
    "n1": "N1 Predefined Instance"
}
"""Series -> what the descriptions of its `Core` and `Ram` begin with."""
GPUS = {
    "nvidia-l4": "Nvidia L4 GPU",
    "nvidia-tesla-t4": "Nvidia Tesla T4 GPU",
    "nvidia-tesla-a100": "Nvidia Tesla A100 GPU",
    "nvidia-h100-80gb": "Nvidia H100 80GB GPU",
}
"""Without the A100 of 80 GB, whose machines have local disks that are priced apart."""
USAGE = {"standard": "OnDemand", "spot": "Preemptible"}
OTHER_TERMS = re.compile(
    "commitment|reserved|custom|sole tenancy|premium|dws|defined duration|calendar", re.IGNORECASE
)
"""In descriptions of parts that are sold on other terms, some of them as `OnDemand`."""
SPOT = "Spot Preemptible "

Skus = list[dict[str, Any]]
Row = dict[str, str]


@dataclass(frozen=True)
class Change:
    """A line whose price is another one now."""

    row: Row
    usd: float

    @property
    def factor(self) -> float:
        """Of the old price."""
        return self.usd / float(self.row["usd"])

    def __str__(self) -> str:
        row = self.row
        where = f"{row['item']} x{row['gpus']}, {row['region']}, {row['terms']}"
        return f"{where}: {row['usd']} -> {self.usd:g} $/{row['per']} (x{self.factor:.2f})"


def main(arguments: list[str]) -> str | None:
    """Refresh the table; returns the error for a person, or None."""
    asked = _arguments(arguments)
    rows = list(csv.DictReader(io.StringIO(TABLE.read_text())))
    try:
        with google_api.session() as http:
            skus = compute_skus(http)
    except GoogleError as error:
        return f"Google's price list could not be read: {error}\nNothing was changed."
    found = [(row, price_of(row, skus)) for row in rows]
    changes = [
        Change(row, usd)
        for row, usd in found
        if usd is not None and not _same(usd, float(row["usd"]))
    ]
    for change in changes:
        print(change)
    refused = (
        [] if asked.accept else [each for each in changes if not 1 / LEAP < each.factor < LEAP]
    )
    if refused:
        return (
            f"{len(refused)} of these moved by more than a factor of {LEAP:g}, so nothing was"
            " changed.\nLook at them; if they are right: ./scripts/refresh-prices --accept"
        )
    new = [dict(row) for row in rows]
    today = datetime.now(UTC).date().isoformat()
    for row, (_, usd) in zip(new, found, strict=True):
        if usd is not None:
            row |= {"usd": f"{usd:g}", "source": SOURCE, "date": today}
    if dear := sorted(_spot_above_standard(new)):
        return f"On Spot dearer than on standard terms, so nothing was changed: {', '.join(dear)}"
    known = sum(usd is not None for _, usd in found)
    if not asked.dry_run:
        _write(new)
    print(
        f"{known} prices looked up, {len(changes)} of them changed; {len(rows) - known} lines have"
        " no part there whose name is known, and stay."
        f"{' Nothing was written.' if asked.dry_run else ''}"
    )
    return None


def _arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./scripts/refresh-prices",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would change")
    parser.add_argument(
        "--accept", action="store_true", help=f"also changes by more than a factor of {LEAP:g}"
    )
    return parser.parse_args(arguments)


def compute_skus(http: requests.Session) -> Skus:
    """What Compute Engine sells by the hour or month. GoogleError when it cannot be read."""
    url = f"{google_api.base('cloudbilling')}/v1/{COMPUTE_ENGINE}/skus"
    skus: Skus = []
    token = ""
    while True:
        page = google_api.call(http, "GET", url, parameters={"pageSize": PAGE, "pageToken": token})
        skus += [sku for sku in page.get("skus", ()) if not OTHER_TERMS.search(sku["description"])]
        print(f"read {len(skus)} parts ...", file=sys.stderr)
        token = page.get("nextPageToken", "")
        if not token:
            return skus


def price_of(row: Row, skus: Skus) -> float | None:
    """What the price list has for a line of the table; None where a part is missing or unknown."""
    parts = list(_parts(row))
    prices = [_price(part, row, skus) for _, part in parts]
    if not parts or None in prices:
        return None
    total = sum(number * (price or 0) for (number, _), price in zip(parts, prices, strict=True))
    return round(total, 6)


def _parts(row: Row) -> Iterator[tuple[float, str]]:
    """How many of which parts make one of a line's item; nothing where that is not known."""
    if row["item"] == "pd-balanced":
        yield 1, "Balanced PD Capacity"
    if row["item"] == "e2-micro":
        yield 0.25, "E2 Instance Core"
        yield 1, "E2 Instance Ram"
    for machine in _machines(row):
        series = machine.machine_type.partition("-")[0]
        if machine.gpu in GPUS and series in SERIES and not machine.local_ssd_gb:
            yield machine.vcpus, f"{SERIES[series]} Core"
            yield machine.ram_gb, f"{SERIES[series]} Ram"
            yield machine.count, GPUS[machine.gpu]


def _machines(row: Row) -> Iterator[catalogue.Machine]:
    for gpu in catalogue.gpus():
        for machine in catalogue.machines(gpu):
            if (machine.machine_type, str(machine.count)) == (row["item"], row["gpus"]):
                yield machine


def _price(part: str, row: Row, skus: Skus) -> float | None:
    """A part's price in a line's region on its terms; None where it is not there just once."""
    found = {
        _usd(sku)
        for sku in skus
        if sku["category"]["usageType"] == USAGE[row["terms"]]
        and row["region"] in sku["serviceRegions"]
        and re.match(rf"{part}( (running )?in |$)", sku["description"].removeprefix(SPOT))
    }
    return found.pop() if len(found) == 1 else None


def _usd(sku: dict[str, Any]) -> float:
    """The highest tier: below it are free amounts."""
    rates = sku["pricingInfo"][0]["pricingExpression"]["tieredRates"]
    price = rates[-1]["unitPrice"]
    return int(price.get("units") or 0) + price.get("nanos", 0) / 1e9


def _same(one: float, other: float) -> bool:
    return abs(one - other) < 0.0001 * other


def _spot_above_standard(rows: list[Row]) -> Iterator[str]:
    """Google sells some other terms as `OnDemand`: then Spot seems dear."""
    prices = {(r["item"], r["gpus"], r["region"], r["terms"]): float(r["usd"]) for r in rows}
    for (item, gpus, region, terms), usd in prices.items():
        standard = prices.get((item, gpus, region, "standard"))
        if terms == "spot" and standard is not None and usd >= standard:
            yield f"{item} in {region}"


def _write(rows: list[Row]) -> None:
    """The table appears whole or not at all."""
    text = io.StringIO()
    table = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    draft = TABLE.with_suffix(".new")
    draft.write_text(text.getvalue())
    draft.replace(TABLE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
