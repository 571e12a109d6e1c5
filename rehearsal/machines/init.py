"""The first process of a guest: plays systemd for what a startup script uses, then the guest agent.

`init.py FD`, on the standard library alone, in namespaces that keeper.py made. What systemd would
do at once with a directive that is not in DIRECTIVES is what is done here: warn and go on.
Absent on purpose: dependencies between units but for the order in which a shutdown stops them,
installing (`enable`), timers, sockets, users.
"""

import http.client
import json
import os
import re
import shlex
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

MACHINE: dict[str, Any] = json.loads(Path("/run/rehearsal/machine.json").read_text())
sys.path.insert(0, MACHINE["pythonpath"])

from rehearsal.faults import Faults  # noqa: E402 -- found by the path above

FAULTS = Faults(Path(MACHINE["faults"]))
REBOOT = Path("/run/rehearsal/reboot")
"""Left behind by a guest that wants to boot again."""
SPEED: float = MACHINE["speed"]
UNITS = (Path("/etc/systemd/system"), Path("/run/systemd/system"))
JOURNAL = Path("/run/log/journal.jsonl")
CONTROL = "/run/systemd/private"
METADATA = "metadata.google.internal"
STARTUP_SCRIPT = "/computeMetadata/v1/instance/attributes/startup-script"

DIRECTIVES = {
    "Unit": "Description Documentation After Before Wants Requires StartLimitIntervalSec"
    " StartLimitBurst",
    "Service": "Type ExecStartPre ExecStart ExecStartPost ExecStop ExecStopPost Restart RestartSec"
    " RestartSteps RestartMaxDelaySec TimeoutStartSec TimeoutStopSec TimeoutSec Environment"
    " EnvironmentFile StandardOutput StandardError SyslogIdentifier RemainAfterExit KillMode",
    "Install": "WantedBy",
}
ALWAYS_THERE = {
    "containerd.service": "containerd container runtime",
    "docker.service": "Docker Application Container Engine",
    "google-startup-scripts.service": "Google Compute Engine Startup Scripts",
    "multi-user.target": "Multi-User System",
    "network-online.target": "Network is Online",
}
"""Units of the image that nothing here can stop."""
UNITS_OF_TIME = {"": 1.0, "s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "ms": 0.001}
CLEAN_SIGNALS = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE}
PHASE = re.compile(r"llm-endpoint phase=(\S+) seconds=([\d.]+) status=")

_journal_lock = threading.Lock()


def log(
    identifier: str,
    pid: int,
    message: str,
    unit: str = "",
    console: bool = True,
    invocation: str = "",
) -> None:
    """A line of the journal, and of the serial console where that is asked for."""
    now = time.time()
    entry = {"time": now, "unit": unit, "identifier": identifier, "pid": pid, "message": message}
    entry["invocation"] = invocation
    with _journal_lock:
        with open(JOURNAL, "a") as file:
            file.write(json.dumps(entry) + "\n")
        if console:
            print(f"{identifier}[{pid}]: {message}", flush=True)
    if phase := PHASE.match(message.removeprefix("startup-script: ")):
        event = {"name": phase[1], "start": now - float(phase[2]), "end": now, "life": None}
        with open(MACHINE["timeline"], "a") as file:
            file.write(json.dumps(event) + "\n")
        if FAULTS.strikes(f"reboot-at-{phase[1]}"):
            REBOOT.touch()
            os._exit(1)  # nobody in the guest outlives its first process


class Process:
    """A child of init. Its end is learnt by `reap`, for init must wait for everybody's children."""

    _all: ClassVar[dict[int, "Process"]] = {}
    _lock = threading.Lock()

    def __init__(self, argv: list[str], environment: Mapping[str, str], output: int) -> None:
        self.ended = threading.Event()
        self.status = 0
        """As subprocess gives it: an exit code, or a signal's number negated."""
        with Process._lock:
            self.pid = os.posix_spawnp(
                argv[0],
                argv,
                environment,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, output, 1),
                    (os.POSIX_SPAWN_DUP2, output, 2),
                ],
                setsid=True,
                setsigmask=[],
            )
            Process._all[self.pid] = self

    def kill(self, number: int) -> None:
        """Signal the process and what it started, as KillMode=control-group does."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    @classmethod
    def reap(cls) -> None:
        """Take note of every child that has ended."""
        while True:
            with cls._lock:
                try:
                    pid, status = os.waitpid(-1, os.WNOHANG)
                except ChildProcessError:
                    return
                process = cls._all.pop(pid, None)
            if not pid:
                return
            if process:
                process.status = os.waitstatus_to_exitcode(status)
                process.ended.set()


def describe(status: int) -> str:
    """An exit status in systemd's words."""
    if status < 0:
        return f"code=killed, status={-status}/{signal.Signals(-status).name.removeprefix('SIG')}"
    return f"code=exited, status={status}/{'SUCCESS' if status == 0 else 'FAILURE'}"


def seconds(text: str) -> float:
    """A time span as systemd writes it: `5`, `2min 30s`, `infinity`. ValueError otherwise."""
    if text == "infinity":
        return threading.TIMEOUT_MAX
    parts = re.findall(r"([\d.]+)\s*([a-z]*)\s*", text)
    if not parts:
        raise ValueError(text)
    return sum(float(number) * UNITS_OF_TIME[unit] for number, unit in parts)


class UnitFile:
    """What a unit file says: every value of every known directive."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._values: dict[str, list[str]] = {}
        section = ""
        text = path.read_text().replace("\\\n", " ")
        for number, line in enumerate(map(str.strip, text.splitlines()), 1):
            if not line or line[0] in "#;":
                continue
            if line[0] == "[":
                section = line.strip("[]")
                continue
            key, _, value = (part.strip() for part in line.partition("="))
            if key not in DIRECTIVES.get(section, "").split():
                warning = f"{path}:{number}: Unknown key '{key}' in section [{section}], ignoring."
                log("systemd", 1, warning, self.name)
            self._values.setdefault(key, []).append(value)

    def all(self, key: str) -> list[str]:
        """The values of a directive that may be given several times."""
        return self._values.get(key, [])

    def one(self, key: str, default: str = "") -> str:
        """The last value of a directive."""
        return self._values.get(key, [default])[-1]

    def environment(self) -> dict[str, str]:
        """Environment= and EnvironmentFile=."""
        pairs = [pair for line in self.all("Environment") for pair in shlex.split(line)]
        for file in self.all("EnvironmentFile"):
            path = Path(file.removeprefix("-"))
            if path.exists() or not file.startswith("-"):
                lines = path.read_text().splitlines()
                pairs += [line for line in lines if line.strip() and line[0] not in "#;"]
        return dict(pair.split("=", 1) for pair in pairs)


@dataclass
class Service:
    """A unit at work. `state` is systemd's ActiveState, `detail` its SubState."""

    file: UnitFile
    state: str = "inactive"
    detail: str = "dead"
    main: Process | None = None
    settled: threading.Event = field(default_factory=threading.Event)
    """Set when a start has succeeded or failed."""
    _preparing: Process | None = None
    """The last ExecStartPre."""
    _invocation: str = ""
    """The id of the last start, as its processes know it."""
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    @property
    def name(self) -> str:
        """The unit's name."""
        return self.file.name

    def start(self, file: UnitFile) -> None:
        """Begin to run, unless it runs already."""
        if self._thread and self._thread.is_alive():
            return
        self.file = file
        self._stopping.clear()
        self.settled.clear()
        self._set("activating", "start")
        self._thread = threading.Thread(target=self._supervise, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it, with ExecStop first where it had started. Returns when it is over."""
        if not (self._thread and self._thread.is_alive()):
            return
        self._stopping.set()
        main, preparing = self.main, self._preparing
        if preparing and not preparing.ended.is_set():
            self._terminate(preparing, self._stop_deadline())
        if main and not main.ended.is_set():
            self._say(f"Stopping {self.name} - {self.file.one('Description')}...")
            self._set("deactivating", "stop")
            self._stop_main(main)
        self._thread.join()
        self._say(f"Stopped {self.name} - {self.file.one('Description')}.")

    def _stop_main(self, main: Process) -> None:
        deadline = self._stop_deadline()
        self._run_all("ExecStop", main)
        self._terminate(main, deadline)

    def _stop_deadline(self) -> float:
        limit = seconds(self.file.one("TimeoutStopSec", self.file.one("TimeoutSec", "90")))
        return time.monotonic() + limit

    def _terminate(self, process: Process, deadline: float) -> None:
        process.kill(signal.SIGTERM)
        left = min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX)
        if not process.ended.wait(left):
            self._say(f"{self.name}: State 'stop-sigterm' timed out. Killing.")
            process.kill(signal.SIGKILL)
            process.ended.wait()

    def _supervise(self) -> None:
        restarts = 0
        while True:
            self._set("activating", "start")
            clean = self._run_once()
            self._run_all("ExecStopPost", None)
            restart = self.file.one("Restart", "no")
            wanted = restart == "always" or (restart == "on-failure" and not clean)
            if self._stopping.is_set() or not wanted:
                ended_well = clean or self._stopping.is_set()
                self._set(*(("inactive", "dead") if ended_well else ("failed", "failed")))
                self.settled.set()
                return
            self._set("activating", "auto-restart")
            if self._stopping.wait(self._pause(restarts) / SPEED):
                self._set("inactive", "dead")
                self.settled.set()
                return
            restarts += 1
            self._say(f"{self.name}: Scheduled restart job, restart counter is at {restarts}.")

    def _pause(self, restarts: int) -> float:
        """Seconds of life before the next restart (systemd.service(5), RestartSteps=)."""
        first = seconds(self.file.one("RestartSec", "0.1"))
        steps = int(self.file.one("RestartSteps", "0"))
        last = seconds(self.file.one("RestartMaxDelaySec", str(first)))
        if not steps or last <= first:
            return first
        return first * (last / first) ** (min(restarts, steps) / steps)

    def _run_once(self) -> bool:
        """One life of the service; True when it ended well."""
        description = f"{self.name} - {self.file.one('Description')}"
        self._invocation = uuid.uuid4().hex
        self._say(f"Starting {description}...")
        if not self._run_all("ExecStartPre", None) or self._stopping.is_set():
            return self._stopping.is_set() or self._failed("exit-code")
        command = self.file.one("ExecStart")
        main = self.main = self._spawn(command)
        if self._stopping.is_set():
            self._stop_main(main)
        if self.file.one("Type", "simple") == "oneshot":
            main.ended.wait()
        elif not self._run_all("ExecStartPost", main) and not self._stopping.is_set():
            main.kill(signal.SIGTERM)
            main.ended.wait()
            return self._failed("exit-code")
        # One that has failed by now never was active: what waits must not see it so for a moment.
        if not (main.ended.is_set() and main.status):
            if not self._stopping.is_set():
                self._set("active", "running")
                self._say(f"Started {description}.")
            self.settled.set()
        main.ended.wait()
        clean = main.status == 0 or -main.status in CLEAN_SIGNALS
        if main.status:
            self._say(f"{self.name}: Main process exited, {describe(main.status)}")
        if clean and not self._stopping.is_set():
            self._run_all("ExecStop", main)
        return clean or self._stopping.is_set() or self._failed("exit-code")

    def _failed(self, result: str) -> bool:
        self._say(f"{self.name}: Failed with result '{result}'.")
        self._set("failed", "failed")
        self.settled.set()
        return False

    def _run_all(self, directive: str, main: Process | None) -> bool:
        """Run commands in turn; False when one failed that may not."""
        for command in self.file.all(directive):
            process = self._spawn(command, {"MAINPID": str(main.pid)} if main else {})
            if directive == "ExecStartPre":
                self._preparing = process
                if self._stopping.is_set():  # which `stop` may have set before it could see this
                    process.kill(signal.SIGTERM)
            process.ended.wait()
            if process.status and not command.startswith("-"):
                self._say(f"{self.name}: Control process exited, {describe(process.status)}")
                return False
        return True

    def _spawn(self, command: str, more: Mapping[str, str] | None = None) -> Process:
        argv = shlex.split(command.lstrip("-@:+!"))
        known = {"INVOCATION_ID": self._invocation}
        environment = {**os.environ, **known, **self.file.environment(), **(more or {})}
        identifier = self.file.one("SyslogIdentifier", Path(argv[0]).name)
        console = "console" in self.file.one("StandardOutput", "journal")
        where = (identifier, self.name, console, self._invocation)
        try:
            return spawn(argv, environment, *where)
        except OSError as error:
            self._say(f"{self.name}: Unable to locate executable '{argv[0]}': {error.strerror}")
            return spawn(["/bin/sh", "-c", "exit 203"], environment, *where)

    def _set(self, state: str, detail: str) -> None:
        self.state, self.detail = state, detail

    def _say(self, message: str) -> None:
        log("systemd", 1, message, self.name)


def spawn(
    argv: list[str],
    environment: Mapping[str, str],
    identifier: str,
    unit: str,
    console: bool,
    invocation: str,
) -> Process:
    """Start a process whose output goes to the journal, line by line."""
    reading, writing = os.pipe()
    try:
        process = Process(argv, environment, writing)
    except OSError:
        os.close(reading)
        raise
    finally:
        os.close(writing)

    def copy() -> None:
        with open(reading, errors="replace") as lines:
            for line in lines:
                log(identifier, process.pid, line.rstrip("\n"), unit, console, invocation)

    threading.Thread(target=copy, daemon=True).start()
    return process


class Manager:
    """The units, and what `systemctl` may ask of them."""

    def __init__(self) -> None:
        self._files: dict[str, UnitFile] = {}
        self._services: dict[str, Service] = {}

    def file(self, name: str) -> UnitFile | None:
        """A unit's file as it was when last loaded; only `daemon-reload` looks again."""
        if name not in self._files:
            for folder in UNITS:
                if (folder / name).is_file():
                    self._files[name] = UnitFile(folder / name)
        return self._files.get(name)

    def reload(self) -> None:
        """systemctl daemon-reload"""
        self._files.clear()

    def service(self, name: str) -> Service | None:
        """A unit that is loaded or can be; None when there is no such unit."""
        if name not in self._services:
            file = self.file(name)
            if file is None:
                return None
            self._services[name] = Service(file)
        return self._services[name]

    def start(self, name: str, block: bool) -> bool:
        """Whether it started, as far as is known."""
        service = self.service(name)
        file = self.file(name)
        if service is None or file is None:
            return False
        service.start(file)
        if block:
            service.settled.wait()
        return service.state in ("active", "activating")

    def stop_all(self) -> None:
        """Stop every unit, each when those that started After= it have stopped."""
        services = [*self._services.values()]
        gone = {service.name: threading.Event() for service in services}

        def stop(service: Service) -> None:
            for other in services:
                if service.name in " ".join(other.file.all("After")).split():
                    gone[other.name].wait()
            service.stop()
            gone[service.name].set()

        threads = [threading.Thread(target=stop, args=[it]) for it in services]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def answer(self, verb: str, name: str, block: bool) -> dict[str, Any]:
        """One request of systemctl: {"found", "state", "detail", "description", "pid", "ok"}."""
        if verb == "daemon-reload":
            self.reload()
            return {"found": True, "ok": True}
        if name in ALWAYS_THERE:
            there = {"state": "active", "detail": "running", "pid": 0}
            return {"found": True, "ok": True, "description": ALWAYS_THERE[name], **there}
        service = self.service(name)
        if service is None:
            return {"found": False, "ok": False}
        ok = True
        if verb in ("stop", "restart"):
            halt = threading.Thread(target=service.stop)
            halt.start()
            if block or verb == "restart":
                halt.join()
        if verb in ("start", "restart"):
            ok = self.start(name, block)
        return {
            "found": True,
            "ok": ok,
            "state": service.state,
            "detail": service.detail,
            "description": service.file.one("Description"),
            "pid": service.main.pid if service.main and not service.main.ended.is_set() else 0,
        }

    def serve(self) -> None:
        """Answer systemctl for ever, each request in a thread of its own."""
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.bind(CONTROL)
        listening.listen(64)
        while True:
            connection, _ = listening.accept()
            threading.Thread(target=self._converse, args=[connection], daemon=True).start()

    def _converse(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rw") as stream:
            request = json.loads(stream.readline())
            stream.write(json.dumps(self.answer(**request)) + "\n")


def fetch_startup_script(give_up_s: float = 60) -> bytes | None:
    """The metadata value; None when there is none, or no metadata server for so long."""
    deadline = time.monotonic() + give_up_s
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection(METADATA, timeout=10)
        try:
            connection.request("GET", STARTUP_SCRIPT, headers={"Metadata-Flavor": "Google"})
            answer = connection.getresponse()
            body = answer.read()
            if answer.status in (200, 404):
                return body if answer.status == 200 else None
        except OSError:
            pass  # the metadata server comes up a moment after the machine
        finally:
            connection.close()
        time.sleep(0.02)
    return None


def run_startup_script() -> None:
    """What google-startup-scripts.service does at every boot, in its words."""
    agent, pid = "google_metadata_script_runner", os.getpid()

    def say(message: str) -> None:
        log(agent, pid, message, "google-startup-scripts.service")

    say("Starting startup scripts (version dev).")
    script = fetch_startup_script()
    if not script:
        say("No startup scripts to run.")
        return
    say("Found startup-script in metadata.")
    path = Path("/tmp/metadata-scripts/startup-script")  # noqa: S108 -- where the agent puts it, on the guest's own /tmp
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_bytes(script)
    path.chmod(0o755)
    reading, writing = os.pipe()
    process = Process([str(path)], os.environ, writing)
    os.close(writing)
    with open(reading, errors="replace") as lines:
        for line in lines:
            say("startup-script: " + line.rstrip("\n"))
    process.ended.wait()
    path.unlink()
    if process.status:
        reason = f"exit status {process.status}" if process.status > 0 else "killed"
        say(f'Script "startup-script" failed with error: {reason}')
    else:
        say("startup-script exit status 0")
    say("Finished running startup scripts.")


def in_thread(work: Callable[[], None]) -> None:
    """Run beside the main thread, which only reaps."""
    threading.Thread(target=work, daemon=True).start()


def main() -> None:
    """Boot, then reap until the power button is pressed."""
    os.set_inheritable(int(sys.argv[1]), False)  # closed by our end, and by nothing else
    os.umask(0o022)
    signals = {signal.SIGCHLD, signal.SIGPWR}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    for folder in (*UNITS, JOURNAL.parent, Path(CONTROL).parent):
        folder.mkdir(parents=True, exist_ok=True)
    JOURNAL.touch(0o640)
    os.write(int(sys.argv[1]), b"\n")  # up: commands may be typed
    manager = Manager()
    in_thread(manager.serve)
    in_thread(run_startup_script)
    while signal.sigwait(signals) == signal.SIGCHLD:
        Process.reap()
    log("systemd-logind", os.getpid(), "Power key pressed short.")
    done = threading.Event()

    def shut_down() -> None:
        manager.stop_all()
        done.set()
        os.kill(os.getpid(), signal.SIGCHLD)  # wakes the main thread

    in_thread(shut_down)
    while not done.is_set():
        signal.sigwait(signals)
        Process.reap()
    log("systemd", 1, "Reached target poweroff.target - System Power Off.")


if __name__ == "__main__":
    main()
