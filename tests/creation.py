"""How long a stack's resources take to be made, by the rehearsal's figures."""

import re
from collections.abc import Collection, Mapping

from rehearsal import figures
from rehearsal.providers import cloud_run, cloudflare, google, storage
from rehearsal.providers.command import COMMAND
from tests.conftest import Declared, Deployment
from tests.stack_config import STACKS

LIVES = {
    row.token: row.life
    for rows in (google.ROWS, cloud_run.ROWS, cloudflare.ROWS, storage.ROWS)
    for row in rows
}
STAGING_S = figures.seconds("job starts")
"""Of the command that waits for the weights: a job's start alone, as models differ."""


def leaves(deployment: Deployment) -> list[Declared]:
    """What exists in a cloud, and commands, in the order of declaration."""
    return [item for item in deployment.resources if not item.type.startswith("llm-endpoint:")]


def short(item: Declared) -> str:
    """A resource's name without the stack's."""
    return re.sub(f"^llm-({'|'.join(STACKS)})-", "", item.name)


def seconds(deployment: Deployment) -> dict[str, float]:
    """Seconds in life by short name."""
    return {short(item): _seconds(item) for item in leaves(deployment)}


def _seconds(item: Declared) -> float:
    if item.type == COMMAND:
        return STAGING_S if short(item) == "staged" else 0.0
    return figures.seconds(LIVES[item.type].create)


def needs(deployment: Deployment) -> dict[str, set[str]]:
    """What each waits for, by short name."""
    names = {item.urn: short(item) for item in leaves(deployment)}
    return {
        short(item): {names[urn] for urn in item.depends_on if urn in names}
        for item in leaves(deployment)
    }


def scheduled(
    seconds: Mapping[str, float], needs: Mapping[str, Collection[str]], at_once: int
) -> dict[str, float]:
    """When each is done where so many are made at a time, whoever could begin first before others.

    This is how Pulumi's engine goes about it; among those that can begin together, the order of
    `seconds`, which is that of their declaration, decides.
    """
    done: dict[str, float] = {}
    running: dict[str, float] = {}
    waiting = [*seconds]
    now = 0.0
    while waiting or running:
        ready = [it for it in waiting if all(other in done for other in needs.get(it, ()))]
        for name in ready[: at_once - len(running)]:
            waiting.remove(name)
            running[name] = now + seconds[name]
        now = min(running.values())
        for name in [it for it, end in running.items() if end == now]:
            done[name] = running.pop(name)
    return done
