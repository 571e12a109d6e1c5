"""A world in which faults are played, one after the other: what they do to it, and what is seen."""

import os
import signal
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rehearsal import audit, checks, leaks
from rehearsal.attempt import Attempt
from rehearsal.errors import RehearsalError
from rehearsal.faults import Faults, parse
from rehearsal.session import ENDPOINT, Session

SPEED = 600.0
CLOCK = 30.0
"""So many seconds pass in one for the commands that `pulumi up` runs: what they wait for, machines
that boot in real processes, is not compressed as much as the clouds' own time."""
LIMIT_S = 300.0
"""Real seconds in which any command must have ended."""
SUFFERING_S = 20.0
"""Real seconds in which what goes wrong while a stack serves shows to clients, if it ever does."""
PAUSE_S, IN_A_ROW = 0.2, 3
HEALING_S = 90.0
"""Real seconds in which an endpoint that heals must answer again."""
PATIENCE_MIN = 60
"""`readyTimeoutMinutes`, long enough for a machine that gets ready while this one is busy."""
IMPATIENCE_MIN = 10
"""The same, where none will."""


class Scene:
    """One stack in a world of its own."""

    def __init__(self, home: Path, stack: str) -> None:
        self.session = Session(home)
        self.stack = stack
        self.session.own(stack)
        self.session.start_daemon(SPEED, outlives_us=False, clock=CLOCK)
        self.session.prepare_stack(stack)
        self.configure("readyTimeoutMinutes", str(PATIENCE_MIN))
        self.consoles = checks.Consoles(self.session, stack)
        self.faults = Faults(self.session.world / "faults")
        self._endpoint: checks.Endpoint | None = None
        self._declared: list[tuple[str, str]] = []
        self._set: list[str] = []
        self._made: list[tuple[str, str]] = []
        self._count = 0

    def close(self) -> None:
        """End the world."""
        self.session.discard()

    # --- commands -----------------------------------------------------------------------------

    def start(self, *arguments: str, **environment: str) -> Attempt:
        """Start the CLI, or a script of this repository."""
        self._count += 1
        self._endpoint = None  # its outputs may change
        name = arguments[0].rpartition("/")[2]
        log = self.session.logs / f"{self.stack}-{self._count:03d}-{name}.log"
        variables = self.session.environment(self.stack) | environment
        return Attempt(arguments, variables, ENDPOINT.directory, log)

    def run(self, *arguments: str, limit_s: float = LIMIT_S, **environment: str) -> Attempt:
        """Run it to its end."""
        return self.start(*arguments, **environment).wait(limit_s)

    def up(self, patience_min: int = PATIENCE_MIN) -> Attempt:
        """`pulumi up`, which waits so long for an answer."""
        patience = f"llm-endpoint:readyTimeoutMinutes={patience_min}"
        return self.run("up", "--yes", "--skip-preview", "--config", patience)

    def destroy(self) -> Attempt:
        """`pulumi destroy`."""
        return self.run("destroy", "--yes", "--skip-preview")

    def configure(self, key: str, value: str) -> None:
        """`pulumi config set`."""
        path = ("--path",) if "[" in key else ()
        key = key if ":" in key else f"llm-endpoint:{key}"
        self.session.must(self.session.pulumi("config", "set", *path, key, value, stack=self.stack))

    # --- what goes wrong ----------------------------------------------------------------------

    def set(self, *faults: str) -> None:
        """Set faults of the world."""
        for fault in faults:
            name, times = parse(fault)
            self.faults.set(name, times)
            self._set.append(name)

    def create(self, type: str, id: str, body: Mapping[str, object]) -> None:
        """Make something by hand, until all is calm again."""
        config = self.config
        values = {
            "hostname": config["llm-endpoint:hostname"],
            "zone": config["llm-endpoint:cloudflareZoneId"],
            "account": config["llm-endpoint:cloudflareAccountId"],
        }
        filled = {
            key: value.format_map(values) if isinstance(value, str) else value
            for key, value in body.items()
        }
        self.consoles.console("PUT", type, id, filled | {"id": id})
        self._made.append((type, id))

    def remove(self, type: str, **which: str) -> None:
        """Delete the stack's resource of a type by hand."""
        row = self.find(type, **which)
        self.consoles.console("DELETE", type, row["id"])

    def edit(self, type: str, change: Mapping[str, object], **which: str) -> None:
        """Change the stack's resource of a type by hand."""
        row = self.find(type, **which)
        self.consoles.console("PUT", type, row["id"], row["body"] | change)

    def kill(self, module: str) -> None:
        """End the containers that a module stands for. RehearsalError when there is none."""
        found = [*self.processes(module)]
        if not found:
            raise RehearsalError(f"no container of {module} runs")
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def damage(self, module: str, pattern: str) -> None:
        """Cut off the files of a container, named from its root. RehearsalError for none."""
        roots = [Path(f"/proc/{pid}/root") for pid in self.processes(module)]
        found = [path for root in roots for path in root.glob(pattern)]
        if not found:
            raise RehearsalError(f"no container of {module} has {pattern}")
        for path in found:
            os.truncate(path, 8)

    def idle(self) -> list[str]:
        """The faults of `set` that have not happened once."""
        return [name for name in self._set if not self.faults.struck(name)]

    def calm(self) -> None:
        """End what `set` and `create` began. What was removed or edited by hand stays so."""
        while self._set:
            self.faults.clear(self._set.pop())
        while self._made:
            self.consoles.console("DELETE", *self._made.pop())

    # --- what there is ------------------------------------------------------------------------

    @property
    def config(self) -> dict[str, Any]:
        """The stack's plain configuration."""
        return self.session.plain_config(self.stack)

    def declared(self) -> list[tuple[str, str]]:
        """Type, as in `RouterNat`, and name of all that the stack has in a cloud when it is up."""
        if not self._declared:
            self.session.must(
                self.session.pulumi("up", "--yes", "--skip-preview", stack=self.stack)
            )
            self._declared = sorted(
                (it["type"].rpartition(":")[2], it["urn"].rpartition("::")[2])
                for it in self.session.resources(self.stack)
                if it["type"].startswith(("gcp:", "cloudflare:")) and it.get("id")
            )
        return self._declared

    def rows(self) -> list[dict[str, Any]]:
        """Everything in both clouds."""
        return self.consoles.console("GET")

    def find(self, type: str, **which: str) -> dict[str, Any]:
        """The resource of a type whose outputs are so. RehearsalError when there is none."""
        for row in self.rows():
            if row["type"] == type and all(row["body"].get(k) == v for k, v in which.items()):
                return row
        raise RehearsalError(f"there is no {type} with {which}")

    def processes(self, module: str) -> Iterable[int]:
        """The first processes of the containers that a module stands for."""
        daemon = (self.session.daemon or {"pid": 0})["pid"]
        for pid in leaks.guest_processes(daemon):
            with suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if words[1:3] == [b"-m", module.encode()]:
                    yield pid

    def answers(self) -> str:
        """Empty when an ordinary client is answered; else what it sees instead."""
        try:
            self._endpoint = self._endpoint or checks.Endpoint(self.session, self.stack)
            answer = self._endpoint.request("POST", checks.CHAT, self._endpoint.headers)
        except (RehearsalError, OSError, KeyError) as error:
            return str(error)
        return "" if answer.status == 200 else str(answer)

    def suffers(self, limit_s: float = SUFFERING_S) -> str:
        """What a client sees first that is no answer; empty when it is answered all the time."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            if seen := self.answers():
                return seen
            time.sleep(PAUSE_S)
        return ""

    def asked(self, *arguments: str) -> str:
        """What a command prints, whatever becomes of it."""
        return self.run(*arguments).text

    def heals(self, limit_s: float = HEALING_S) -> str:
        """Empty when a client is answered three times in a row in time; else what it sees."""
        deadline, seen, right = time.monotonic() + limit_s, "", 0
        while right < IN_A_ROW:
            seen = self.answers()
            right = 0 if seen else right + 1
            if time.monotonic() > deadline:
                return seen or "it answers now and then"
            time.sleep(PAUSE_S)
        return ""

    def leaks(self) -> list[str]:
        """Every secret that was found where none belongs. There may be no guest to look at."""
        outcomes = leaks.check(self.session, self.stack, self.consoles)
        nowhere = " in 0 places"
        return [f"{name}: {it}" for name, ok, it in outcomes if not ok and not it.endswith(nowhere)]

    def leftovers(self) -> list[str]:
        """What of both clouds nobody's state knows."""
        return audit.leftovers(self.session)

    def audited(self) -> list[str]:
        """The names of what `./scripts/audit` finds left over, now that the stack is gone."""
        found = audit.told(self.session, self.stack, "--gone")
        return [it["name"] for it in found["things"] if it["verdict"] == "left over"]
