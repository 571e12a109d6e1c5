"""Why a stack's configuration is refused, in words that say what to do next."""

import re
import reprlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import pulumi
from pydantic.alias_generators import to_camel

NAMESPACE = "llm-endpoint"
HIDDEN = "(not shown)"
MOST_LISTED = 10
"""Problems of one list that a refusal names; the others are as wrong as these."""

_short = reprlib.Repr()
_short.maxstring = _short.maxlong = _short.maxother = 120
_short.maxlevel, _short.maxlist = 3, 60

_KEYS = {"stack": "the stack's name", "project": "gcp:project", "region": "gcp:region"}


class Problem(NamedTuple):
    """One value that cannot work."""

    key: str
    value: str
    """As it may be shown: HIDDEN stands for what may be secret."""
    expected: str
    next: str
    """What to run or change."""

    def __str__(self) -> str:
        return f"{self.key}: {self.value}\n    expected: {self.expected}\n    next: {self.next}"


def shown(value: object) -> str:
    """A value as Python writes it, cut where it is long or deep; no control character is left."""
    return _short.repr(value)


def named(name: str) -> str:
    """A configuration key as somebody gave it: as it is if it is an ordinary one."""
    return name if ordinary(name) else shown(name)


def ordinary(name: str) -> bool:
    """Whether a key can stand in a message and in a shell line as it is."""
    return re.fullmatch("[A-Za-z0-9_.:/-]{1,120}", name) is not None


def key(setting: str) -> str:
    """The configuration key of a setting: `gpu_count` is `llm-endpoint:gpuCount`."""
    return _KEYS.get(setting) or f"{NAMESPACE}:{to_camel(setting)}"


def command(setting: str, value: object, index: int | None = None) -> str:
    """The command that gives a setting a value; a list's at `index`."""
    name = key(setting) if index is None else f"--path '{key(setting)}[{index}]'"
    dashes = "-- " if str(value).startswith("-") else ""  # else the CLI takes it for its own flag
    return f"pulumi config set {name} {dashes}{value}"


def refusal(problems: Iterable[Problem]) -> pulumi.RunError:
    """One error that lists every problem; Pulumi prints it without a traceback."""
    listed = "\n\n  ".join(map(str, _bounded([*problems])))
    return pulumi.RunError(
        f"This stack's configuration cannot work; nothing was changed.\n\n  {listed}\n"
    )


def _bounded(problems: Sequence[Problem]) -> Iterable[Problem]:
    """The problems without most of those of a list that is wrong from end to end."""
    seen: dict[str, int] = {}
    for problem in problems:
        owner, bracket, _ = problem.key.partition("[")
        seen[owner] = seen.get(owner, 0) + 1
        if not bracket or seen[owner] <= MOST_LISTED:
            yield problem
    for owner, count in seen.items():
        if count > MOST_LISTED and any(it.key.startswith(f"{owner}[") for it in problems):
            more = count - MOST_LISTED
            yield Problem(owner, f"{more} more", "the same of these", "correct the whole list")
