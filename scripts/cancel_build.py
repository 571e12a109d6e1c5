"""Cancel a build when the process that waits for it is gone, however it ended.

Ctrl-C in `pulumi up` reaches no command as a signal that it could act upon: pulumi-command kills
it (exec.CommandContext in its provider/pkg/provider/local/commandOutputs.go). So
scripts/build_image.py starts this, in a session of its own, and writes to its standard input the
build's name and, in the end, DONE. When that input ends without DONE, the build is cancelled.
"""

import sys
from contextlib import suppress

from scripts import cloud_build
from scripts.google_api import GoogleError, session

DONE = "done"


def main() -> None:
    """Wait for the end of standard input."""
    name, *rest = [line.strip() for line in sys.stdin] or [DONE]
    if DONE in (name, *rest):
        return
    with session() as http, suppress(GoogleError):  # it may have ended by itself
        cloud_build.cancel(http, name)


if __name__ == "__main__":
    main()
