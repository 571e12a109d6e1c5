"""What is being done and for how long, on a terminal and in a log file."""

import shutil
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import TextIO

LIVE_INTERVAL_S = 0.2
QUIET_INTERVAL_S = 10.0
"""Without a terminal, a running step says so this often (nobody should wait 30 s for a word)."""


class Progress:
    """Steps with their duration: one line each when done, and a live line meanwhile."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._live = self._out.isatty()
        self._detail = ""
        self._lock = threading.Lock()

    @contextmanager
    def step(self, name: str) -> Generator[None]:
        """Show `name` with the seconds so far while the block runs, and its outcome afterwards."""
        start = time.monotonic()
        self._detail = ""
        done = threading.Event()
        ticker = threading.Thread(target=self._tick, args=(name, start, done), daemon=True)
        ticker.start()
        outcome = "failed"
        try:
            yield
            outcome = "done"
        except KeyboardInterrupt:
            outcome = "ended"
            raise
        finally:
            done.set()
            ticker.join()
            self.line(_step(outcome, name, start))

    def detail(self, text: str) -> None:
        """What the running step is busy with."""
        self._detail = text

    def line(self, text: str = "") -> None:
        """Print a line for good."""
        with self._lock:
            clear = "\r\x1b[2K" if self._live else ""
            print(f"{clear}{text}", file=self._out, flush=True)

    def _tick(self, name: str, start: float, done: threading.Event) -> None:
        while not done.wait(LIVE_INTERVAL_S if self._live else QUIET_INTERVAL_S):
            if not self._live:
                self.line(f"{_step('...', name, start)}  {self._detail}".rstrip())
                continue
            text = f"  ...    {name}, {time.monotonic() - start:.0f} s: {self._detail}"
            columns = shutil.get_terminal_size().columns - 1  # a full line would wrap
            with self._lock:
                self._out.write(f"\r\x1b[2K{text[:columns]}")
                self._out.flush()


def _step(outcome: str, name: str, start: float) -> str:
    return f"  {outcome:<6} {name:<39} {time.monotonic() - start:6.1f} s"
