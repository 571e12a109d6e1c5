"""A run of the Pulumi CLI or of a script, to which things happen: stopped, killed, put to sleep."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from rehearsal import engine_run

POLL_S = 0.05
YIELDING = ("nice", "-n", "5")
"""The clouds, and who tries their doors, do not wait for a CLI that starts."""
TRACEBACK = "Traceback (most recent call last)"


class Attempt:
    """A running CLI, from its start until it has ended; or `./scripts/...`, where that is named."""

    def __init__(
        self, arguments: tuple[str, ...], environment: Mapping[str, str], cwd: Path, log: Path
    ) -> None:
        self.log = log
        self.began = time.monotonic()
        self.seconds = 0.0
        self.longest_silence_s = 0.0
        """Between two signs of life on the CLI's output."""
        self.in_time = True
        """Whether it ended by itself."""
        command = [*arguments]
        if not command[0].startswith("./"):
            command = ["pulumi", *arguments, "--non-interactive"]
        if arguments[0] in engine_run.LONG_RUNNING:
            command += ["--color", "never"]
        with log.open("w") as output:
            self._process = subprocess.Popen(
                [*engine_run.dying_with_us(signal.SIGINT), *YIELDING, *command],
                cwd=cwd,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self, limit_s: float) -> "Attempt":
        """Until it ends; one that has not ended by itself after so many seconds is killed."""
        size, heard = 0, time.monotonic()
        while self._process.poll() is None:
            now = time.monotonic()
            if (grown := self.log.stat().st_size) != size:
                size, heard = grown, now
            self.longest_silence_s = max(self.longest_silence_s, now - heard)
            if now - self.began > limit_s:
                self.in_time = False
                self.kill()
            time.sleep(POLL_S)
        self.seconds = time.monotonic() - self.began
        return self

    def interrupt(self) -> None:
        """Ctrl-C."""
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        """The CLI and what it has started end at once, as when a laptop's battery does."""
        self._signal(signal.SIGKILL)

    def sleep(self, seconds: float) -> None:
        """The laptop's lid is closed for so long."""
        self._signal(signal.SIGSTOP)
        time.sleep(seconds)
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, number)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def ok(self) -> bool:
        """Whether it ended by itself, with 0."""
        return self.in_time and self._process.returncode == 0

    @property
    def text(self) -> str:
        """What it has printed."""
        return self.log.read_text(errors="replace")
