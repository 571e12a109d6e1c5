"""What Pulumi's state of a stack holds."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from scripts.checks.check import UnknownError

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 60.0
NO_STACK = re.compile(r"no stack named '.*' found")
"""How the CLI says that there is none (pulumi/pulumi, cmd/pulumi/stack: RequireStack)."""

IN_PROJECT = re.compile(r"^(?:projects/)?[^/]+/")
"""The project before an id of Google's; ids of buckets have none."""

Resource = dict[str, Any]


class State(NamedTuple):
    """What Pulumi knows of a stack."""

    protected: Mapping[str, bool]
    """Key of each thing that it has in a cloud -> whether it is protected; see `key`."""
    places: Mapping[str, frozenset[str]]
    """`project`, `region`, `accountId`, `zoneId` -> those in which it has, or had, something."""
    interrupted: bool
    """Whether a command was killed, and something was being created."""
    known: bool = True
    """Whether there is a stack of the name where Pulumi is logged in."""

    def has(self, type: str, id: str) -> bool:
        """Whether it has a thing."""
        return f"{type} {id}" in self.protected


EMPTY = State({}, {}, interrupted=False, known=False)


def read(stack: str) -> State:
    """The state of a stack, empty where Pulumi knows none of the name. UnknownError if it fails."""
    if not shutil.which("pulumi"):
        raise UnknownError(
            "there is no pulumi on the PATH, which knows what the stack has",
            "https://www.pulumi.com/docs/install/",
        )
    command = ["pulumi", "stack", "export", "--stack", stack, "--non-interactive"]
    try:
        run = subprocess.run(  # noqa: S603 - fixed words, and a stack's name
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        because = f"pulumi did not show it within {TIMEOUT_S:g} seconds"
        raise UnknownError(because, " ".join(command)) from None
    if run.returncode and NO_STACK.search(run.stderr):
        return EMPTY
    if run.returncode:
        lines = run.stderr.strip().splitlines() or [f"exit status {run.returncode}"]
        raise UnknownError(f"pulumi does not show it: {lines[-1]}", " ".join(command))
    try:
        return parsed(json.loads(run.stdout))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        because = f"pulumi shows something else ({type(error).__name__}: {error})"
        raise UnknownError(because, " ".join(command)) from None


def parsed(exported: Mapping[str, Any]) -> State:
    """What `pulumi stack export` printed."""
    deployment: Mapping[str, Any] = exported["deployment"] or {}
    resources = [*_in_clouds(deployment.get("resources") or [])]
    pending: list[Mapping[str, str]] = deployment.get("pending_operations") or []

    def said(package: str, *names: str) -> frozenset[str]:
        """What outputs of these names say; those that are secret are objects."""
        ours = [it for it in resources if it["type"].startswith(package)]
        outputs: list[Mapping[str, object]] = [it.get("outputs") or {} for it in ours]
        values = (it.get(name) for it in outputs for name in names)
        return frozenset(it.lower() for it in values if isinstance(it, str))

    seen = {
        "project": said("gcp:", "project"),
        "region": said("gcp:", "region", "location"),
        "accountId": said("cloudflare:", "accountId"),
        "zoneId": said("cloudflare:", "zoneId"),
    }
    return State(
        {f"{it['type']} {key(it['type'], it['id'])}": bool(it.get("protect")) for it in resources},
        seen,
        interrupted=any(it["type"] == "creating" for it in pending),
    )


def _in_clouds(resources: Iterable[Resource]) -> Iterable[Resource]:
    for it in resources:
        if it.get("id") and it["type"].startswith(("gcp:", "cloudflare:")):
            yield it


def key(type: str, id: str) -> str:
    """An id without the project that it lies in, which has a name and a number."""
    return IN_PROJECT.sub("", id, count=1) if type.startswith("gcp:") else id
