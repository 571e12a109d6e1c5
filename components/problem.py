"""Why a stack's configuration is refused, in words that say what to do next."""

from collections.abc import Iterable
from typing import NamedTuple

import pulumi
from pydantic.alias_generators import to_camel

NAMESPACE = "llm-endpoint"
HIDDEN = "(not shown)"

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
    listed = "\n\n  ".join(map(str, problems))
    return pulumi.RunError(
        f"This stack's configuration cannot work; nothing was changed.\n\n  {listed}\n"
    )
