"""One run of the Pulumi CLI: its output in a log file, its events as they happen."""

import errno
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rehearsal.progress import Progress

LONG_RUNNING = ("up", "preview", "refresh", "destroy")
INTERRUPT_GRACE_S = 10.0
LOW_DISK_MIB = 4


@dataclass
class Run:
    """What one CLI run did."""

    returncode: int
    stdout: str
    changes: dict[str, int] = field(default_factory=dict[str, int])
    """Resources by operation (create, update, same ...), from the engine's summary."""
    log: Path | None = None

    @property
    def ok(self) -> bool:
        """The CLI exited 0."""
        return self.returncode == 0

    @property
    def changed(self) -> int:
        """Resources that did not stay the same."""
        return sum(count for op, count in self.changes.items() if op not in ("same", "read"))


def run(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    cwd: Path,
    log: Path,
    progress: Progress | None = None,
    stdin: str | None = None,
) -> Run:
    """Run `pulumi` with these arguments and wait for it.

    On Ctrl-C the engine is interrupted once, as a terminal would, and given
    time to stop by itself; then it is killed. It never outlives this process.
    """
    events = log.with_suffix(".events")
    command = [*dying_with_us(signal.SIGINT), "pulumi", *arguments, "--non-interactive"]
    if arguments[0] in LONG_RUNNING:
        command += ["--color", "never", "--event-log", str(events)]
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**environment, "PULUMI_DEBUG_COMMANDS": "true"},
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    try:
        if stdin is not None and process.stdin is not None:
            process.stdin.write(stdin)
            process.stdin.close()
        changes = _follow(process, events, progress)
    except BaseException:
        _interrupt(process)
        raise
    return Run(process.returncode, log.read_text(), changes, log)


def _follow(
    process: "subprocess.Popen[str]", events: Path, progress: Progress | None
) -> dict[str, int]:
    """Read the engine's events until it ends; returns the summary's resource changes."""
    changes: dict[str, int] = {}
    busy: dict[str, str] = {}
    finished = 0
    position = 0
    while True:
        ended = process.poll() is not None
        if events.exists():
            if events.stat().st_size < position:  # the update's events, in place of the preview's
                position = finished = 0
                busy.clear()
            with events.open("rb") as file:
                file.seek(position)
                for line in iter(file.readline, b""):
                    if not line.endswith(b"\n"):
                        break
                    position += len(line)
                    finished += _note(json.loads(line), busy, changes)
        if progress is not None:
            doing = list(busy.values())[-2:] if finished else ["the program starts"]
            progress.detail("; ".join([f"{finished} done"] * bool(finished) + doing))
        if ended:
            return changes
        if shutil.disk_usage(events.parent).free < LOW_DISK_MIB * 2**20:
            # The CLI does not always say so: without room for its events it waits for ever.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(events.parent))
        time.sleep(0.1)


def _note(event: dict[str, Any], busy: dict[str, str], changes: dict[str, int]) -> int:
    """Take one engine event in; returns 1 when a resource is done."""
    if "summaryEvent" in event:
        changes.clear()
        changes.update(event["summaryEvent"].get("resourceChanges") or {})
    elif "resourcePreEvent" in event:
        metadata = event["resourcePreEvent"]["metadata"]
        if metadata["op"] not in ("same", "read") and metadata.get("provider"):  # no component
            busy[metadata["urn"]] = f"{metadata['op']} {metadata['urn'].rsplit('::', 1)[-1]}"
    elif "resOutputsEvent" in event or "resOpFailedEvent" in event:
        outcome = event.get("resOutputsEvent") or event["resOpFailedEvent"]
        busy.pop(outcome["metadata"]["urn"], None)
        return 1
    elif "diagnosticEvent" in event and event["diagnosticEvent"].get("urn") in busy:
        urn = event["diagnosticEvent"]["urn"]
        text = event["diagnosticEvent"]["message"].strip().splitlines()
        if text:
            busy[urn] = text[-1]
    return 0


def _interrupt(process: "subprocess.Popen[str]") -> None:
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(INTERRUPT_GRACE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def dying_with_us(number: signal.Signals) -> list[str]:
    """Before a command: it gets this signal when the thread that starts it ends, however it ends.

    Not `preexec_fn`: that forks, which the locks of a process with many threads may not outlive.
    """
    return ["setpriv", "--pdeathsig", number.name.removeprefix("SIG"), "--"]
