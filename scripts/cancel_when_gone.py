"""Cancel what Google does for a process when that process is gone, however it ended.

Ctrl-C in `pulumi up` reaches no command as a signal that it could act upon: pulumi-command kills
it (exec.CommandContext in its provider/pkg/provider/local/commandOutputs.go). So whoever starts a
build or a job's execution or a machine starts this, too, in a session of its own, and writes to
its standard input the address at which that is cancelled (the last one counts) and, in the end,
DONE. When the input ends without DONE, it is cancelled. Where that is done by another method than
POST, it stands before the address: `DELETE https://...`.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from scripts.google_api import GoogleError, call, session

ROOT = Path(__file__).parents[1]
DONE = "done"
SECRETS = ("HF_TOKEN",)
"""Variables that it has no use for."""


class Interrupted(Exception):
    """Somebody wants a script to end; `number` is the signal."""

    def __init__(self, number: int, *_: object) -> None:
        super().__init__()
        self.number = number


@contextmanager
def watched() -> Generator[Callable[[str], None]]:
    """Takes the address at which to cancel if this process is interrupted, however that happens.

    A failure is no interruption: what goes on without us is waited for next time.
    """
    watcher = subprocess.Popen(
        [sys.executable, "-m", "scripts.cancel_when_gone"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name not in SECRETS},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )
    assert watcher.stdin  # noqa: S101 it was asked for

    def send(line: str) -> None:
        with suppress(OSError):
            print(line, file=watcher.stdin, flush=True)

    try:
        yield send
    except Interrupted:
        raise
    except BaseException:
        send(DONE)
        raise
    else:
        send(DONE)
    finally:
        watcher.stdin.close()
        watcher.wait()


def main() -> None:
    """Wait for the end of standard input."""
    *before, how = [line.strip() for line in sys.stdin] or [DONE]
    if DONE in (*before, how):
        return
    method, _, url = how.rpartition(" ")
    with session() as http, suppress(GoogleError):  # it may have ended by itself
        call(http, method or "POST", url, body=None if method else {})


if __name__ == "__main__":
    main()
