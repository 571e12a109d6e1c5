"""What an organisation forbids in its projects: one rule a constraint, as the API writes it."""

from rehearsal.store import Body
from rehearsal.world import World

BOOLEAN = frozenset(
    {
        "compute.disableSerialPortLogging",
        "iam.disableServiceAccountCreation",
    }
)
"""Constraints that are enforced or not; the others list values."""


def rule(world: World, constraint: str) -> Body:
    """The rule that holds; where nobody made one, everything is allowed."""
    default: Body = {"enforce": False} if constraint in BOOLEAN else {"allowAll": True}
    return world.accounts.org_policies.get(constraint, default)


def allows(world: World, constraint: str, value: str) -> bool:
    """Whether a value may be used; of a boolean constraint, whether it is not enforced."""
    found = rule(world, constraint)
    if constraint in BOOLEAN:
        return not found.get("enforce")
    if found.get("denyAll"):
        return False
    listed: Body = found.get("values") or {}
    allowed: list[str] = listed.get("allowedValues") or [value]
    denied: list[str] = listed.get("deniedValues") or []
    return _within(value, allowed) and not _within(value, denied)


def _within(value: str, listed: list[str]) -> bool:
    """Whether one of the values is meant; `in:us-central1-locations` is a place and its zones."""
    return any(
        value in (it, it.removeprefix("under:"), it.removeprefix("in:").removesuffix("-locations"))
        for it in listed
    )
