"""How a command that people type comes to its end."""

import os
import sys
from collections.abc import Callable
from typing import NoReturn

INTERRUPTED, UNREAD = 130, 141
"""The statuses that shells have for Ctrl-C, and for an output that nobody reads on."""


def run(main: Callable[[list[str]], int | str | None]) -> NoReturn:
    """Run it with this process's arguments; its outcome ends the process, as with sys.exit.

    In `... | head` it ends without a word. SIGPIPE stays ignored: with its default a connection
    that is closed while something is sent would end the process without a word as well.
    """
    try:
        outcome = main(sys.argv[1:])
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the last flush
        sys.exit(UNREAD)
    sys.exit(outcome)
