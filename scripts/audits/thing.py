"""Something in a cloud that is a stack's, and looking for many of them side by side."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from scripts.checks import check
from scripts.checks.check import Check, Finding

LIMIT_S = 90.0
"""Seconds until lists that have not come yet are given up: some are asked region by region."""


class Thing(NamedTuple):
    """One thing of a stack's that is there."""

    kind: str
    """In words: `VPC network`."""
    name: str
    where: str
    """Project and place, or Cloudflare's account or zone."""
    id: str
    """As Pulumi's state has it, without the project that may come first; see state.py."""
    delete: str
    """The command that deletes it."""
    type: str = ""
    """Pulumi's type; empty for what a cloud makes by itself."""
    of: str = ""
    """Id of what it goes with, where a cloud has made it for that."""
    stays: str = ""
    """Why it is left on purpose; empty where it is not."""


class Listing(NamedTuple):
    """Where things are looked for. Raises UnknownError where nobody can tell."""

    name: str
    look: Callable[[], Iterable[Thing]]


class Seen(NamedTuple):
    """What came of looking."""

    things: list[Thing]
    """In the order in which they can be deleted."""
    unknown: list[Finding]
    """The lists that did not come, and why."""


def look(listings: Iterable[Listing], limit_s: float = LIMIT_S) -> Seen:
    """Look everywhere at once. Whatever cannot be told is told as that."""
    wanted = list(listings)
    found: dict[str, list[Thing]] = {}

    def ask(listing: Listing) -> str:
        found[listing.name] = list(listing.look())
        return ""

    checks = [Check(it.name, lambda listing=it: ask(listing)) for it in wanted]
    unknown = [it for it in check.run(checks, limit_s) if it.verdict != "ok"]
    missing = {it.name for it in unknown}
    came = (found[it.name] for it in wanted if it.name not in missing)
    # Lists that are read page by page may show a thing twice.
    things = dict.fromkeys(thing for things in came for thing in things)
    return Seen([*things], sorted(unknown, key=lambda it: it.name))
