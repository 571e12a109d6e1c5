"""What scripts/rehearse runs: see rehearse.py."""

import signal
import sys


def main() -> int:
    """The command line; before it is read, Ctrl-C simply ends the process."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from rehearsal import rehearse

    return rehearse.main()


if __name__ == "__main__":
    sys.exit(main())
