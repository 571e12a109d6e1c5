"""Ctrl-C, and worse, at random moments of `pulumi up` and of `pulumi destroy`, as faults.

A moment is one at which a resource, drawn by lot, is being created or deleted: that operation is
slowed down so that it is under way for sure. Then the CLI gets Ctrl-C and ends in good order, or is
killed after Ctrl-C, or is killed at once. After every other one of an `up`, the stack is destroyed
from where it stands before all goes on.
"""

import random
import time
from collections.abc import Iterator
from functools import partial
from typing import Literal

from rehearsal.attempt import Attempt
from rehearsal.errors import RehearsalError
from rehearsal.fault_library.fault import Fault
from rehearsal.scene import LIMIT_S, Scene

How = Literal["Ctrl-C", "Ctrl-C, then killed", "killed"]
HOWS: tuple[How, ...] = ("Ctrl-C", "Ctrl-C, then killed", "killed")
UNDER_WAY_S = 0.3
"""Real seconds, at most, from the beginning of the operation until it is interrupted."""
BETWEEN_S = 0.1
POLL_S = 0.02
REPAIR = "./scripts/repair"
"""What the README says to type after the CLI was killed."""
SOURCE = (
    "https://www.pulumi.com/docs/iac/operations/troubleshooting/interrupted-updates/ and"
    " https://github.com/hashicorp/terraform-provider-google/issues/9874"
)


def moments(count: int, seed: int) -> Iterator[Fault]:
    """So many interruptions of `up`, and of `destroy`; the same for the same seed."""
    for number in range(count):
        how = HOWS[number % len(HOWS)]
        repair = () if how == "Ctrl-C" else (REPAIR,)
        for verb in ("up", "destroy"):
            yield Fault(
                name=f"{verb}-interrupted-{number + 1}",
                life=f"`pulumi {verb}` gets {how} at a random moment.",
                source=SOURCE,
                when=verb,
                begin=(),
                act=partial(interrupt, verb, how, number, seed),
                repair=repair,
            )


def interrupt(
    verb: Literal["up", "destroy"], how: How, number: int, seed: int, scene: Scene
) -> str:
    """Interrupt a command; tells at what."""
    lot = random.Random(f"{seed} {verb} {number}")  # noqa: S311 no secret
    type, name = lot.choice(scene.declared())
    doing, done = ("create", "creating") if verb == "up" else ("delete", "deleting")
    scene.set(f"late-{doing}-{type}")
    running = scene.start(verb, "--yes", "--skip-preview")
    while running.running and f":{type} {name} {done}" not in running.text:
        if time.monotonic() - running.began > LIMIT_S:
            running.kill()
            raise RehearsalError(f"{verb} did not reach {name} within {LIMIT_S:g} s")
        time.sleep(POLL_S)
    if not running.running:
        raise RehearsalError(f"{verb} ended before {name} was reached")
    time.sleep(lot.uniform(0, UNDER_WAY_S))
    _stop(running, how)
    scene.calm()
    if verb == "up" and number % 2:
        _destroy(scene, how)
    return f"{how} while {type} {name} was {done}"


def _stop(running: Attempt, how: How) -> None:
    if how != "killed":
        running.interrupt()
    if how != "Ctrl-C":
        time.sleep(BETWEEN_S if how != "killed" else 0)
        running.kill()
    if not running.wait(LIMIT_S).in_time:
        raise RehearsalError("it did not end")


def _destroy(scene: Scene, how: How) -> None:
    """From where it stands, nothing may stay."""
    if how != "Ctrl-C" and not scene.run(REPAIR).ok:
        raise RehearsalError("the repair ends with an error")
    attempt = scene.destroy()
    if not attempt.ok:
        raise RehearsalError(f"destroy from there ends with an error: {attempt.text[-300:]}")
    if left := scene.leftovers():
        raise RehearsalError(f"destroy from there leaves {', '.join(left)}")
