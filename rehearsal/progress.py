"""What is being done and for how long, on a terminal and in a log file."""

import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import TextIO

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
        finally:
            done.set()
            ticker.join()
            self._clear()
            self.line(f"  {outcome:<6} {name:<44} {time.monotonic() - start:6.1f} s")

    def detail(self, text: str) -> None:
        """What the running step is busy with."""
        self._detail = text

    def line(self, text: str = "") -> None:
        """Print a line for good."""
        with self._lock:
            print(text, file=self._out, flush=True)

    def _tick(self, name: str, start: float, done: threading.Event) -> None:
        while not done.wait(0.2 if self._live else QUIET_INTERVAL_S):
            text = f"  ...    {name:<44} {time.monotonic() - start:6.1f} s  {self._detail}"
            if self._live:
                with self._lock:
                    self._out.write(f"\r\x1b[2K{text[:110]}")
                    self._out.flush()
            else:
                self.line(text)

    def _clear(self) -> None:
        if self._live:
            self._out.write("\r\x1b[2K")
