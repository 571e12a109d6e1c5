"""What a fault is: a row of the library."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rehearsal.scene import Scene

Moment = Literal["up", "serving", "update", "destroy"]
Step = Callable[["Scene"], None]

NOT_READY = r"was not ready after"
"""How `up` ends when no machine answers in time."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that goes wrong in life, and what is promised then."""

    name: str
    life: str
    """What happens, in a sentence."""
    source: str
    """Who says that it happens so: an address, a document, or `nothing found: ...`."""
    when: Moment
    """While the stack comes up, serves, is changed, or is destroyed."""
    begin: tuple[Step, ...]
    """How it begins here."""
    end: tuple[Step, ...] = ()
    """How it ends, where that is more than clearing what `sets` has set."""
    says: str = ""
    """A pattern of what the user reads. Empty: the command succeeds, or the endpoint answers again
    by itself."""
    repair: tuple[str, ...] = ()
    """Commands that are told to the user, typed before the next `up`."""
    leaves: str = ""
    """A pattern of types of which something stays that `scripts/audit` then names; empty: none."""
    stack: str = "dev"
    config: Mapping[str, str] = field(default_factory=dict[str, str])
    """Configuration that it needs."""
    act: Callable[["Scene"], str] | None = None
    """What is done while it lasts, in place of what `when` says; returns what was seen."""


def sets(*faults: str) -> Step:
    """Set faults of the world, NAME or NAME:TIMES."""
    return lambda scene: scene.set(*faults)


def creates(type: str, id: str, body: Mapping[str, object]) -> Step:
    """Somebody makes something by hand; `{...}` in values is filled in from the stack."""
    return lambda scene: scene.create(type, id, body)


def removes(type: str, **which: str) -> Step:
    """Somebody deletes the stack's resource of a type by hand."""
    return lambda scene: scene.remove(type, **which)


def edits(type: str, change: Mapping[str, object], **which: str) -> Step:
    """Somebody changes the stack's resource of a type by hand."""
    return lambda scene: scene.edit(type, change, **which)


def kills(module: str) -> Step:
    """A container's process ends at once."""
    return lambda scene: scene.kill(module)


def damages(module: str, pattern: str) -> Step:
    """Files that a container has are cut off."""
    return lambda scene: scene.damage(module, pattern)
