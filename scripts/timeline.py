"""Draw where the time went: the last boot of a stack's machine, and the `pulumi up` before it.

    ./scripts/timeline [--stack NAME] [--svg FILE] [--json]

Reads what Pulumi noted of each resource (`pulumi stack export`), and through Google's API when the
machine was made and what it reports of its boot, with the credentials of whoever runs it (gcloud
auth application-default login). Exits 1 when there is nothing to draw, and says why.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from scripts import boot_phases, spans, timeline_drawing  # noqa: E402 (the path comes first)
from scripts.google_api import GoogleError, session  # noqa: E402
from scripts.machine_group import Machine, MachineGroup  # noqa: E402
from scripts.spans import GROUP_TYPE, Span  # noqa: E402


class NothingToDrawError(Exception):
    """Why, and what to do."""


def pulumi(stack: str, *arguments: str) -> Any:
    """What `pulumi stack ...` prints, as JSON. NothingToDrawError when Pulumi does not tell."""
    command = ["pulumi", "stack", *arguments, "--cwd", str(ROOT)]
    command += ["--stack", stack] if stack else []
    try:
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603 - no shell
    except FileNotFoundError:
        raise NothingToDrawError("pulumi is not on the PATH") from None
    if run.returncode:
        raise NothingToDrawError(
            "The stack could not be read (see above).\n  next: ./scripts/timeline --stack NAME"
        )
    return json.loads(run.stdout)


def exported(stack: str) -> tuple[str, list[dict[str, Any]]]:
    """A stack's name and its resources. NothingToDrawError when Pulumi does not tell."""
    resources: list[dict[str, Any]] = pulumi(stack, "export")["deployment"].get("resources") or []
    if not resources:
        raise NothingToDrawError("The stack has no resources.\n  next: pulumi up")
    return resources[0]["urn"].split("::")[0].removeprefix("urn:pulumi:"), resources


def updates(stack: str) -> list[dict[str, Any]]:
    """A stack's last updates, the newest first. NothingToDrawError when Pulumi does not tell."""
    return pulumi(stack, "history", "--json", "--page-size", "20") or []


def group(resources: Sequence[dict[str, Any]]) -> MachineGroup:
    """The group of machines that a stack has. GoogleError without credentials."""
    ids = [it["id"] for it in resources if it["type"] == GROUP_TYPE]
    if not ids:
        raise NothingToDrawError("The stack has no machines yet.\n  next: pulumi up")
    _, project, _, region, _, name = ids[0].split("/")
    return MachineGroup(session(), project, region, name)


def last_boot(machines: MachineGroup) -> tuple[Machine, float]:
    """The machine that was made last, and when. NothingToDrawError when there is none."""
    there = [(machines.created(it).timestamp(), it) for it in machines.machines() if it.status]
    if not there:
        raise NothingToDrawError(
            f"The group {machines.name} has no machine.\n  next: gcloud compute instance-groups"
            f" managed list-errors {machines.name} --region={machines.region}"
            f" --project={machines.project}"
        )
    created_at, machine = max(there)
    return machine, created_at


def story(stack: str) -> tuple[str, list[Span]]:
    """What is drawn, and what it is called. NothingToDrawError, GoogleError."""
    chosen = stack
    stack, resources = exported(chosen)
    machines = group(resources)
    machine, created_at = last_boot(machines)
    before = spans.creation(resources, stack, created_at, updates(chosen))
    phases = machines.phases(machine)
    booted = spans.boot(created_at, phases, before)
    if not booted:
        raise NothingToDrawError(
            f"{machine.name} has reported nothing of its boot: it was made before machines did, its"
            " organisation forbids guest attributes, or it is booting just now."
        )
    after = spans.answer(resources, booted, stack)
    last = booted[-1].end
    what = "From pulumi up to the first answer" if before and after else "The last boot"
    before = [it for it in before if it.start < last]
    going_on = any(it.seconds is None for it in phases if it.name != "prune")
    now = f", which {boot_phases.doing(phases)} just now" if going_on else ""
    title = f"{what}: stack {stack}, {machine.name} in {machine.zone}{now}"
    return title, [*before, *booted, *after]


def document(title: str, found: Sequence[Span], critical: Sequence[Span]) -> dict[str, Any]:
    """The same for machines; times in seconds, `start` from the beginning."""
    began = min(it.start for it in found)
    return {
        "title": title,
        "seconds": round(max(it.end for it in found) - began, 1),
        "critical_seconds": round(sum(it.seconds for it in critical), 1),
        "spans": [
            {
                "name": it.name,
                "part": it.part,
                "start": round(it.start - began, 1),
                "seconds": round(it.seconds, 1),
                "critical": it in critical,
            }
            for it in found
        ],
    }


def main() -> int:
    """Read, and draw."""
    parser = argparse.ArgumentParser(
        prog="./scripts/timeline", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--stack", default="", help="the stack (default: the selected one)")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw a picture as well")
    parser.add_argument("--json", action="store_true", help="print it for machines")
    options = parser.parse_args()
    try:
        title, found = story(options.stack)
    except (NothingToDrawError, GoogleError) as error:
        print(error, file=sys.stderr)
        return 1
    critical = spans.critical(found)
    if options.svg:
        try:
            options.svg.write_text(timeline_drawing.svg(found, critical, title))
        except OSError as error:
            print(f"--svg {options.svg}: {error.strerror}; name another file", file=sys.stderr)
            return 1
    if options.json:
        print(json.dumps(document(title, found, critical), indent=2))
        return 0
    columns = shutil.get_terminal_size((timeline_drawing.COLUMNS, 0)).columns
    print("\n".join([title, *timeline_drawing.text(found, critical, columns)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
