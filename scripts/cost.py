"""What a stack costs: every part that is billed, while it serves, while it does not, a month.

    ./scripts/cost [--stack NAME] [--json]

It reads Pulumi.yaml and the stack's own file, and asks nobody. Prices are those of
components/prices.csv; ./scripts/refresh-prices brings them up to date.
"""

import argparse
import json
import sys
import textwrap
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from components import catalogue  # noqa: E402 (the path comes first)
from components.bill import HOURS_A_MONTH, Bill, Line, bill  # noqa: E402
from scripts import command_line, stack_file  # noqa: E402

OLD_DAYS = 90
"""A price that is older is said to be old."""
WIDTH = 100


def main(arguments: list[str]) -> str | None:
    """Print the bill; returns the error for a person, or None."""
    asked = _arguments(arguments)
    try:
        stack = stack_file.read(asked.stack)
    except stack_file.StackFileError as error:
        return str(error)
    found = bill(stack.settings, secrets=2 if stack.has_token else 1)
    if asked.json:
        print(json.dumps(_listed(found), indent=2))
    else:
        print("\n".join(_page(asked.stack, found, datetime.now(UTC).date())))
    return None


def _arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="./scripts/cost",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--stack", default="dev", metavar="NAME", help="the stack (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print the bill as JSON")
    return parser.parse_args(arguments)


def _listed(found: Bill) -> dict[str, Any]:
    """The bill as `--json` prints it: the card of `pulumi stack output cost`, and its lines."""
    return found.card | {
        "region": found.region,
        "lines": [
            {
                "what": line.what,
                "quantity": round(line.quantity, 3),
                "billed": line.billed,
                "usdPerHour": round(line.usd_per_hour, 6) if line.price else None,
                "price": line.price
                and {
                    "usd": line.price.usd,
                    "per": line.price.per,
                    "region": line.price.region,
                    "source": line.price.source,
                    "date": line.price.date,
                },
            }
            for line in found.lines
        ],
        "besides": list(found.besides),
    }


def _page(stack: str, found: Bill, today: date) -> Iterator[str]:
    yield f"Stack {stack}, in {found.region}; US dollars"
    yield ""
    yield f"{'':51}{'a unit':>22}{'$/h':>10}{'$/month':>10}"
    for title, billed in (("While it serves", "serving"), ("Always", "always")):
        yield title
        lines = [line for line in found.lines if line.billed == billed]
        yield from (_row(found, line) for line in lines)
    yield ""
    serving, hours = found.usd_per_hour, found.hours_per_day
    yield _sum("while it serves", serving, serving * HOURS_A_MONTH)
    idle = found.usd_per_month_idle
    yield _sum("while it does not", idle / HOURS_A_MONTH, idle)
    yield _sum(f"at {hours} hours a day (hoursPerDay)", None, found.usd_per_month_planned)
    yield ""
    yield from _notes(found, today)


def _row(found: Bill, line: Line) -> str:
    what = f"  {line.quantity:7.4g}  {line.what}"
    if line.price is None:
        return f"{what:51}{'?':>22}{'?':>10}{'?':>10}"
    mark = "*" if line in found.elsewhere else ""
    unit = f"{line.price.usd:g}{mark} a {line.price.per}"
    hour = line.usd_per_hour
    return f"{what:51}{unit:>22}{hour:>10.4f}{hour * HOURS_A_MONTH:>10.2f}"


def _sum(what: str, hour: float | None, month: float) -> str:
    return f"  {what:71}{'' if hour is None else f'{hour:.4f}':>10}{month:>10.2f}"


def _notes(found: Bill, today: date) -> Iterator[str]:
    yield f"A month has {HOURS_A_MONTH} hours. Free tiers are not taken off."
    if found.elsewhere:
        yield f"*: the price in {catalogue.PRICE_REGION}; the region's own is not known."
    if found.unknown:
        yield f"?: its price is not known here: {', '.join(line.what for line in found.unknown)}."
    dates = sorted(line.price.date for line in found.lines if line.price)
    yield f"Prices of {dates[0]} to {dates[-1]}."
    if (today - date.fromisoformat(dates[0])).days > OLD_DAYS:
        yield f"The oldest are more than {OLD_DAYS} days old: ./scripts/refresh-prices"
    besides = f"Not in the sum: {'; '.join(found.besides)}."
    yield from textwrap.wrap(besides, WIDTH, break_long_words=False)


if __name__ == "__main__":
    command_line.run(main)
