"""What a group of machines is at, looked at while something else waits for it.

Machines report their boot themselves, and Google tells why a group gets none: both are known long
before anything answers, or does not.
"""

import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from scripts import boot_phases
from scripts.google_api import GoogleError
from scripts.machine_group import Failure, Machine, MachineGroup

POLL_SECONDS = 2.0
"""Creation errors are on the screen within this and a call's length."""
RECENT_SECONDS = 3600.0
"""Errors that are older are of another `up`."""

QUOTAS = "https://console.cloud.google.com/iam-admin/quotas"
SHORT_OF_GPUS = re.compile("RESOURCE_POOL_EXHAUSTED|STOCKOUT|RESOURCE_EXHAUSTED")
SHORT_OF_QUOTA = re.compile("QUOTA")
NO_QUOTA = re.compile(r"Limit: 0(\.0)?\b")
NOT_THERE = re.compile("NOT_FOUND|INVALID_FIELD|INVALID_USAGE|UNSUPPORTED")


class News(NamedTuple):
    """Something that a person wants to know at once."""

    lines: Sequence[str]
    hopeless: bool
    """Waiting will not help."""


def remedy(failure: Failure) -> str:
    """What to do about it."""
    if SHORT_OF_GPUS.search(failure.code):
        return (
            "the group goes on trying in all of its zones; to look elsewhere, set gcp:region or"
            " llm-endpoint:zones, another llm-endpoint:gpu, or llm-endpoint:provisioning standard"
        )
    if NO_QUOTA.search(failure.message):
        return f"ask for quota, which new projects do not have: {QUOTAS}"
    if SHORT_OF_QUOTA.search(failure.code):
        return f"the group goes on trying; free what uses up the quota, or ask for more: {QUOTAS}"
    if NOT_THERE.search(failure.code):
        return "set llm-endpoint:zones or gcp:region where there is one, then: pulumi up"
    return "the group goes on trying; the log and the console have more: pulumi stack output"


def hopeless(failures: Iterable[Failure], zones: Iterable[str]) -> bool:
    """Whether a group that got no machine can never get one without somebody's doing.

    A quota of 0 counts for the whole region. What is not there in one zone may be in another.
    """
    absent = {it.zone for it in failures if NOT_THERE.search(it.code)}
    known = set(zones)
    return any(NO_QUOTA.search(it.message) for it in failures) or bool(known and absent >= known)


class Narrator:
    """Tells each kind of failure once, and again when it has spread to another zone."""

    def __init__(self) -> None:
        self._told: dict[str, set[str]] = {}

    def news(self, failures: Iterable[Failure]) -> list[list[str]]:
        """Lines for people, of what was not told before."""
        zones: dict[str, set[str]] = {}
        latest: dict[str, Failure] = {}
        for failure in sorted(failures, key=lambda it: it.at):
            zones.setdefault(failure.code, set()).add(failure.zone)
            latest[failure.code] = failure
        fresh = {code: its for code, its in zones.items() if its != self._told.get(code)}
        self._told |= fresh
        return [
            [
                f"no machine in {', '.join(sorted(its))}: {code}",
                f"  Google: {' '.join(latest[code].message.split())}",
                f"  next: {remedy(latest[code])}",
            ]
            for code, its in fresh.items()
        ]


class GroupWatch:
    """Looks at a group in a thread of its own, until this process ends.

    `tell` gets lines for people: creation errors, and once why Google does not tell anything.
    """

    def __init__(self, group: MachineGroup, tell: Callable[[Sequence[str]], None]) -> None:
        self._group = group
        self._tell = tell
        self._narrator = Narrator()
        self._stopped = threading.Event()
        self.seen = ""
        """What its machines are at, in words; empty where that is not known."""
        self.hopeless = False
        """It will get no machine without somebody's doing."""

    def start(self) -> None:
        """Begin to look."""
        threading.Thread(target=self._run, daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()

    def look(self) -> None:
        """Look once. GoogleError when Google refuses."""
        template = self._group.template()
        machines = [it for it in self._group.machines() if it.template in ("", template)]
        now = datetime.now(UTC)
        failures = [
            it
            for it in self._group.failures()
            if it.template in ("", template) and (now - it.at).total_seconds() < RECENT_SECONDS
        ]
        for lines in self._narrator.news(failures):
            self._tell(lines)
        there = [it for it in machines if it.status]
        if failures and not there:
            self.hopeless = hopeless(failures, self._group.zones())
        self.seen = "; ".join(self._about(it) for it in there[:3]) or "the group has no machine yet"

    def _about(self, machine: Machine) -> str:
        who = f"{machine.name} ({machine.zone})"
        if machine.status in ("PROVISIONING", "STAGING"):
            return f"{who} is being created"
        if machine.status != "RUNNING":
            return f"{who} is {machine.status.lower()}"
        return f"{who} {boot_phases.doing(self._group.phases(machine)) or 'boots'}"

    def _run(self) -> None:
        while not self._stopped.is_set():
            began = time.monotonic()
            try:
                self.look()
            except GoogleError as error:
                self.seen = ""
                if error.status in (401, 403):
                    self._tell([f"(Google does not tell how far it is: {error.message})"])
                    return
            except (KeyError, ValueError, TypeError):
                self.seen = ""  # an answer that is not what it should be: the next may be
            self._stopped.wait(max(0.0, POLL_SECONDS - (time.monotonic() - began)))
